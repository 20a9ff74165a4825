package migrate

import (
	"fmt"
	"testing"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// groupOf is a group of some tables. Its slot is there unless it is closed.
func groupOf(number int, closed bool, tables ...catalog.Table) *group {
	g := &group{Group: forwardOf(number), closed: closed}
	for _, t := range tables {
		g.members = append(g.members, t.Ident)
	}
	if !closed {
		g.slot = &replication.Slot{Name: g.Name(), Snapshot: fmt.Sprint("snapshot of ", number)}
	}
	return g
}

// TestToOpen: what no group has yet goes into one with a number of its own.
func TestToOpen(t *testing.T) {
	t.Parallel()
	a, b, c := plain(1, "a", 1), plain(2, "b", 1), plain(3, "c", 1)
	for _, test := range []struct {
		groups []*group
		rest   string
		number int
	}{
		{nil, "[a b c]", 1},
		{[]*group{groupOf(3, true, b)}, "[a c]", 4},
		{[]*group{groupOf(4, true, a), groupOf(2, true, c)}, "[b]", 5},
		{[]*group{groupOf(1, true, a, b, c)}, "[]", 2},
	} {
		rest, number := toOpen(test.groups, []catalog.Table{a, b, c})
		if fmt.Sprint(names(rest)) != test.rest || number != test.number {
			t.Errorf("%v: %v in group %d, want %s in %d", test.groups, names(rest), number, test.rest, test.number)
		}
	}
}

// TestPlanned: a snapshot must show the tables of all groups, and no others.
func TestPlanned(t *testing.T) {
	t.Parallel()
	a, b, c := plain(1, "a", 1), plain(2, "b", 1), plain(3, "c", 1)
	groups := []*group{groupOf(1, true, a), groupOf(2, false, b)}
	for _, test := range []struct {
		name    string
		shown   []catalog.Table
		members string
		same    bool
	}{
		{"all", []catalog.Table{a, b}, "[b]", true},
		{"one created", []catalog.Table{a, b, c}, "[b]", false},
		{"one dropped", []catalog.Table{a}, "[]", false},
		{"one of a closed group dropped", []catalog.Table{b}, "[]", false},
		{"one dropped, one created", []catalog.Table{a, c}, "[]", false},
	} {
		members, same := planned(groups, groups[1], test.shown)
		if fmt.Sprint(names(members)) != test.members || same != test.same {
			t.Errorf("%s: %v %t", test.name, names(members), same)
		}
	}
	if members, same := planned(groups[:1], nil, []catalog.Table{a}); members != nil || !same {
		t.Errorf("all are closed: %v %t", members, same)
	}
}

// TestApart: tables that are not moved are in no group, and do not count.
func TestApart(t *testing.T) {
	t.Parallel()
	a, b, c := plain(1, "a", 1), plain(2, "b", 1), plain(3, "c", 1)
	in := membership([]*group{groupOf(1, false, a, b), groupOf(2, false, c)})
	tables := []catalog.Table{a, b, c}
	for _, test := range []struct {
		oids []uint32
		want bool
	}{{nil, false}, {[]uint32{1}, false}, {[]uint32{1, 2}, false}, {[]uint32{2, 3}, true}, {[]uint32{3, 99}, false}} {
		if got := apart(tables, test.oids, in); got != test.want {
			t.Errorf("%v: %t", test.oids, got)
		}
	}
	if apart(tables, []uint32{1, 2, 3}, map[postgres.Ident]*group{}) {
		t.Error("a plan has no groups")
	}
}
