package migrate

import (
	"cmp"
	"context"
	"slices"
	"time"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// This file divides tables into groups, whose changes are applied in parallel.

const (
	// writesPerWorker is how many rows a second are left to one apply worker before
	// there are two: it keeps up with about twice as many small transactions.
	writesPerWorker = 10_000
	// mostGroups bounds what is made on our own account: each group costs a WAL
	// sender that decodes all that the source writes.
	mostGroups = 4
)

// divide puts tables into groups of about the same number of writes, and of bytes
// where nothing is written. Tables that foreign keys connect stay together.
func (st *start) divide(ctx context.Context, tables []catalog.Table) ([][]catalog.Table, error) {
	if st.Groups == 1 || len(tables) < 2 {
		return [][]catalog.Table{tables}, nil
	}
	if st.Groups == 0 {
		n, err := st.groupsForWrites(ctx)
		if err != nil || n == 1 {
			return [][]catalog.Table{tables}, err
		}
		st.Groups = n
	}
	writes, err := catalog.Writes(ctx, st.SourceConn)
	if err != nil {
		return nil, st.Source.Wrap("reading the statistics of writes", err)
	}
	keys, err := catalog.ForeignKeys(ctx, st.SourceConn)
	if err != nil {
		return nil, st.Source.Wrap("listing foreign keys", err)
	}
	partitioned, err := catalog.PartitionedKeys(ctx, st.SourceConn)
	if err != nil {
		return nil, st.Source.Wrap("listing foreign keys", err)
	}
	ties := make([][]uint32, 0, len(keys)+len(partitioned))
	for _, f := range keys {
		ties = append(ties, []uint32{f.TableOID, f.ReferencesOID})
	}
	for _, k := range partitioned {
		ties = append(ties, k.Tables)
	}
	return pack(tables, ties, writes, st.Groups), nil
}

// watchWrites is how long writes are counted for --groups auto.
const watchWrites = 3 * time.Second

// groupsForWrites is how many groups the writes of now ask for.
func (st *start) groupsForWrites(ctx context.Context) (int, error) {
	count := func() (total int64, err error) {
		byTable, err := catalog.Writes(ctx, st.SourceConn)
		for _, n := range byTable {
			total += n
		}
		return total, st.Source.Wrap("reading the statistics of writes", err)
	}
	before, err := count()
	if err == nil {
		err = postgres.Pause(ctx, watchWrites)
	}
	if err != nil {
		return 0, err
	}
	after, err := count()
	return min(mostGroups, 1+int(float64(after-before)/watchWrites.Seconds()/writesPerWorker)), err
}

// pack divides tables into at most n groups, those that are tied to each other
// into the same, the heaviest first into the lightest.
func pack(tables []catalog.Table, ties [][]uint32, writes map[uint32]int64, n int) [][]catalog.Table {
	parent := map[uint32]uint32{}
	for _, t := range tables {
		parent[t.OID] = t.OID
	}
	find := func(x uint32) uint32 {
		for parent[x] != x {
			parent[x] = parent[parent[x]]
			x = parent[x]
		}
		return x
	}
	for _, tie := range ties {
		first := uint32(0)
		for _, t := range tie {
			if _, moved := parent[t]; !moved {
				continue
			}
			if first == 0 {
				first = t
			}
			parent[find(t)] = find(first)
		}
	}
	type lump struct {
		tables []catalog.Table
		writes int64
		bytes  int64
	}
	var lumps []*lump
	at := map[uint32]*lump{}
	for _, t := range tables {
		root := find(t.OID)
		if at[root] == nil {
			at[root] = &lump{}
			lumps = append(lumps, at[root])
		}
		l := at[root]
		l.tables, l.writes, l.bytes = append(l.tables, t), l.writes+writes[t.OID], l.bytes+t.Bytes
	}
	heavier := func(a, b *lump) int {
		return cmp.Or(cmp.Compare(b.writes, a.writes), cmp.Compare(b.bytes, a.bytes))
	}
	slices.SortStableFunc(lumps, heavier)
	groups := make([]*lump, min(n, len(lumps)))
	for i := range groups {
		groups[i] = &lump{}
	}
	for _, l := range lumps {
		lightest := slices.MaxFunc(groups, heavier)
		lightest.tables = append(lightest.tables, l.tables...)
		lightest.writes, lightest.bytes = lightest.writes+l.writes, lightest.bytes+l.bytes
	}
	divided := make([][]catalog.Table, len(groups))
	for i, g := range groups {
		slices.SortFunc(g.tables, func(a, b catalog.Table) int { return a.Compare(b.Ident) })
		divided[i] = g.tables
	}
	return divided
}
