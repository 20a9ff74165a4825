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
	Writable  bool     // by this session's role and in this session, as a side that receives

	// What tells the extension that its rows have changed: statements of these kinds
	// fire triggers of its own, and nothing of the user's. Under replica none fires.
	Heeds []string // DELETE, INSERT, UPDATE
	Deaf  []string // its statement triggers that none of those would fire
}

// configSQL lists them. %s leaves generated columns out (12+). Whether triggers and
// foreign keys are kept from acting, the session tells: what a role may set, no catalog
// does before 15. The bits are those of pg_trigger.tgtype: 1 for each row, 4 INSERT,
// 8 DELETE, 16 UPDATE.
const configSQL = `
SELECT n.nspname, c.relname, c.oid, x.extname, coalesce(u.condition, ''),
	ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
		WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped %s ORDER BY a.attnum),
	pg_catalog.pg_table_size(c.oid),
	pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT'),
	pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
		AND pg_catalog.has_table_privilege(c.oid, 'INSERT') AND pg_catalog.has_table_privilege(c.oid, 'DELETE')
		AND pg_catalog.current_setting('session_replication_role') = 'replica',
	h.events, ARRAY(SELECT t.tgname::text FROM pg_catalog.pg_trigger t
		WHERE t.tgrelid = c.oid AND t.tgenabled = 'O' AND t.tgtype & 1 = 0 AND t.tgtype & 28 <> 0 AND t.tgtype & h.bits = 0
			AND t.tgfoid = ANY (f.own) ORDER BY t.tgname::text COLLATE "C")
FROM pg_catalog.pg_extension x
CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(x.extconfig), pg_catalog.unnest(x.extcondition)) AS u (oid, condition)
JOIN pg_catalog.pg_class c ON c.oid = u.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
	SELECT ARRAY(SELECT d.objid FROM pg_catalog.pg_depend d
		WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
			AND d.refobjid = x.oid AND d.deptype = 'e')) AS f (own)
CROSS JOIN LATERAL (
	SELECT coalesce(pg_catalog.array_agg(e.event ORDER BY e.event), '{}'), coalesce(pg_catalog.sum(e.bit), 0)::int
	FROM (VALUES ('DELETE', 8, '4'), ('INSERT', 4, '3'), ('UPDATE', 16, '2')) AS e (event, bit, rule)
	WHERE pg_catalog.has_table_privilege(c.oid, e.event)
		AND EXISTS (SELECT FROM pg_catalog.pg_trigger t
			WHERE t.tgrelid = c.oid AND t.tgenabled = 'O' AND t.tgtype & 1 = 0 AND t.tgtype & e.bit <> 0 AND t.tgfoid = ANY (f.own))
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
			WHERE t.tgrelid = c.oid AND t.tgenabled IN ('O', 'A') AND t.tgtype & 1 = 0 AND t.tgtype & e.bit <> 0 AND t.tgfoid <> ALL (f.own))
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_rewrite r
			WHERE r.ev_class = c.oid AND r.ev_enabled IN ('O', 'A') AND r.ev_type = e.rule::"char")) AS h (events, bits)
WHERE c.relkind = 'r' AND c.relpersistence = 'p'
ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`

// ConfigTables lists the extensions' tables with rows of the user's, by name. They
// come with their extension, whatever a selection leaves out.
func ConfigTables(ctx context.Context, q Querier) ([]ConfigTable, error) {
	v := postgres.VersionOf(q)
	generated := "AND a.attgenerated = ''"
	if v.Major() < 12 {
		generated = ""
	}
	rows, err := q.Query(ctx, fmt.Sprintf(configSQL, generated))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t ConfigTable, err error) {
		err = row.Scan(&t.Schema, &t.Name, &t.OID, &t.Extension, &t.Condition, &t.Columns, &t.Bytes, &t.Readable, &t.Writable, &t.Heeds, &t.Deaf)
		return t, err
	})
}
