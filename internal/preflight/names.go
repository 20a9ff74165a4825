package preflight

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// strangeSQL lists the names of the database that are not plain ASCII: of what kind,
// and the beginning of an expression that makes the statement to rename it, by OID,
// for the name itself may not be typed. In a database without an encoding a character
// is a byte.
const strangeSQL = `
WITH r AS (
	SELECT c.oid, c.relname, c.relkind FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE ` + userSchema + ` AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'i', 'I', 'c')
), x AS (
	SELECT 'schema' AS kind, nspname AS name,
		pg_catalog.format('''ALTER SCHEMA %%I RENAME TO %%I'', (SELECT nspname FROM pg_catalog.pg_namespace WHERE oid = %s)', oid) AS rename
	FROM pg_catalog.pg_namespace n WHERE ` + userSchema + `
	UNION ALL
	SELECT 'relation', relname, pg_catalog.format('''ALTER TABLE %%s RENAME TO %%I'', %s::pg_catalog.regclass', oid)
	FROM r WHERE relkind <> 'c' AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = r.oid AND k.contype IN ('p', 'u', 'x'))
	UNION ALL
	SELECT 'column', a.attname, pg_catalog.format('''ALTER %s %%s RENAME %s %%I TO %%I'', %s::pg_catalog.regclass, (SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = %3$s AND attnum = %s)',
		CASE relkind WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, CASE relkind WHEN 'c' THEN 'ATTRIBUTE' ELSE 'COLUMN' END, r.oid, a.attnum)
	FROM r JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid
	WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount = 0 AND relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
	UNION ALL
	SELECT 'constraint', k.conname, pg_catalog.format('''ALTER TABLE %%s RENAME CONSTRAINT %%I TO %%I'', %s::pg_catalog.regclass, (SELECT conname FROM pg_catalog.pg_constraint WHERE oid = %s)', r.oid, k.oid)
	FROM r JOIN pg_catalog.pg_constraint k ON k.conrelid = r.oid WHERE k.coninhcount = 0
	UNION ALL
	SELECT 'trigger', t.tgname, pg_catalog.format('''ALTER TRIGGER %%2$I ON %%1$s RENAME TO %%3$I'', %s::pg_catalog.regclass, (SELECT tgname FROM pg_catalog.pg_trigger WHERE oid = %s)', r.oid, t.oid)
	FROM r JOIN pg_catalog.pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
	UNION ALL
	SELECT 'type', t.typname, pg_catalog.format('''ALTER TYPE %%s RENAME TO %%I'', %s::pg_catalog.regtype', t.oid)
	FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
	WHERE ` + userSchema + ` AND (t.typtype IN ('d', 'e', 'r') OR t.typtype = 'c' AND (SELECT relkind FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid) = 'c')
	UNION ALL
	SELECT 'label of an enum', v.enumlabel, pg_catalog.format('''ALTER TYPE %%s RENAME VALUE %%L TO %%L'', %s::pg_catalog.regtype, (SELECT enumlabel FROM pg_catalog.pg_enum WHERE oid = %s)', v.enumtypid, v.oid)
	FROM pg_catalog.pg_enum v
	UNION ALL
	SELECT 'function', p.proname, pg_catalog.format('''ALTER FUNCTION %%s RENAME TO %%I'', %s::pg_catalog.regprocedure', p.oid)
	FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE ` + userSchema + `
	UNION ALL
	SELECT 'role', rolname, '' FROM pg_catalog.pg_roles
	UNION ALL
	SELECT 'database', pg_catalog.current_database(), ''
)
SELECT kind, pg_catalog.convert_to(name::text, 'SQL_ASCII'), rename FROM x WHERE name::text COLLATE "C" ~ '[^ -~]' ORDER BY kind, name::text COLLATE "C"`

// checkNames refuses names that are not UTF-8, which a database without an encoding
// (SQL_ASCII) may have: the server prints them to no session that takes UTF-8, as ours,
// and what other programs make of them cannot be relied on.
func checkNames(ctx context.Context, e *end) (strange bool, err error) {
	if e.conn.PgConn().ParameterStatus("server_encoding") != "SQL_ASCII" {
		return false, nil
	}
	rows, err := e.conn.Query(ctx, strangeSQL)
	if err != nil {
		return false, e.Wrap("reading the names of the database", err)
	}
	var kind, rename string
	var bytes []byte
	var objects, remedy []string
	_, err = pgx.ForEachRow(rows, []any{&kind, &bytes, &rename}, func() error {
		name := string(bytes)
		if utf8.ValidString(name) {
			return nil
		}
		objects = append(objects, fmt.Sprintf("%s %+q", kind, name))
		if rename == "" {
			remedy = append(remedy, fmt.Sprintf("-- ALTER %s, from another database, for %+q", strings.ToUpper(kind), name))
			return nil
		}
		remedy = append(remedy, fmt.Sprintf("DO $do$ BEGIN EXECUTE pg_catalog.format(%s, %s); END $do$", rename, postgres.QuoteLiteral(plainName(name))))
		return nil
	})
	if err != nil || len(objects) == 0 {
		return false, e.Wrap("reading the names of the database", err)
	}
	e.add(Finding{Code: "names-not-utf8", Severity: Blocker, Side: e.Side, Objects: objects,
		Text:   fmt.Sprintf("the database has no encoding (SQL_ASCII), and %s that %s not UTF-8", plural(len(objects), "name"), map[bool]string{true: "is", false: "are"}[len(objects) == 1]),
		Remedy: statements(append(remedy, "-- and in the application; what else is to be found shows afterwards")...)})
	return true, nil
}

// plainName spells a name in ASCII: a byte beyond it becomes _ and its two hex digits.
func plainName(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if c >= ' ' && c <= '~' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}
