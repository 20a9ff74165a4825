package migrate

import (
	"cmp"
	"slices"
	"time"

	"pgbaton/internal/catalog"
)

// This file decides how many groups there are on a first run, and which tables are in
// which.

const (
	// writesPerWorker is how many rows a second are left to one apply worker before
	// there are two: it keeps up with about twice as many small transactions.
	writesPerWorker = 10_000
	// mostGroups bounds what is made on our own account: each group costs a WAL
	// sender that decodes all that the source writes.
	mostGroups = 4
)

// groupsFor is how many groups so many written rows ask for.
func groupsFor(written int64, within time.Duration) int {
	return max(1, min(mostGroups, 1+int(float64(written)/within.Seconds()/writesPerWorker)))
}

// ties are the tables that foreign keys connect.
func ties(keys []catalog.ForeignKey, partitioned []catalog.PartitionedKey) [][]uint32 {
	ties := make([][]uint32, 0, len(keys)+len(partitioned))
	for _, f := range keys {
		ties = append(ties, []uint32{f.TableOID, f.ReferencesOID})
	}
	for _, k := range partitioned {
		ties = append(ties, k.Tables)
	}
	return ties
}

// pack divides tables into at most n groups, those that are tied to each other
// into the same, the heaviest first into the lightest. There is one group at least, be
// it of nothing: what is created later on belongs somewhere.
func pack(tables []catalog.Table, ties [][]uint32, writes map[uint32]int64, n int) [][]catalog.Table {
	if n == 1 || len(tables) < 2 {
		return [][]catalog.Table{tables}
	}
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
		return cmp.Or(cmp.Compare(b.writes, a.writes), cmp.Compare(b.bytes, a.bytes), cmp.Compare(len(b.tables), len(a.tables)))
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
