package migrate

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// TestPack: tables that are tied stay together, writes are spread evenly, and
// bytes where nothing is written.
func TestPack(t *testing.T) {
	t.Parallel()
	table := func(oid uint32, bytes int64) catalog.Table {
		return catalog.Table{Ident: postgres.Ident{Schema: "s", Name: fmt.Sprintf("t%02d", oid)}, OID: oid, Bytes: bytes}
	}
	tables := []catalog.Table{table(1, 10), table(2, 10), table(3, 10), table(4, 500), table(5, 400), table(6, 10), table(7, 300)}
	ties := [][]uint32{{1, 2}, {2, 3}, {3, 99}} // 99 is not moved
	writes := map[uint32]int64{1: 100, 6: 250, 3: 100}
	for n, want := range map[int]string{
		1: "[[t01 t02 t03 t04 t05 t06 t07]]",
		2: "[[t06] [t01 t02 t03 t04 t05 t07]]", // 250 writes against 200: the rest goes to the lighter
		3: "[[t06] [t01 t02 t03] [t04 t05 t07]]",
		9: "[[t06] [t01 t02 t03] [t04] [t05] [t07]]", // no group of nothing
	} {
		var got [][]string
		for _, g := range pack(tables, ties, writes, n) {
			var names []string
			for _, t := range g {
				names = append(names, t.Name)
			}
			got = append(got, names)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%d groups: %v, want %s", n, got, want)
		}
	}
}

// TestPackAny: whatever the tables and ties are, each table is in exactly one group, those
// that are tied to each other in the same one, and no group is empty but a sole one.
func TestPackAny(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.IntRange(0, 12).Draw(t, "tables")
		var tables []catalog.Table
		writes := map[uint32]int64{}
		for i := range number {
			tables = append(tables, plain(uint32(i+1), fmt.Sprintf("t%02d", i+1), rapid.Int64Range(0, 5).Draw(t, "bytes")))
			writes[uint32(i+1)] = rapid.Int64Range(0, 5).Draw(t, "writes")
		}
		oid := rapid.Uint32Range(1, 14)
		tied := rapid.SliceOfN(rapid.SliceOfN(oid, 1, 4), 0, 6).Draw(t, "ties")
		n := rapid.IntRange(1, 6).Draw(t, "n")
		groups := pack(tables, tied, writes, n)
		if len(groups) < 1 || len(groups) > n {
			t.Fatalf("%d groups of at most %d", len(groups), n)
		}
		in := map[uint32]int{}
		for i, members := range groups {
			if len(members) == 0 && len(groups) > 1 {
				t.Fatalf("group %d is empty", i)
			}
			for _, m := range members {
				if _, twice := in[m.OID]; twice {
					t.Fatalf("%s is in two groups", m)
				}
				in[m.OID] = i
			}
		}
		if len(in) != number {
			t.Fatalf("%d of %d tables are in groups", len(in), number)
		}
		for _, tie := range tied {
			group := -1
			for _, oid := range tie {
				if g, moved := in[oid]; moved && group >= 0 && g != group {
					t.Fatalf("%v are tied, and in groups %d and %d", tie, group, g)
				} else if moved {
					group = g
				}
			}
		}
	})
}

// TestTies: foreign keys tie tables, those of partitioned tables all leaves.
func TestTies(t *testing.T) {
	t.Parallel()
	got := ties([]catalog.ForeignKey{{TableOID: 1, ReferencesOID: 2}}, []catalog.PartitionedKey{{Tables: []uint32{3, 4, 5}}})
	if fmt.Sprint(got) != "[[1 2] [3 4 5]]" {
		t.Errorf("%v", got)
	}
}

// TestGroupsFor: one group, until one apply worker cannot keep up; never many.
func TestGroupsFor(t *testing.T) {
	t.Parallel()
	for written, want := range map[int64]int{-5: 1, 0: 1, 29_999: 1, 30_000: 2, 100_000: 4, 10_000_000: 4} {
		if got := groupsFor(written, 3*time.Second); got != want {
			t.Errorf("%d rows in 3 s: %d groups, want %d", written, got, want)
		}
	}
	if got := groupsFor(-1_000_000, time.Second); got != 1 { // the statistics were reset meanwhile
		t.Errorf("%d groups", got)
	}
}
