package migrate

import (
	"slices"
	"strings"
	"testing"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// TestWithheld: foreign keys between groups are kept back, and not restored; those within
// a group, of tables that are not moved, and to rows that are not moved, are not kept back.
func TestWithheld(t *testing.T) {
	t.Parallel()
	a, b, c, out := plain(1, "a", 1), plain(2, "b", 1), plain(3, "c", 1), plain(9, "out", 1)
	p1, p2 := plain(4, "p1", 1), plain(5, "p2", 1)
	in := membership([]*group{groupOf(1, false, a, b, p1), groupOf(2, false, c, p2)})
	part := func(oid uint32, partitioned bool, tables ...uint32) catalog.PartitionedKey {
		k := catalog.PartitionedKey{ForeignKey: key(oid, catalog.Table{Ident: postgres.Ident{Schema: "s", Name: "p"}}, a), Partitioned: partitioned,
			Leaves: []postgres.Ident{p1.Ident, p2.Ident}, Tables: tables}
		k.Comment = "a comment"
		return k
	}
	w := world{tables: []catalog.Table{a, b, c, p1, p2},
		foreignKeys: []catalog.ForeignKey{key(1, a, b), key(2, b, c), key(3, c, a), key(4, out, a), key(5, c, out)},
		partitioned: []catalog.PartitionedKey{part(6, true, 4, 5, 1), part(7, false, 3, 4), part(8, true, 4, 1), part(10, true, 4, 5)},
		lost:        map[uint32]schema.Constraint{5: {OID: 5, Name: "k5"}, 10: {OID: 10, Name: "k10"}}}
	w.foreignKeys[2].Valid = false
	keys, gone := withheld(w, in)
	var held, left []string
	for _, k := range keys {
		text := k.Table.Name + " " + k.Name
		if k.Add != "" {
			text += " add"
		}
		if strings.HasSuffix(k.Add, " NOT VALID") {
			text += " not valid"
		}
		if k.Validate != "" {
			text += " validate"
		}
		if k.Whole != "" {
			text += " whole"
		}
		if k.Comment != "" {
			text += " comment"
		}
		held = append(held, text)
	}
	for _, c := range gone {
		left = append(left, c.Name)
	}
	slices.Sort(left)
	// What is not valid on the source says so in its definition.
	want := []string{"b k2 add not valid validate", "c k3 add", "p k6 whole comment", "p1 k6 add not valid validate", "p2 k6 add not valid validate", "p k7 add not valid validate comment"}
	if !slices.Equal(held, want) {
		t.Errorf("withheld:\n%s\nwant:\n%s", strings.Join(held, "\n"), strings.Join(want, "\n"))
	}
	if want := []string{"k10", "k2", "k3", "k5", "k6", "k7"}; !slices.Equal(left, want) {
		t.Errorf("not restored: %v, want %v", left, want)
	}
	if keys, gone := withheld(world{tables: w.tables, foreignKeys: w.foreignKeys[:3]}, nil); keys != nil || gone != nil {
		t.Errorf("a plan: %v %v", keys, gone)
	}
}
