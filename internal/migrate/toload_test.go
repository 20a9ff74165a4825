package migrate

import (
	"fmt"
	"strings"
	"testing"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
	"pgbaton/internal/tablecopy"
)

// described says what is to be loaded: a table with its snapshot, if its rows are, then its
// indexes, "=" if they are built, and the constraint that is made with them.
func described(l load) (tables, keys string) {
	var list []string
	for _, t := range l.tables {
		text := t.Name
		if t.Snapshot != "" {
			text += "<" + t.Snapshot + ">"
		}
		for _, x := range t.Indexes {
			text += " " + x.Name
			if x.Built {
				text += "="
			}
			if x.Constraint != "" {
				text += "+" + x.Constraint
			}
		}
		list = append(list, text)
	}
	tables = strings.Join(list, ", ")
	list = nil
	for _, f := range l.foreignKeys {
		list = append(list, f.Name)
		if f.Added {
			list[len(list)-1] += "="
		}
	}
	return tables, strings.Join(list, ", ")
}

// key is a foreign key between tables, its OID the number in its name.
func key(oid uint32, from, to catalog.Table) catalog.ForeignKey {
	return catalog.ForeignKey{Name: fmt.Sprint("k", oid), OID: oid, Table: from.Ident, References: to.Ident, TableOID: from.OID, ReferencesOID: to.OID,
		Definition: "FOREIGN KEY (x) REFERENCES " + to.String(), Valid: true}
}

