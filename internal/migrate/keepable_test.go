package migrate

import (
	"fmt"
	"slices"
	"testing"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// plain is a table of one column.
func plain(oid uint32, name string, bytes int64) catalog.Table {
	return catalog.Table{Ident: postgres.Ident{Schema: "s", Name: name}, OID: oid, Bytes: bytes, Columns: []catalog.Column{{Name: "id", Type: "integer"}}}
}

func names(tables []catalog.Table) (names []string) {
	for _, t := range tables {
		names = append(names, t.Name)
	}
	return names
}

// TestKeepable: what stays of two groups that an interrupted run has left, and what must
// not. Of a and b the rows are there under group one, of c under group two; d is not
// copied.
func TestKeepable(t *testing.T) {
	t.Parallel()
	const one, two = "one", "two"
	type remains struct {
		left   leftovers
		tables []catalog.Table
	}
	group := func(c *remains, name string, change func(*leftGroup)) {
		g := c.left.groups[name]
		change(&g)
		c.left.groups[name] = g
	}
	for _, test := range []struct {
		name    string
		change  func(*remains)
		kept    string
		changed string
	}{
		{"as it was left", func(*remains) {}, "map[one:[a b] two:[c]]", ""},
		{"slot gone", func(c *remains) { group(c, one, func(g *leftGroup) { g.slot = false }) }, "map[two:[c]]", ""},
		{"publication gone", func(c *remains) { group(c, one, func(g *leftGroup) { clear(g.published) }) }, "map[two:[c]]", ""},
		{"publication gone, and one not logged", func(c *remains) {
			c.tables[0].Unlogged = true
			group(c, one, func(g *leftGroup) { clear(g.published) })
		}, "map[two:[c]]", ""},
		{"stream with a gap", func(c *remains) { group(c, two, func(g *leftGroup) { g.gap = "somebody read from it" }) }, "map[one:[a b]]", ""},
		{"another slot of the same name", func(c *remains) { group(c, one, func(g *leftGroup) { g.point = "0/99" }) }, "map[two:[c]]", ""},
		{"group forgotten", func(c *remains) { delete(c.left.groups, two) }, "map[one:[a b]]", ""},
		{"slot made, its point not noted", func(c *remains) {
			group(c, one, func(g *leftGroup) { g.point = "" })
			for _, name := range []string{"a", "b"} {
				c.left.copied[`"s"."`+name+`"`] = copiedTable{Group: one, OID: 1}
			}
		}, "map[two:[c]]", ""},
		{"copied again elsewhere", func(c *remains) {
			c.left.copied[`"s"."b"`] = copiedTable{Group: two, Point: "0/2", OID: 2}
			group(c, two, func(g *leftGroup) { g.published[c.tables[1].Ident] = true })
		}, "map[one:[a] two:[b c]]", ""},
		{"nothing copied", func(c *remains) { clear(c.left.copied) }, "map[]", ""},
		{"not worth a group", func(c *remains) { c.tables[3].Bytes = 100_000 }, "map[]", ""},
		{"all is copied, and empty", func(c *remains) {
			c.tables, c.left.onTarget = c.tables[:3], c.left.onTarget[:3]
			for i := range c.tables {
				c.tables[i].Bytes = 0
			}
		}, "map[one:[a b] two:[c]]", ""},

		{"column added", func(c *remains) {
			c.tables[3].Columns = append(c.tables[3].Columns, catalog.Column{Name: "x", Type: "text"})
		}, "map[]", `"s"."d"`},
		{"table created", func(c *remains) { c.tables = append(c.tables, plain(5, "e", 1)) }, "map[]", `"s"."e"`},
		{"table without columns created", func(c *remains) {
			c.tables = append(c.tables, catalog.Table{Ident: postgres.Ident{Schema: "s", Name: "e"}, OID: 5})
		}, "map[]", `"s"."e"`},
		{"table created, nothing copied", func(c *remains) { clear(c.left.copied); c.tables = append(c.tables, plain(5, "e", 1)) }, "map[]", ""},
		{"table dropped", func(c *remains) { c.tables = slices.Delete(c.tables, 3, 4) }, "map[]", ""},
		{"table dropped and made again", func(c *remains) { c.tables[0].OID = 9 }, "map[]", `"s"."a"`},
		{"table dropped and made again, of a group that is gone", func(c *remains) {
			c.tables[2].OID = 9
			group(c, two, func(g *leftGroup) { g.slot = false })
		}, "map[one:[a b]]", ""},
		{"two tables with each other's names", func(c *remains) { c.tables[0].OID, c.tables[1].OID = 2, 1 }, "map[]", `"s"."a"`},
		{"taken out of the publication", func(c *remains) {
			group(c, one, func(g *leftGroup) { delete(g.published, c.tables[0].Ident) })
		}, "map[one:[b] two:[c]]", ""},
		{"not logged", func(c *remains) {
			c.tables[0].Unlogged = true
			group(c, one, func(g *leftGroup) { delete(g.published, c.tables[0].Ident) })
		}, "map[one:[a b] two:[c]]", ""},
		{"which table it was is not known", func(c *remains) {
			c.left.copied[`"s"."a"`] = copiedTable{Group: one, Point: "0/1"}
		}, "map[one:[b] two:[c]]", ""},
	} {
		c := remains{tables: []catalog.Table{plain(1, "a", 100), plain(2, "b", 100), plain(3, "c", 100), plain(4, "d", 100)}}
		c.left.onTarget = []catalog.Table{plain(11, "a", 0), plain(12, "b", 0), plain(13, "c", 0), plain(14, "d", 0)}
		c.left.copied = map[string]copiedTable{
			`"s"."a"`: {Group: one, Point: "0/1", OID: 1}, `"s"."b"`: {Group: one, Point: "0/1", OID: 2}, `"s"."c"`: {Group: two, Point: "0/2", OID: 3}}
		c.left.groups = map[string]leftGroup{
			one: {point: "0/1", slot: true, published: map[postgres.Ident]bool{c.tables[0].Ident: true, c.tables[1].Ident: true}},
			two: {point: "0/2", slot: true, published: map[postgres.Ident]bool{c.tables[2].Ident: true, c.tables[3].Ident: true}}}
		test.change(&c)
		tables, changed := keepable(c.left, c.tables)
		kept := map[string][]string{}
		for name, members := range tables {
			kept[name] = names(members)
		}
		why := ""
		if changed != nil {
			why = changed.String()
		}
		if fmt.Sprint(kept) != test.kept || why != test.changed {
			t.Errorf("%s: %v stays, changed %s; want %s, %s", test.name, kept, why, test.kept, test.changed)
		}
	}
}

// TestClosing: groups with tables that stay are kept, all others go.
func TestClosing(t *testing.T) {
	t.Parallel()
	groups := []replication.Group{forwardOf(1), forwardOf(2), forwardOf(4)}
	kept := map[string][]catalog.Table{groups[0].Name(): {plain(1, "a", 1), plain(2, "b", 1)}, groups[2].Name(): {plain(3, "c", 1)}}
	c := closingOf(groups, kept, 5)
	if len(c.keep) != 2 || c.keep[0].Number != 1 || fmt.Sprint(names(c.keep[0].members)) != "[a b]" || c.keep[1].Number != 4 || fmt.Sprint(names(c.keep[1].members)) != "[c]" {
		t.Errorf("kept: %v", c.keep)
	}
	if len(c.drop) != 1 || c.drop[0].Number != 2 {
		t.Errorf("dropped: %v", c.drop)
	}
	if c.rest != 2 {
		t.Errorf("%d tables are left", c.rest)
	}
}
