package migrate

import (
	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// This file decides which table is in which group once there are groups: in exactly one.

// toOpen are the tables that are in no group yet, and the first number for a group of
// theirs that no other has.
func toOpen(groups []*group, tables []catalog.Table) (rest []catalog.Table, number int) {
	number = 1
	for _, g := range groups {
		number = max(number, g.Number+1)
	}
	in := membership(groups)
	for _, t := range tables {
		if in[t.Ident] == nil {
			rest = append(rest, t)
		}
	}
	return rest, number
}

// membership is each table's group.
func membership(groups []*group) map[postgres.Ident]*group {
	in := map[postgres.Ident]*group{}
	for _, g := range groups {
		for _, t := range g.members {
			in[t] = g
		}
	}
	return in
}

// planned are the tables of a group, as a snapshot shows them. same says that the groups
// together hold all tables which it shows, and no others: one that none holds would be
// copied by nobody, or never streamed.
func planned(groups []*group, g *group, tables []catalog.Table) (members []catalog.Table, same bool) {
	byName := map[postgres.Ident]catalog.Table{}
	for _, t := range tables {
		byName[t.Ident] = t
	}
	count := 0
	for _, other := range groups {
		for _, name := range other.members {
			t, exists := byName[name]
			if !exists {
				return nil, false
			}
			if count++; other == g {
				members = append(members, t)
			}
		}
	}
	return members, count == len(tables)
}

// apart says whether some of the tables, which are given by their OIDs, are in
// different groups.
func apart(tables []catalog.Table, oids []uint32, in map[postgres.Ident]*group) bool {
	among := map[uint32]bool{}
	for _, oid := range oids {
		among[oid] = true
	}
	groups := map[*group]bool{}
	for _, t := range tables {
		if among[t.OID] {
			groups[in[t.Ident]] = true
		}
	}
	return len(groups) > 1
}
