package migrate

import (
	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// This file decides what of an interrupted run stays. A table stays only if its slot
// has every change since its rows were copied: rows that are kept without are lost, and
// nothing later on would notice.

// leftovers are what interrupted runs have left.
type leftovers struct {
	copied   map[string]copiedTable // the target's journal, by table
	groups   map[string]leftGroup   // the source's journal, by the name of the group
	onTarget []catalog.Table
}

// leftGroup is a group of an interrupted run.
type leftGroup struct {
	point     string // the consistent point of its slot
	slot      bool   // which is there, and has all its WAL
	published map[postgres.Ident]bool
	gap       string // why its stream is not continuous, "" when it is
}

// stands says whether everything that was written since the slot was made is still to
// be had. A publication without any table is none: it had the marker at least.
func (g leftGroup) stands() bool {
	return g.point != "" && g.slot && len(g.published) > 0 && g.gap == ""
}

// keepable finds the tables whose rows are complete, by the name of their group:
// copied under a slot that is still there, published ever since, and the same on both
// sides by now. changed is the first that is not the same any more: then nothing stays.
func keepable(left leftovers, tables []catalog.Table) (kept map[string][]catalog.Table, changed *postgres.Ident) {
	shapes := map[postgres.Ident]string{}
	for i := range left.onTarget {
		shapes[left.onTarget[i].Ident] = left.onTarget[i].Shape()
	}
	kept = map[string][]catalog.Table{}
	count := 0
	var bytes, total int64
	for _, t := range tables {
		c, isCopied := left.copied[t.Ident.String()]
		g := left.groups[c.Group]
		counts := isCopied && g.stands() && c.Point == g.point
		// One that was dropped and made again, or renamed, is another table.
		if shape, exists := shapes[t.Ident]; !exists || shape != t.Shape() || counts && c.OID != 0 && c.OID != t.OID {
			if len(left.copied) > 0 {
				changed = &t.Ident
			}
			return nil, changed
		}
		delete(shapes, t.Ident)
		total += t.Bytes
		if counts && c.OID == t.OID && (t.Unlogged || g.published[t.Ident]) {
			kept[c.Group] = append(kept[c.Group], t)
			count++
			bytes += t.Bytes
		}
	}
	if len(shapes) > 0 { // dropped on the source
		return nil, nil
	}
	// A group costs a slot, a WAL sender that decodes everything, and a worker.
	if bytes < total/100 && count < len(tables) {
		return nil, nil
	}
	return kept, nil
}

// closing is what becomes of the groups of interrupted runs.
type closing struct {
	keep []keptGroup
	drop []replication.Group
	rest int // how many tables are in none of those that are kept
}

// keptGroup is a group that is closed at some of its tables.
type keptGroup struct {
	replication.Group
	members []catalog.Table
}

// closingOf keeps, of the groups that exist, those that have tables which stay.
func closingOf(groups []replication.Group, kept map[string][]catalog.Table, tables int) closing {
	c := closing{rest: tables}
	for _, g := range groups {
		members := kept[g.Name()]
		if len(members) == 0 {
			c.drop = append(c.drop, g)
			continue
		}
		c.keep = append(c.keep, keptGroup{g, members})
		c.rest -= len(members)
	}
	return c
}
