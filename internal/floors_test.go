package internal

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// floors are the packages of pgbaton, from the top down. A package imports only such as
// stand on a floor below its own: two of one floor know nothing of each other.
var floors = [][]string{
	{"bench", "cmd/pgbaton"},
	{"internal/cli"},                          // flags, confirmation, words
	{"internal/demo", "internal/ui"},          // who shows and tells
	{"internal/guardian", "internal/outcome"}, // what goes on beside a command, and after it
	{"internal/migrate"},                      // the migration: steps and commands
	{"internal/handover"},                     // the handover, direction-free
	{"internal/preflight"},                    // findings
	{"internal/fence", "internal/replication", "internal/schema", "internal/tablecopy", "internal/traffic"}, // one craft each
	{"internal/catalog", "internal/event", "internal/journal"},                                              // what databases hold, theirs and ours; what happens
	{"internal/plan"},                           // what would be done
	{"internal/pgtest"},                         // servers for tests, poolers, writers
	{"internal/demo/shop", "internal/postgres"}, // connections; an application
	{"internal/cluster"},                        // throw-away servers
	{"internal/option", "internal/phrase", "internal/refusal", "internal/routine"}, // values and words, of no floor's matter
}

// reserved are packages that not everybody above may import.
var reserved = map[string]struct {
	by  []string
	why string
}{
	"internal/pgtest":    {nil, "it is for tests"},
	"internal/cluster":   {[]string{"bench", "internal/demo", "internal/pgtest"}, "no command but the demo starts servers"},
	"internal/demo/shop": {[]string{"bench", "internal/demo"}, "the shop is the demo's, and a load for measurements"},
}

// source is one file: its package's directory, and those of pgbaton's packages that it imports.
type source struct {
	dir     string
	imports []string
}

// TestFloors: imports run downwards only, and each package has its floor.
func TestFloors(t *testing.T) {
	t.Parallel()
	files := map[string]source{}
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && name != ".." || d.Name() == "testdata" || name == "../tools"):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ".go":
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		inside := strings.TrimPrefix(filepath.ToSlash(name), "../")
		s := source{dir: path.Dir(inside)}
		for _, i := range file.Imports {
			full, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if of, ok := strings.CutPrefix(full, "pgbaton/"); ok {
				s.imports = append(s.imports, of)
			}
		}
		files[inside] = s
		return nil
	})
	if err != nil || len(files) < 300 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, fault := range faults(files) {
		t.Error(fault)
	}
}

// faults says what is wrong with imports.
func faults(files map[string]source) (sentences []string) {
	say := func(format string, args ...any) { sentences = append(sentences, fmt.Sprintf(format, args...)) }
	floor, there := map[string]int{}, map[string]bool{"internal": true}
	for i, packages := range floors {
		for _, p := range packages {
			floor[p] = i
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		s := files[name]
		here, known := floor[s.dir]
		if !known && !there[s.dir] {
			say("%s has no floor: put it where it belongs in internal/floors_test.go", s.dir)
		}
		there[s.dir] = true
		if !known {
			continue
		}
		test := strings.HasSuffix(name, "_test.go")
		for _, i := range s.imports {
			only, isReserved := reserved[i]
			switch below, known := floor[i]; {
			case i == s.dir, test && i == "internal/pgtest": // a test from outside, for which servers are started
			case !known:
				say("%s imports %s, which has no floor", name, i)
			case below == here:
				say("%s imports %s, of the same floor: what both need belongs below them, what needs both above", name, i)
			case below < here:
				say("%s imports %s, of a floor above: imports run downwards only", name, i)
			case isReserved && !test && !slices.Contains(only.by, s.dir):
				say("%s imports %s: %s", name, i, only.why)
			}
		}
	}
	for _, p := range slices.Sorted(maps.Keys(floor)) {
		if !there[p] {
			say("%s has a floor and does not exist", p)
		}
	}
	return sentences
}

// TestFaults: each kind of fault is found, and what is right is none.
func TestFaults(t *testing.T) {
	t.Parallel()
	right := map[string]source{}
	for _, packages := range floors {
		for _, p := range packages {
			right[p+"/doc.go"] = source{dir: p}
		}
	}
	if got := faults(right); got != nil {
		t.Errorf("without an import: %q", got)
	}
	for _, c := range []struct{ file, imports, fault string }{
		{"internal/journal/a.go", "internal/postgres", ""},
		{"internal/journal/a_test.go", "internal/journal", ""},
		{"internal/journal/a_test.go", "internal/pgtest", ""},
		{"internal/postgres/a_test.go", "internal/pgtest", ""},
		{"internal/journal/a.go", "internal/pgtest", "it is for tests"},
		{"internal/postgres/a.go", "internal/pgtest", "imports run downwards only"},
		{"internal/demo/a.go", "internal/cluster", ""},
		{"internal/cli/a.go", "internal/cluster", "no command but the demo starts servers"},
		{"internal/journal/a.go", "internal/ui", "imports run downwards only"},
		{"internal/journal/a_test.go", "internal/ui", "imports run downwards only"},
		{"internal/journal/a.go", "internal/catalog", "of the same floor"},
		{"internal/journal/a.go", "internal/utils", "which has no floor"},
		{"internal/utils/a.go", "", "put it where it belongs"},
	} {
		files := maps.Clone(right)
		s := source{dir: path.Dir(c.file)}
		if c.imports != "" {
			s.imports = []string{c.imports}
		}
		files[c.file] = s
		got := faults(files)
		if c.fault == "" && got != nil || c.fault != "" && (len(got) != 1 || !strings.Contains(got[0], c.fault)) {
			t.Errorf("%s imports %s: %q, want %q", c.file, c.imports, got, c.fault)
		}
	}
	delete(right, "internal/journal/doc.go")
	if got := faults(right); len(got) != 1 || !strings.Contains(got[0], "does not exist") {
		t.Errorf("without a package: %q", got)
	}
}
