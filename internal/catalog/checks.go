package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// Check is a CHECK constraint, of a table or of a domain, that calls a function
// which is not the server's own: it may look into any table.
type Check struct {
	Of         postgres.Ident // the table or domain
	Domain     bool
	Name       string
	Definition string // as pg_get_constraintdef prints it, NOT VALID included when it is not
	Valid      bool
	Comment    string
}

// callsUserCode says that a constraint k calls a function, by itself or by an
// operator, that did not come with the server.
const callsUserCode = `EXISTS (SELECT FROM pg_catalog.pg_depend d
		WHERE d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.objid = k.oid AND d.refobjid >= 16384
			AND d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass))`

// checksSQL lists such constraints that nothing else inherits to where they are. A
// domain that is part of an array, a composite type or a range is left out: the
// server cannot look at the rows of these when a constraint is added. %s leaves out
// what is not enforced (18+).
const checksSQL = `
SELECT n.nspname, c.relname, false, k.conname, pg_catalog.pg_get_constraintdef(k.oid), k.convalidated, coalesce(pg_catalog.obj_description(k.oid, 'pg_constraint'), '')
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'c' AND k.coninhcount = 0 AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' %[1]s
	AND ` + ours + ` AND ` + callsUserCode + `
UNION ALL
SELECT n.nspname, t.typname, true, k.conname, pg_catalog.pg_get_constraintdef(k.oid), k.convalidated, coalesce(pg_catalog.obj_description(k.oid, 'pg_constraint'), '')
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_type t ON t.oid = k.contypid
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE k.contype = 'c' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton')
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
		WHERE e.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND e.objid = t.oid AND e.deptype = 'e')
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class r ON r.oid = a.attrelid
		WHERE NOT a.attisdropped AND (a.atttypid = t.typarray AND t.typarray <> 0 OR a.atttypid = t.oid AND r.relkind = 'c'))
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_type o WHERE o.typbasetype = t.typarray AND t.typarray <> 0)
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_range g WHERE g.rngsubtype = t.oid)
	AND ` + callsUserCode + `
ORDER BY 3, 1, 2, 4`

// UserChecks lists the CHECK constraints that call the user's functions. Those that
// a table inherits come with the table where they begin.
func UserChecks(ctx context.Context, q Querier) ([]Check, error) {
	v := postgres.VersionOf(q)
	enforced := ""
	if v.Major() >= 18 {
		enforced = "AND k.conenforced"
	}
	rows, err := q.Query(ctx, fmt.Sprintf(checksSQL, enforced))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (c Check, err error) {
		err = row.Scan(&c.Of.Schema, &c.Of.Name, &c.Domain, &c.Name, &c.Definition, &c.Valid, &c.Comment)
		return c, err
	})
}
