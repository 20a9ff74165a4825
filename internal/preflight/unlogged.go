package preflight

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
)

// checkUnlogged finds unlogged tables. The remedy gives those a key that would be the
// next blocker once they are logged.
func checkUnlogged(ctx context.Context, e *end) error {
	var tables []*catalog.Table
	var names []string
	for i := range e.tables {
		if t := &e.tables[i]; t.Unlogged {
			tables, names = append(tables, t), append(names, t.Ident.String())
		}
	}
	if len(tables) == 0 {
		return nil
	}
	var sql []string
	if e.needs != nil {
		sql = e.needs.keys.give("unlogged-tables", e.needs.unlogged)
	}
	logged, err := setLogged(ctx, e.conn, tables)
	if err != nil {
		return err
	}
	sql = append(append(sql, logged...), "-- or go without their rows: --accept unlogged-tables")
	e.add(Finding{Code: "unlogged-tables", Severity: Blocker, Side: e.Side, Objects: names, Remedy: statements(sql...),
		Text: fmt.Sprintf("%s: changes of unlogged tables are not replicated", plural(len(names), "unlogged table"))})
	return nil
}

// unloggedKeysSQL lists the foreign keys among the tables $1: table, referenced
// table, and how to drop and add the key.
const unloggedKeysSQL = `
SELECT conrelid, confrelid,
	pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I', pg_catalog.format('%I.%I', n.nspname, c.relname), conname),
	pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I %s', pg_catalog.format('%I.%I', n.nspname, c.relname), conname, pg_catalog.pg_get_constraintdef(k.oid))
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE contype = 'f' AND conrelid <> confrelid AND conrelid = ANY ($1) AND confrelid = ANY ($1)
ORDER BY k.oid`

// setLogged makes tables logged. No logged table may refer to one that is not: those
// that are referred to come first, and keys in a circle are made anew.
func setLogged(ctx context.Context, q catalog.Querier, tables []*catalog.Table) ([]string, error) {
	type key struct {
		Table, References uint32
		Drop, Add         string
	}
	var oids []uint32
	for _, t := range tables {
		oids = append(oids, t.OID)
	}
	rows, err := q.Query(ctx, unloggedKeysSQL, oids)
	if err != nil {
		return nil, err
	}
	keys, err := pgx.CollectRows(rows, pgx.RowToStructByPos[key])
	if err != nil {
		return nil, err
	}
	var drop, logged, add []string
	for left := slices.Clone(tables); len(left) > 0; {
		waits := func(t *catalog.Table) bool {
			return slices.ContainsFunc(keys, func(k key) bool {
				return k.Table == t.OID && slices.ContainsFunc(left, func(l *catalog.Table) bool { return l.OID == k.References })
			})
		}
		if next := slices.IndexFunc(left, func(t *catalog.Table) bool { return !waits(t) }); next >= 0 {
			logged = append(logged, fmt.Sprintf("ALTER TABLE %s SET LOGGED", left[next].Ident))
			left = slices.Delete(left, next, next+1)
			continue
		}
		keys = slices.DeleteFunc(keys, func(k key) bool { // a circle: cut it at the first
			if k.Table != left[0].OID {
				return false
			}
			drop, add = append(drop, k.Drop), append(add, k.Add)
			return true
		})
	}
	return slices.Concat(drop, logged, add), nil
}
