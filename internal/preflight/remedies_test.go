package preflight_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// followed are the findings whose remedy is followed by a test of its own, which then
// sees the finding gone; the others are in a scenario, or in a test that applies the remedy.
var followed = map[string]string{
	"accept": "TestActive", "connect": "TestConnect", "connection-keywords": "TestKeywords", "connections": "TestSettings",
	"database-connections": "TestCapacity", "role-connections": "TestCapacity", "load-settings": "TestLoadSettings",
	"load-settings-restart": "TestLoadSettings", "load-wal-level": "TestLoadSettings", "lock-table": "TestCapacity",
	"logical-workers": "TestSettings", "pg-dump": "TestVersions", "probe-source-from-target": "TestProbeRemedies",
	"probe-target-from-source": "TestReach", "replication-origins": "TestSettings", "replication-slots": "TestSettings",
	"same-database": "TestVersions", "selection-dependency": "TestSelection", "selection-empty": "TestSelection",
	"selection-foreign-keys": "TestSelection", "selection-unused": "TestSelection", "selection-views": "TestSelection",
	"search-path-untried": "TestSearchPathRights", "standby": "TestVersions", "target-older": "TestVersions", "version-untested": "TestUntestedVersion",
	"wal-level": "TestSettings", "wal-senders": "TestSettings", "worker-processes": "TestSettings",
}

// unfollowed are findings that no test can follow up, and why.
var unfollowed = map[string]string{
	"apply-triggers": "nothing is to be done", "ddl": "nothing is to be done yet", "event-triggers": "nothing is to be done",
	"foreign-tables": "nothing is to be done", "materialized-views": "nothing is to be done", "prepared-allowed": "nothing is to be done",
	"target-database": "nothing is to be done", "truncate": "nothing is to be done yet", "unchecked": "names the privilege that lacks",
	"c-functions": "a library on the target's host", "collation-missing": "a locale on the target's host", "collation-version": "nothing is to be done",
	"extension-tables": "after the switchover", "own-publications": "after the switchover", "extension-workers": "an extension's own switch", "extension-version": "packages on the hosts",
	"locale": "a locale on the target's host", "superuser-sessions": "another role for the application", "shared-role": "another role for the application",
	"migration-active": "another migration's own end", "pooler": "TestPooler of package cli", "version": "no server older than 10 is at hand",
	"extension-rows": "nothing is to be done", "extension-rows-large": "what is not needed is the user's to know",
	"removed-functions": "what replaces them is the application's to choose",
}

// TestRemediesAreFollowed: a finding that is added needs a test that provokes it,
// follows its remedy as printed, and sees it gone.
func TestRemediesAreFollowed(t *testing.T) {
	t.Parallel()
	codes, inScenario, tests := map[string]bool{}, map[string]bool{}, map[string]bool{}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f.Name(), "_test.go") {
			readTests(parsed, inScenario, tests)
		} else {
			readCodes(t, f.Name(), parsed, codes)
		}
	}
	if len(codes) < 60 || len(inScenario) < 20 {
		t.Fatalf("found only %d codes, %d in scenarios", len(codes), len(inScenario))
	}
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		switch follows := inScenario[code] || followed[code] != ""; {
		case !follows && unfollowed[code] == "":
			t.Errorf("no test follows the remedy of %s: add it to a scenario (remedied, or asSaid…), or apply it in a test, or name that in followed", code)
		case follows && unfollowed[code] != "":
			t.Errorf("%s is in unfollowed, and is followed", code)
		}
	}
	for _, lists := range []map[string]string{followed, unfollowed} {
		for code := range lists {
			if !codes[code] {
				t.Errorf("%s is no finding's code any more", code)
			}
		}
	}
	for code, name := range followed {
		if !tests[name] {
			t.Errorf("%s: there is no %s", code, name)
		}
	}
}

// readCodes collects what can become a finding's code: where Code is not spelled out,
// it comes from a variable of that name, from a capacity, or from the first argument
// of the closures that add findings.
func readCodes(t *testing.T, file string, parsed *ast.File, codes map[string]bool) {
	add := func(e ast.Expr) bool {
		lit, ok := e.(*ast.BasicLit)
		if ok {
			code, _ := strconv.Unquote(lit.Value)
			codes[code] = true
		}
		return ok
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			switch name, _ := n.Type.(*ast.Ident); {
			case name == nil:
			case name.Name == "capacity" && len(n.Elts) > 0:
				add(n.Elts[0])
			case name.Name == "Finding":
				for _, e := range n.Elts {
					kv, ok := e.(*ast.KeyValueExpr)
					if key, _ := kv.Key.(*ast.Ident); !ok || key == nil || key.Name != "Code" || add(kv.Value) {
						continue
					}
					variable, _ := kv.Value.(*ast.Ident)
					field, _ := kv.Value.(*ast.SelectorExpr)
					if (variable == nil || variable.Name != "code") && (field == nil || field.Sel.Name != "code") {
						t.Errorf("%s: a finding's code is made in a way that this test does not read", file)
					}
				}
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "lack" || f.Name == "miss") && len(n.Args) > 0 {
				add(n.Args[0])
			}
		case *ast.AssignStmt:
			if v, ok := n.Lhs[0].(*ast.Ident); ok && v.Name == "code" {
				add(n.Rhs[0])
			}
		}
		return true
	})
}

// readTest collects the codes whose remedy a test runs by itself: it calls apply, and
// wants the finding not to be there.
func readTest(test *ast.FuncDecl, followed map[string]bool) {
	applies := false
	var gone []string
	ast.Inspect(test, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch f, _ := call.Fun.(*ast.Ident); {
		case f == nil:
		case f.Name == "apply":
			applies = true
		case f.Name == "wantNot" && len(call.Args) > 2:
			if lit, ok := call.Args[2].(*ast.BasicLit); ok {
				code, _ := strconv.Unquote(lit.Value)
				gone = append(gone, code)
			}
		}
		return true
	})
	for _, code := range gone {
		if applies {
			followed[code] = true
		}
	}
}

// readTests collects the names of tests, and the codes whose remedy they follow.
func readTests(parsed *ast.File, inScenario, tests map[string]bool) {
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			tests[n.Name.Name] = true
			readTest(n, inScenario)
		case *ast.CompositeLit:
			code, follows := "", false
			for _, e := range n.Elts {
				kv, ok := e.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				switch key, _ := kv.Key.(*ast.Ident); {
				case key == nil:
				case key.Name == "code":
					if lit, ok := kv.Value.(*ast.BasicLit); ok {
						code, _ = strconv.Unquote(lit.Value)
					}
				case key.Name == "remedied", strings.HasPrefix(key.Name, "asSaid"):
					follows = true
				}
			}
			if code != "" && follows {
				inScenario[code] = true
			}
		}
		return true
	})
}
