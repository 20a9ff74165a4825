package migrate

import (
	"fmt"
	"testing"

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
		9: "[[t06] [t01 t02 t03] [t04] [t05] [t07]]",
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
