package traffic

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"pgbaton/internal/postgres"
)

// registered are options with their flags.
func registered() (*Options, *pflag.FlagSet) {
	o, f := new(Options), pflag.NewFlagSet("", pflag.ContinueOnError)
	o.Register(f)
	return o, f
}

// set gives flags values: name, value, …
func set(t *testing.T, f *pflag.FlagSet, values ...string) {
	t.Helper()
	for pair := range slices.Chunk(values, 2) {
		if err := f.Set(pair[0], pair[1]); err != nil {
			t.Fatal(err)
		}
	}
}

// named are source files that may name a kind of mover: what is about one only.
var named = regexp.MustCompile(`^(internal/(traffic|demo|cluster|pgtest)/.*|internal/cli/demo\.go|.*_test\.go)$`)

// TestNamedNowhereElse: neither code nor text outside of this package names a kind of mover
// or one of its flags, but for demonstrations, measurements and tests.
func TestNamedNowhereElse(t *testing.T) {
	t.Parallel()
	o, f := registered()
	var words []string
	for _, k := range o.kinds() {
		words = append(words, strings.ToLower(k.about().title))
	}
	f.VisitAll(func(f *pflag.Flag) { words = append(words, f.Name) })
	if len(words) < 9 {
		t.Fatalf("only %q", words)
	}
	root, looked, here := filepath.Join("..", ".."), 0, 0
	for _, below := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, below), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			looked++
			for i, line := range strings.Split(strings.ToLower(string(text)), "\n") {
				for _, word := range words {
					switch {
					case !strings.Contains(line, word):
					case named.MatchString(filepath.ToSlash(name)):
						here++
					default:
						t.Errorf("%s:%d: %q: what a mover says of itself comes from package traffic", name, i+1, word)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if looked < 150 || here < 100 {
		t.Fatalf("looked at %d files, and found %d lines that may name a mover", looked, here)
	}
}

// TestOptionsReachTheGuardian: every flag has a value there too.
func TestOptionsReachTheGuardian(t *testing.T) {
	t.Parallel()
	o, given := registered()
	given.VisitAll(func(f *pflag.Flag) { set(t, given, f.Name, "a "+f.Name) })
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	there, arrived := registered()
	if err := json.Unmarshal(text, there); err != nil {
		t.Fatal(err)
	}
	given.VisitAll(func(f *pflag.Flag) {
		if have := arrived.Lookup(f.Name).Value.String(); have != f.Value.String() || !strings.Contains(have, f.Name) {
			t.Errorf("--%s is %q, and %q there", f.Name, f.Value, have)
		}
	})
}

// TestAbsent: a kind that nobody has asked for is said to be absent, and is not in the way.
func TestAbsent(t *testing.T) {
	t.Parallel()
	o, _ := registered()
	m, err := o.Mover(Surroundings{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	mustCheck(t, m, Route{})
	r, err := m.Rehearse(t.Context(), Route{}, time.Second)
	if want := (Rehearsal{How: "no PgBouncer; a hook is not run, its time comes on top"}); err != nil || r != want {
		t.Errorf("%+v, %v", r, err)
	}
	if names, seen := m.Names(), m.Look(t.Context(), Route{}, nil, postgres.Beacon{}); len(names)+len(seen) > 0 {
		t.Errorf("%q, %v", names, seen)
	}
}

// TestSameRemedy: a mover that a command lacks is asked for by the flags of its kind, and by
// those of all where a later version has left its name.
func TestSameRemedy(t *testing.T) {
	t.Parallel()
	o, f := registered()
	set(t, f, "pgbouncer", "postgresql://me@pooler:6432/pgbouncer", "pgbouncer-database", "shop")
	m, err := o.Mover(Surroundings{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	const rest = " options, so that it can let the traffic go"
	for name, want := range map[string]string{m.Names()[0]: "--pgbouncer", "Signpost at the crossroads": "--pgbouncer or --on-…"} {
		if have := SameRemedy(name); have != "give this command the same "+want+rest {
			t.Errorf("%s: %s", name, have)
		}
	}
}

// TestPlanned: what plan shows of traffic, of all kinds.
func TestPlanned(t *testing.T) {
	t.Parallel()
	want := Plan{"PAUSE <database> on PgBouncer, or <--on-pause>",
		"host, port and dbname in PgBouncer's configuration and RELOAD, or <--on-switch>",
		"RESUME <database> on PgBouncer, or <--on-resume>"}
	if p := Planned(); p != want {
		t.Errorf("%+v", p)
	}
}