// TestToLoad: a is in group 1, b and c are in group 2; a has a plain index, b a primary key.
func TestToLoad(t *testing.T) {
	t.Parallel()
	a, b, c, out := plain(1, "a", 10), plain(2, "b", 10), plain(3, "c", 10), plain(9, "out", 10)
	of := func(name string) postgres.Ident { return postgres.Ident{Schema: "s", Name: name} }
	w := world{tables: []catalog.Table{a, b, c},
		indexes:     []catalog.Index{{Ident: of("ai"), OID: 21, Table: 1}, {Ident: of("bi"), OID: 22, Table: 2, Constraint: "b_pkey", ConstraintOID: 23}, {Ident: of("oi"), Table: 9}},
		foreignKeys: []catalog.ForeignKey{key(31, b, c), key(32, b, a), key(33, c, b), key(34, out, b), key(35, b, out)},
		lost:        map[uint32]schema.Constraint{35: {OID: 35}}}
	w.foreignKeys[2].Valid = false
	one, two := forwardOf(1).Name(), forwardOf(2).Name()
	const first = "a<snapshot of 1> ai, b<snapshot of 2> bi+b_pkey, c<snapshot of 2>"
	copied := func(tables ...string) map[string]copiedTable {
		m := map[string]copiedTable{}
		for _, t := range tables {
			name, g, _ := strings.Cut(t, "/")
			m[of(name).String()] = copiedTable{Group: map[string]string{"1": one, "2": two}[g], Bytes: 7}
		}
		return m
	}
	built := func(tables ...string) map[string]bool {
		m := map[string]bool{}
		for _, t := range tables {
			m[of(t).String()] = true
		}
		return m
	}
	keys := func(valid bool, names ...string) map[string]bool {
		m := map[string]bool{}
		for _, n := range names {
			table, key, _ := strings.Cut(n, " ")
			m[of(table).String()+" "+key] = valid
		}
		return m
	}
	for _, test := range []struct {
		name         string
		there        thereState
		tables, keys string
		before       int // tables copied
	}{
		{"nothing is there", thereState{}, first, "k31, k33", 0},
		{"rows are there", thereState{copied: copied("a/1", "b/2")}, "a ai, b bi+b_pkey, c<snapshot of 2>", "k31, k33", 2},
		{"rows of another group", thereState{copied: copied("a/2", "b/1")}, first, "k31, k33", 0},
		{"rows and indexes", thereState{copied: copied("a/1", "b/2", "c/2"), built: built("a", "b"),
			indexes: map[postgres.Ident]string{of("ai"): "", of("bi"): "b_pkey"}}, "c", "k31, k33", 3},
		{"index without its constraint", thereState{copied: copied("a/1", "b/2", "c/2"), built: built("a", "b", "c"),
			indexes: map[postgres.Ident]string{of("ai"): "", of("bi"): ""}}, "b bi=+b_pkey", "k31, k33", 3},
		{"index and constraint, but what follows them not", thereState{copied: copied("a/1", "b/2", "c/2"), built: built("a", "c"),
			indexes: map[postgres.Ident]string{of("ai"): "", of("bi"): "b_pkey"}}, "b bi=", "k31, k33", 3},
		{"finished, but without its index", thereState{copied: copied("a/1", "b/2", "c/2"), built: built("a", "b", "c"),
			indexes: map[postgres.Ident]string{of("bi"): "b_pkey"}}, "a ai", "k31, k33", 3},
		{"finished, and its rows gone", thereState{copied: copied("a/1", "c/2"), built: built("a", "b", "c"),
			indexes: map[postgres.Ident]string{of("ai"): "", of("bi"): "b_pkey"}}, "b<snapshot of 2>", "k31, k33", 2},
		{"foreign keys", thereState{copied: copied("a/1", "b/2", "c/2"), built: built("a", "b", "c"), foreignKeys: keys(true, "b k31", "c k33"),
			indexes: map[postgres.Ident]string{of("ai"): "", of("bi"): "b_pkey"}}, "", "", 3},
		{"foreign keys not validated", thereState{copied: copied("a/1", "b/2", "c/2"), built: built("a", "b", "c"), foreignKeys: keys(false, "b k31", "c k33"),
			indexes: map[postgres.Ident]string{of("ai"): "", of("bi"): "b_pkey"}}, "", "k31=", 3}, // k33 is not valid on the source either
		{"foreign keys, and one table to load again", thereState{copied: copied("a/1", "b/2"), built: built("a", "b"), foreignKeys: keys(true, "b k31", "c k33"),
			indexes: map[postgres.Ident]string{of("ai"): "", of("bi"): "b_pkey"}}, "c<snapshot of 2>", "k31, k33", 2},
	} {
		l, err := toLoad(w, membership([]*group{groupOf(1, false, a), groupOf(2, false, b, c)}), test.there)
		tables, keys := described(l)
		if err != nil || tables != test.tables || keys != test.keys {
			t.Errorf("%s: %s; %s; %v\nwant %s; %s", test.name, tables, keys, err, test.tables, test.keys)
		}
		if l.before.TablesCopied != test.before || l.before.BytesCopied != 7*int64(test.before) || l.before.IndexesBuilt != len(test.there.indexes) {
			t.Errorf("%s: before: %+v", test.name, l.before)
		}
	}
	if _, err := toLoad(w, membership([]*group{groupOf(1, true, a), groupOf(2, false, b, c)}), thereState{copied: copied("b/2")}); err == nil {
		t.Error("a closed group's rows are not there, and nobody says so")
	}
	l, err := toLoad(w, nil, thereState{})
	if tables, keys := described(l); err != nil || strings.Count(tables, "<the slot's snapshot>") != 3 || keys != "k31, k32, k33" {
		t.Errorf("a plan: %s; %s; %v", tables, keys, err)
	}
}

// TestInTheWay: a table that foreign keys refer to cannot be emptied, and one that refers
// would be checked against rows that are still to come.
func TestInTheWay(t *testing.T) {
	t.Parallel()
	a, b, c := plain(1, "a", 1), plain(2, "b", 1), plain(3, "c", 1)
	keys := []catalog.ForeignKey{key(1, a, b), key(2, b, a), key(3, a, c), key(4, c, c)}
	for _, test := range []struct {
		tables []tablecopy.Table
		want   string
	}{
		{nil, "[]"},
		{[]tablecopy.Table{{Table: a}}, "[]"}, // its indexes only
		{[]tablecopy.Table{{Table: b, Snapshot: "s"}}, "[k1 k2]"},
		{[]tablecopy.Table{{Table: c, Snapshot: "s"}, {Table: a}}, "[k3 k4]"},
	} {
		got := []string{}
		for _, f := range inTheWay(keys, test.tables) {
			got = append(got, f.Name)
		}
		if fmt.Sprint(got) != test.want {
			t.Errorf("%v: %v, want %s", test.tables, got, test.want)
		}
	}
}
