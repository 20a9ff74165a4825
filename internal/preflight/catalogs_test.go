package preflight_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// statement is what a function, or a constant, of the program has of SQL: all its
// texts, since a statement may be put together of parts.
type statement struct{ where, sql string }

// statements are those that name something in pg_catalog; tests, and tools for
// tests, are left out.
func statements(t *testing.T, except ...string) (found []statement) {
	t.Helper()
	except = append(except, "cluster", "demo", "pgtest")
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(except, d.Name()):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".sql") && !strings.Contains(path, "testdata"):
			text, err := os.ReadFile(path)
			found = append(found, statement{path, string(text)})
			return err
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			ast.Inspect(d, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl, *ast.ValueSpec:
					var text strings.Builder
					ast.Inspect(n, func(n ast.Node) bool {
						if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
							part, err := strconv.Unquote(l.Value)
							if err != nil {
								t.Error(err)
							}
							text.WriteString(part + "\n")
						}
						return true
					})
					if strings.Contains(text.String(), "pg_catalog.") {
						found = append(found, statement{files.Position(n.Pos()).String(), text.String()})
					}
					return false
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 100 {
		t.Fatalf("only %d statements found: they are looked for in the wrong way", len(found))
	}
	return found
}

var (
	comment     = regexp.MustCompile(`(?m)--.*$`)
	catalogName = regexp.MustCompile(`(::)?\bpg_catalog\.(\w+)(\()?`)
	word        = regexp.MustCompile(`\b[a-z_][a-z0-9_]*\b`)
)

// catalogs are the relations and functions of pg_catalog that a statement names.
func (s statement) names() (relations, functions []string) {
	for _, m := range catalogName.FindAllStringSubmatch(comment.ReplaceAllString(s.sql, ""), -1) {
		switch {
		case m[1] != "": // a type
		case m[3] != "":
			functions = append(functions, m[2])
		case strings.HasPrefix(m[2], "pg_"):
			relations = append(relations, m[2])
		}
	}
	return relations, functions
}

// refusable are functions and views that not every role may use by default: the
// commands go on without them.
var refusable = []string{"pg_authid", "pg_control_system", "pg_replication_origin_status"}

// TestCatalogList: check asks for the right to use every relation of pg_catalog that
// a statement of the program names, and every function that tells of the server.
// UPDATE_SCRIPTS=1 writes the list anew.
func TestCatalogList(t *testing.T) {
	t.Parallel()
	const list = "catalogs.txt"
	use := map[string]bool{}
	for _, s := range statements(t, "preflight", "pgtest") {
		relations, functions := s.names()
		for _, name := range relations {
			use[name] = !slices.Contains(refusable, name)
		}
		for _, name := range functions {
			if strings.HasPrefix(name, "pg_") && !strings.HasSuffix(name, "_") {
				use[name+"()"] = !slices.Contains(refusable, name)
			}
		}
	}
	maps.DeleteFunc(use, func(_ string, asked bool) bool { return !asked })
	want := strings.Join(slices.Sorted(maps.Keys(use)), "\n") + "\n"
	if os.Getenv("UPDATE_SCRIPTS") != "" {
		if err := os.WriteFile(list, []byte(want), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(list); err != nil || string(have) != want {
		t.Errorf("%s does not list what the statements use; run this test with UPDATE_SCRIPTS=1, and look at the difference (%v)", list, err)
	}
}

// varying are the columns of catalogs and views that our statements name and that
// not every server has, with those that have them. Where such a column is read, the
// statement must be chosen by version, or read it in a way that does without.
var varying = map[string]string{
	"pg_attribute.attgenerated":             "12 13 15 17 18 19",
	"pg_class.relhasoids":                   "10",
	"pg_database.daticulocale":              "15",
	"pg_database.datlocale":                 "17 18 19",
	"pg_database.datlocprovider":            "15 17 18 19",
	"pg_foreign_data_wrapper.fdwconnection": "19",
	"pg_index.indnkeyatts":                  "12 13 15 17 18 19",
	"pg_publication.pubtruncate":            "12 13 15 17 18 19",
	"pg_replication_slots.failover":         "17 18 19",
	"pg_replication_slots.synced":           "17 18 19",
	"pg_replication_slots.wal_status":       "13 15 17 18 19",
	"pg_statistic_ext.stxexprs":             "15 17 18 19",

	"pg_stat_progress_copy.bytes_processed":      "15 17 18 19",
	"pg_stat_progress_copy.pid":                  "15 17 18 19",
	"pg_stat_progress_copy.tuples_processed":     "15 17 18 19",
	"pg_stat_progress_create_index.blocks_done":  "12 13 15 17 18 19",
	"pg_stat_progress_create_index.blocks_total": "12 13 15 17 18 19",
	"pg_stat_progress_create_index.phase":        "12 13 15 17 18 19",
	"pg_stat_progress_create_index.pid":          "12 13 15 17 18 19",
	"pg_stat_progress_create_index.tuples_done":  "12 13 15 17 18 19",
	"pg_stat_progress_create_index.tuples_total": "12 13 15 17 18 19",
	"pg_stat_subscription_stats.subid":           "15 17 18 19",

	// Columns of the same name in another catalog that the statement reads.
	"pg_auth_members.oid": "17 18 19",
	"pg_stats.attnum":     "19",
}

// TestCatalogColumns: what our statements read in catalogs and views is there on
// every server from 10 on, or is known not to be.
func TestCatalogColumns(t *testing.T) {
	t.Parallel()
	columns := map[int]map[string]map[string]bool{} // by major and relation
	everywhere := map[string]map[string]bool{}
	majors := []int{10, 12, 13, 15, 17, 18, 19}
	for _, major := range majors {
		columns[major] = map[string]map[string]bool{}
		conn := pgtest.Connect(t, pgtest.Start(t, major).ConnString("postgres"))
		for _, c := range pgtest.QueryValue[[]string](t, conn, `
			SELECT array_agg(c.relname || '.' || a.attname) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
			WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v')`) {
			relation, column, _ := strings.Cut(c, ".")
			for _, m := range []map[string]map[string]bool{columns[major], everywhere} {
				if m[relation] == nil {
					m[relation] = map[string]bool{}
				}
				m[relation][column] = true
			}
		}
	}
	found := map[string]string{}
	for _, s := range statements(t) {
		relations, _ := s.names()
		words := word.FindAllString(comment.ReplaceAllString(s.sql, ""), -1)
		for _, r := range relations {
			for _, w := range words {
				if !everywhere[r][w] {
					continue
				}
				var have []string
				for _, major := range majors {
					if columns[major][r][w] {
						have = append(have, fmt.Sprint(major))
					}
				}
				if len(have) < len(majors) {
					found[r+"."+w] = strings.Join(have, " ")
					t.Log(s.where, r+"."+w)
				}
			}
		}
	}
	for _, c := range slices.Sorted(maps.Keys(found)) {
		if found[c] != varying[c] {
			t.Errorf("%s is there on %s only, which is not what is known (%q): choose the statement by version, and note it here", c, found[c], varying[c])
		}
	}
	for c := range varying {
		if found[c] == "" {
			t.Errorf("%s is named by no statement any more, or is there on every server", c)
		}
	}
}
