// Package catalog reads what a database holds, as plain structs. It changes
// nothing and knows nothing of migrations.
package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// Querier is a session to read with: a connection or a transaction, such as one
// that has imported a snapshot.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ours excludes what is never part of a migration: the servers' own schemas,
// pgbaton's, and what an extension brings along. The relation's alias is c, its
// namespace's n.
const ours = `n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton')
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
		WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid AND e.deptype = 'e')`

// Sequence is a sequence of any kind: owned by a column, an identity, or nobody's.
type Sequence struct {
	postgres.Ident
	OID    uint32 `json:"-"`
	Config bool   `json:"-"` // an extension's
}

// Sequences lists the sequences that a migration includes, by name, and those that
// extensions keep for the user.
func Sequences(ctx context.Context, q Querier, sel Selection) ([]Sequence, error) {
	included, args, err := sel.condition(ctx, q, "S")
	if err != nil {
		return nil, err
	}
	rows, err := q.Query(ctx, `
		SELECT n.nspname, c.relname, c.oid, NOT (`+ours+`)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND (`+ours+included+` OR CASE c.relkind WHEN 'S' THEN `+isConfig+` END)
		ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Sequence, err error) {
		err = row.Scan(&s.Schema, &s.Name, &s.OID, &s.Config)
		return s, err
	})
}

// MatView is a materialized view.
type MatView struct {
	postgres.Ident
	Owner        string
	Populated    bool // false: WITH NO DATA
	Concurrently bool // a usable unique index allows REFRESH ... CONCURRENTLY
}

// MatViews lists the materialized views that a migration includes, so that each
// comes after those it reads, directly or through plain views.
func MatViews(ctx context.Context, q Querier, sel Selection) ([]MatView, error) {
	included, args, err := sel.condition(ctx, q, "m")
	if err != nil {
		return nil, err
	}
	rows, err := q.Query(ctx, `
		WITH RECURSIVE reads AS ( -- view -> relation it reads
			SELECT DISTINCT r.ev_class AS view, d.refobjid AS rel
			FROM pg_catalog.pg_rewrite r
			JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
				AND d.objid = r.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
			JOIN pg_catalog.pg_class v ON v.oid = d.refobjid AND v.relkind IN ('v', 'm')
			WHERE d.refobjid <> r.ev_class
		), depth (oid, level) AS (
			SELECT oid, 0 FROM pg_catalog.pg_class WHERE relkind IN ('v', 'm')
			UNION
			SELECT reads.view, depth.level + 1 FROM depth JOIN reads ON reads.rel = depth.oid
			WHERE depth.level < 100
		)
		SELECT n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner), c.relispopulated,
			EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique
				AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'm' AND `+ours+included+`
		ORDER BY (SELECT max(level) FROM depth WHERE depth.oid = c.oid), n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (v MatView, err error) {
		err = row.Scan(&v.Schema, &v.Name, &v.Owner, &v.Populated, &v.Concurrently)
		return v, err
	})
}
