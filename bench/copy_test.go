package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
)

func TestParseCopy(t *testing.T) {
	for _, c := range []struct{ flag, value string }{
		{"--databases", "mixed,huge"}, {"--contestants", "pgbaton,scp"}, {"--pairs", "12-15,17"}, {"--scale", "0"},
	} {
		if _, err := parse([]string{c.flag, c.value, "copy"}); err == nil {
			t.Errorf("%s %s: no error", c.flag, c.value)
		}
	}
	o, err := parse([]string{"--pairs", "13-17", "--databases", "one", "copy"})
	if err != nil || !slices.Equal(o.copy.pairs, []versions{{13, 17}}) || !slices.Equal(o.copy.databases, []string{"one"}) || o.limit < 12*time.Hour {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err := parse(nil); err != nil || slices.Contains(o.parts, "copy") || o.limit > time.Hour {
		t.Errorf("no flags: %+v, %v", o, err)
	}
}

func TestContestantsFor(t *testing.T) {
	var names []string
	for _, c := range contestantsFor("one", contestantNames()) {
		names = append(names, c.name)
	}
	if want := []string{"pgbaton", "pgbaton-parts", before, "pgcopydb", "pgcopydb-split", "pgcopydb-binary", "floor"}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
}

// TestDatabases looks at what is promised of them.
func TestDatabases(t *testing.T) {
	for name, want := range map[string]struct{ tables, indexes, smallest, largest int64 }{
		"mixed": {60, 239, 10, 10_000_000}, "one": {1, 4, 10_000_000, 10_000_000}, "many": {10_000, 20_000, 1, 50}, "uniform": {24, 120, 200_000, 200_000},
	} {
		d, ok := copyDatabase(name, 1)
		if !ok {
			t.Fatal(name)
		}
		tables, indexes, smallest, largest := int64(len(d.tables)), int64(0), d.tables[0].rows, int64(0)
		made := map[string]bool{}
		for _, table := range d.tables {
			indexes += 1 + int64(len(table.indexes))
			smallest, largest = min(smallest, table.rows), max(largest, table.rows)
			for _, p := range table.parents {
				if !made[p.table] {
					t.Errorf("%s refers to %s, which is not made yet", table.name, p.table)
				}
			}
			made[table.name] = true
		}
		if tables != want.tables || indexes != want.indexes || smallest != want.smallest || largest != want.largest {
			t.Errorf("%s: %d tables, %d indexes, %d to %d rows", name, tables, indexes, smallest, largest)
		}
	}
}

func TestMissed(t *testing.T) {
	r := copyRun{Wall: 20, Estimates: []estimate{{At: 9, ETA: 99}, {At: 10, ETA: 12}, {At: 15, ETA: 4}, {At: 18, ETA: 99}}}
	if got := r.missed(); !slices.Equal(got, []float64{0.2, 0.2}) {
		t.Errorf("%v", got)
	}
}

func TestLines(t *testing.T) {
	var got []string
	l := &lines{each: func(line []byte) { got = append(got, string(line)) }}
	for _, part := range []string{"a\nb", "b\n", "", "\ncc", "c\n"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if want := []string{"a", "bb", "", "ccc"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestFloorSteps(t *testing.T) {
	got := floorSteps([]byte("step 100.5 schema\nsomething else\nstep 102.0 foreign keys\n"), time.UnixMilli(103_000))
	if want := []step{{"schema", 1.5}, {"foreign keys", 1}}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestNewestPGCopyDB(t *testing.T) {
	if slices.Compare(numbers("tools/pgcopydb-0.9"), numbers("tools/pgcopydb-0.17")) >= 0 {
		t.Error("0.9 is not older than 0.17")
	}
}

func TestDifferences(t *testing.T) {
	source := content{tables: map[string]fingerprint{"a": {2, "7"}, "b": {3, "8"}, "c": {1, "9"}}, indexes: []string{"a.i", "a.j"}, constraints: []string{"a.k (p)"}}
	if d := source.differences(source); len(d) > 0 {
		t.Errorf("itself: %q", d)
	}
	other := content{tables: map[string]fingerprint{"a": {1, "7"}, "b": {3, "0"}, "d": {1, "9"}}, indexes: []string{"a.i"}, constraints: []string{"a.k (p)", "a.l (f)"}}
	want := []string{"a has 1 rows instead of 2", "b has other rows", "no table c", "there should be no table d", "no index a.j", "there should be no constraint a.l (f)"}
	if d := source.differences(other); !slices.Equal(d, want) {
		t.Errorf("%q", d)
	}
}

func TestForgoForeignKeys(t *testing.T) {
	source := content{constraints: []string{"a.k (p)", "a.l (f)", "a.m (f)", "b.k (p)"}}
	if n := source.forgoForeignKeys(content{constraints: []string{"a.k (p)", "a.m (f)"}}); n != 1 || !slices.Equal(source.constraints, []string{"a.k (p)", "a.m (f)", "b.k (p)"}) {
		t.Errorf("%d, %q", n, source.constraints)
	}
}

func TestPace(t *testing.T) {
	p := newPace(options{runs: 3, copy: copyOptions{databases: []string{"one"}, pairs: []versions{{12, 15}, {13, 17}}, contestants: []string{"pgbaton", "floor"}}})
	if got := p.done("one", "pgbaton", time.Minute); !strings.HasPrefix(got, "11 runs left, ") || strings.Contains(got, "about") {
		t.Errorf("nothing known of floor: %q", got)
	}
	if got := p.done("one", "floor", 2*time.Minute); got != "10 runs left, about 15m0s" {
		t.Errorf("%q", got)
	}
}

func TestCopyMarkdown(t *testing.T) {
	s := copySet{Database: "one", What: "one table", Pair: "12-15", Bytes: 3 << 30, Cores: 2,
		Runs: []copyRun{
			{Contestant: "floor", Wall: 8, SourceCPU: 2, TargetCPU: 6, Load: "1.50 2 3", Steps: []step{{"rows", 5}}},
			{Contestant: "pgbaton", Wall: 10, SourceCPU: 2, TargetCPU: 7, ClientCPU: 1, PeakRSS: 20 << 20, Load: "0.50 2 3"},
			{Contestant: "pgbaton", Wall: 12, SourceCPU: 2, TargetCPU: 7, ClientCPU: 1, PeakRSS: 20 << 20, Load: "1.00 2 3"},
			{Contestant: "pgbaton", Wall: 9, SourceCPU: 2, TargetCPU: 7, ClientCPU: 1, PeakRSS: 20 << 20, Load: "1.00 2 3"},
		},
		Kills: []killRun{{First: 10}, {Percent: 25, At: 26, First: 3, Second: 9, Copied: 8 << 20, Kept: 5 << 20, Writes: 7, Rows: 99, Later: 2}, {Percent: 50, First: 10}},
	}
	text := (&report{Copies: []copySet{s}}).markdown()
	for _, want := range []string{
		"## one, 12 → 15", "Load average before the runs: 1.0 (0.5–1.5)",
		"| pgbaton | 10.0 (9.0–12.0) | 1.00 | 2.0 + 7.0 | 1.0 (1.0–1.0) | 2.00 | 20 MB |", "| floor | 8.0 | 0.80 | 2.0 + 6.0 | 0.0 | 2.00 |  |",
		"| floor | rows 5.0 |", "| left alone | | | 10.0 | | | | |", "| 26 % | 3.0 | 9.0 | 12.0 | 2.0 | 8 MB | 5 MB | 2 |", "| 50 % | was done before",
		"- floor: ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "- native: ") {
		t.Error("explains who did not take part")
	}
}

// TestCopySmoke copies a very small database, and kills a copy of it or is too
// late for that. It makes no claim on times.
func TestCopySmoke(t *testing.T) {
	pgtest.BinDir(t, 12)
	pgtest.BinDir(t, 15)
	o := options{pgbaton: pgtest.Build(t), out: t.TempDir(), runs: 1, jobs: 2, copy: copyOptions{databases: []string{"mixed"}, pairs: []versions{{12, 15}},
		contestants: []string{"pgbaton", "dump", "floor"}, scale: 0.001, kill: true}}
	var r report
	if err := measureCopies(t.Context(), o, &r); err != nil {
		t.Fatal(err)
	}
	s := r.Copies[0]
	if len(s.Runs) != 3 || len(s.Kills) != len(killPercents) || s.Tables != 60 || s.Indexes != 239 {
		t.Errorf("%+v", s)
	}
	for _, run := range s.Runs {
		if run.Wall <= 0 || run.TargetCPU <= 0 || run.ClientCPU <= 0 || len(run.Steps) == 0 {
			t.Errorf("%+v", run)
		}
	}
}
