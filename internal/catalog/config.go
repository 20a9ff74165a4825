package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// isConfig says that a sequence c is one of an extension's whose value the extension
// declares to be the user's
// (https://www.postgresql.org/docs/current/extend-extensions.html#EXTEND-EXTENSIONS-CONFIG-TABLES).
// A role that may not handle a sequence goes without.
const isConfig = `EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE c.oid = ANY (x.extconfig))
	AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_sequence_privilege(c.oid, 'SELECT') AND pg_catalog.has_sequence_privilege(c.oid, 'UPDATE')`

// ConfigTable is a table of an extension with rows of the user's.
type ConfigTable struct {
	postgres.Ident
	OID       uint32
	Extension string
	Condition string   // WHERE and what follows: the user's rows; "" for all
	Columns   []string // without generated ones
	Bytes     int64    // on disk: heap and TOAST
	Readable  bool     // by this session's role
	Writable  bool     // by this session's role, as a side that receives
}

// configSQL lists them. %[1]s leaves generated columns out (12+), %[2]s says whether
// the role may keep triggers and foreign keys from acting.
const configSQL = `
SELECT n.nspname, c.relname, c.oid, x.extname, coalesce(u.condition, ''),
	ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
		WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped %[1]s ORDER BY a.attnum),
	pg_catalog.pg_table_size(c.oid),
	pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT'),
	pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
		AND pg_catalog.has_table_privilege(c.oid, 'INSERT') AND pg_catalog.has_table_privilege(c.oid, 'DELETE') AND %[2]s
FROM pg_catalog.pg_extension x
CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(x.extconfig), pg_catalog.unnest(x.extcondition)) AS u (oid, condition)
JOIN pg_catalog.pg_class c ON c.oid = u.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p'
ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`

// ConfigTables lists the extensions' tables with rows of the user's, by name. They
// come with their extension, whatever a selection leaves out.
func ConfigTables(ctx context.Context, q Querier, v postgres.Version) ([]ConfigTable, error) {
	generated, replica := "AND a.attgenerated = ''", "pg_catalog.current_setting('is_superuser')::bool"
	if v.Major() < 12 {
		generated = ""
	}
	if v.Major() >= 15 {
		replica = "pg_catalog.has_parameter_privilege('session_replication_role', 'SET')"
	}
	rows, err := q.Query(ctx, fmt.Sprintf(configSQL, generated, replica))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t ConfigTable, err error) {
		err = row.Scan(&t.Schema, &t.Name, &t.OID, &t.Extension, &t.Condition, &t.Columns, &t.Bytes, &t.Readable, &t.Writable)
		return t, err
	})
}
