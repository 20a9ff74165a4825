package preflight

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// This file has the remedy for every table whose replica identity will not do: a
// key that nobody has to fill.

// keyColumn is the column that the remedy adds.
const keyColumn = "pgbaton_key"

// keyless is a table that needs a key. unusable says that its primary key is not
// fit for a replica identity.
type keyless struct {
	*catalog.Table
	unusable bool
}

// parentsSQL lists who inherits from whom, partitions included.
const parentsSQL = `
SELECT i.inhrelid, i.inhparent, n.nspname, p.relname
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relkind IN ('r', 'p')
JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace
ORDER BY i.inhrelid, i.inhseqno`

// family knows a database's inheritance.
type family struct {
	parents map[uint32][]uint32
	name    map[uint32]postgres.Ident // of those that have children
	typed   map[uint32]bool           // created OF a type: no column can be added to one
}

func readFamily(ctx context.Context, q catalog.Querier) (f family, err error) {
	f = family{parents: map[uint32][]uint32{}, name: map[uint32]postgres.Ident{}, typed: map[uint32]bool{}}
	rows, err := q.Query(ctx, parentsSQL)
	if err != nil {
		return f, err
	}
	var child, parent uint32
	var name postgres.Ident
	if _, err = pgx.ForEachRow(rows, []any{&child, &parent, &name.Schema, &name.Name}, func() error {
		f.parents[child] = append(f.parents[child], parent)
		f.name[parent] = name
		return nil
	}); err != nil {
		return f, err
	}
	if rows, err = q.Query(ctx, `SELECT oid FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p') AND reloftype <> 0`); err != nil {
		return f, err
	}
	typed, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	for _, oid := range typed {
		f.typed[oid] = true
	}
	return f, err
}

// descends says whether a table inherits from another, over any number of levels.
func (f family) descends(child, from uint32) bool {
	return slices.ContainsFunc(f.parents[child], func(p uint32) bool { return p == from || f.descends(p, from) })
}

// keyPlan is the remedy that always works for tables whose identity will not do:
// for each a key that nobody has to fill, or the key that is there and not used.
// Several findings may ask for one table's key, or for those of tables that get the
// column from each other: who runs all remedies must not fail at the second. So
// what belongs together is given once, as a whole.
type keyPlan struct {
	place map[uint32]uint32   // by table: what the column is added to
	sql   map[uint32][]string // by that: the statements
	given map[uint32]string   // by that: the code of the finding that has them
}

// planKeys plans the keys of all tables that need one.
//
// A column comes to a partition by the partitioned table, and to a table's
// children by their parent; an identity column does so from 17 on only, and
// never by inheritance: those get a serial. The key itself is each table's own: a
// partitioned table's would have to hold the partition key.
func planKeys(ctx context.Context, q catalog.Querier, tables []keyless) (*keyPlan, error) {
	p := &keyPlan{place: map[uint32]uint32{}, sql: map[uint32][]string{}, given: map[uint32]string{}}
	if len(tables) == 0 {
		return p, nil
	}
	f, err := readFamily(ctx, q)
	if err != nil {
		return nil, err
	}
	names := map[uint32]postgres.Ident{}
	var columns []uint32 // what a column is added to
	for _, t := range tables {
		at := t.OID
		names[at] = t.Ident
		if !usesItsKey(t) {
			for t.Partition && len(f.parents[at]) > 0 {
				at = f.parents[at][0]
				names[at] = f.name[at]
			}
			columns = append(columns, at)
		}
		p.place[t.OID] = at
	}
	for _, t := range tables { // what has its column from another one belongs there
		for _, c := range columns {
			if f.descends(p.place[t.OID], c) && !usesItsKey(t) {
				p.place[t.OID] = c
			}
		}
	}
	shared := func(at uint32) bool { _, parent := f.name[at]; return parent }
	for _, t := range tables {
		at := p.place[t.OID]
		if len(p.sql[at]) == 0 && !usesItsKey(t) {
			if f.typed[at] {
				p.sql[at] = append(p.sql[at], fmt.Sprintf("ALTER TABLE %s NOT OF", names[at]))
			}
			if shared(at) {
				p.sql[at] = append(p.sql[at], fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s bigserial", names[at], keyColumn))
			}
		}
		p.sql[at] = append(p.sql[at], addKey(t, !shared(at))...)
	}
	return p, nil
}

// give is the remedy of a finding that keys for these tables put an end to.
func (p *keyPlan) give(code string, tables []keyless) []string {
	var sql, elsewhere []string
	for _, t := range tables {
		switch at := p.place[t.OID]; p.given[at] {
		case "":
			p.given[at] = code
			sql = append(sql, p.sql[at]...)
		case code:
		default:
			elsewhere = append(elsewhere, fmt.Sprintf("-- %s: by the remedy of %s", t.Ident, p.given[at]))
		}
	}
	return append(sql, elsewhere...)
}

// usesItsKey says that all a table needs is to use the key it has.
func usesItsKey(t keyless) bool { return t.PrimaryKey && !t.unusable }

// addKey gives one table its key, with the column or, where that is there by then,
// without.
func addKey(t keyless, column bool) []string {
	byDefault := fmt.Sprintf("ALTER TABLE ONLY %s REPLICA IDENTITY DEFAULT", t.Ident)
	if usesItsKey(t) {
		return []string{byDefault}
	}
	// An index's name is the schema's: no two tables' may be the same.
	index := postgres.QuoteIdent(fmt.Sprintf("%s_%d", keyColumn, t.OID))
	byIndex := fmt.Sprintf("ALTER TABLE ONLY %s REPLICA IDENTITY USING INDEX %s", t.Ident, index)
	const identity = "bigint GENERATED BY DEFAULT AS IDENTITY"
	switch {
	case t.PrimaryKey && column:
		return []string{fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s CONSTRAINT %s UNIQUE", t.Ident, keyColumn, identity, index), byIndex}
	case t.PrimaryKey:
		return []string{fmt.Sprintf("ALTER TABLE ONLY %s ADD CONSTRAINT %s UNIQUE (%s)", t.Ident, index, keyColumn), byIndex}
	case column:
		return []string{fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s PRIMARY KEY", t.Ident, keyColumn, identity), byDefault}
	}
	return []string{fmt.Sprintf("ALTER TABLE ONLY %s ADD PRIMARY KEY (%s)", t.Ident, keyColumn), byDefault}
}
