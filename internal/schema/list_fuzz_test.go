package schema

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgbaton/internal/postgres"
)

// FuzzList: an archive's entries are lines of its list, in their order, with the numbers
// that stand there; what is written for pg_restore is read as the same.
func FuzzList(f *testing.F) {
	for _, text := range []string{
		";\n; Archive created at 2026-01-01\n;\n3456; 2606 16412 CONSTRAINT public t_pkey owner\n",
		"3890; 0 16520 MATERIALIZED VIEW DATA app sales owner\n12; 0 0 COMMENT public CONSTRAINT c ON t owner\n",
		"1; 0 0 STATISTICS DATA public t \n2; 1259 4294967295 TABLE public \"a b\" owner", "", "1; 2 3", "1; 2 3 \n\n",
	} {
		f.Add(text, "public", "t", "c")
	}
	f.Fuzz(func(t *testing.T, text, schema, table, name string) {
		entries, err := parseList(text)
		if err != nil {
			return
		}
		lines := slices.Collect(strings.Lines(text))
		var written strings.Builder
		for _, e := range entries {
			at := slices.Index(lines, e.Line)
			if at < 0 {
				t.Fatalf("%q is no line of %q", e.Line, lines)
			}
			lines = lines[at+1:]
			fields := strings.Fields(e.Line)
			class, err1 := strconv.ParseUint(fields[1], 10, 32)
			oid, err2 := strconv.ParseUint(fields[2], 10, 32)
			if err1 != nil || err2 != nil || (e.Object != Object{uint32(class), uint32(oid)}) {
				t.Errorf("%q is %v", e.Line, e.Object)
			}
			written.WriteString(e.Line)
		}
		if again, err := parseList(written.String()); err != nil || len(again) != len(entries) {
			t.Errorf("%q: %d entries, written and read again %d, %v", text, len(entries), len(again), err)
		}
		left := Without(entries, []Constraint{{OID: 1 << 31, Table: postgres.Ident{Schema: schema, Name: table}, Name: name}})
		for _, e := range left {
			if e.OID == 1<<31 && e.Class == ClassConstraint {
				t.Errorf("%q was to be left out", e.Line)
			}
		}
		WithoutRefreshes(left)
		for _, e := range left {
			e.Statistics()
		}
	})
}
