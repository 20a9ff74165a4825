package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestNothingIsSkipped: a test is left out with -short only, which is make test-unit, and
// never because something is missing: make test runs all, or fails.
func TestNothingIsSkipped(t *testing.T) {
	t.Parallel()
	seen := 0
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && name != "..":
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(name) != ".go":
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			return err
		}
		all, short := skips(file)
		seen += len(short)
		for _, pos := range all {
			if !short[pos] {
				t.Errorf("%s: skips a test, and not inside an if testing.Short()", fset.Position(pos))
			}
		}
		return nil
	})
	if err != nil || seen < 2 {
		t.Fatalf("%d places that skip with -short, %v", seen, err)
	}
}

// skips are the calls that leave a test out, and those of them that only -short reaches.
func skips(file *ast.File) (all []token.Pos, short map[token.Pos]bool) {
	short = map[token.Pos]bool{}
	calls := func(n ast.Node, do func(name string, pos token.Pos)) {
		ast.Inspect(n, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if s, ok := call.Fun.(*ast.SelectorExpr); ok {
					do(s.Sel.Name, call.Pos())
				}
			}
			return true
		})
	}
	skip := func(name string) bool { return name == "Skip" || name == "Skipf" || name == "SkipNow" }
	calls(file, func(name string, pos token.Pos) {
		if skip(name) {
			all = append(all, pos)
		}
	})
	ast.Inspect(file, func(n ast.Node) bool {
		if i, ok := n.(*ast.IfStmt); ok && needsShort(i.Cond) {
			calls(i.Body, func(name string, pos token.Pos) { short[pos] = short[pos] || skip(name) })
		}
		return true
	})
	for pos, is := range short {
		if !is {
			delete(short, pos)
		}
	}
	return all, short
}

// needsShort says whether a condition is true with -short only.
func needsShort(cond ast.Expr) bool {
	switch c := cond.(type) {
	case *ast.BinaryExpr:
		return c.Op == token.LAND && (needsShort(c.X) || needsShort(c.Y))
	case *ast.CallExpr:
		s, ok := c.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		x, ok := s.X.(*ast.Ident)
		return ok && x.Name == "testing" && s.Sel.Name == "Short"
	}
	return false
}

// TestSkips: a skip is found wherever it stands, and what -short does not guard is told apart.
func TestSkips(t *testing.T) {
	t.Parallel()
	for body, want := range map[string][2]int{
		`if testing.Short() { t.Skip("") }`:                      {1, 1},
		`if testing.Short() && x { t.Skipf("") }`:                {1, 1},
		`if testing.Short() || x { t.Skip("") }`:                 {1, 0},
		`if !testing.Short() { t.SkipNow() }`:                    {1, 0},
		`if x { t.Skip("") }`:                                    {1, 0},
		`if testing.Short() { f(); return } else { t.Skip("") }`: {1, 0},
		`f()`: {0, 0},
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nfunc TestX(t *testing.T) { "+body+" }", 0)
		if err != nil {
			t.Fatal(err)
		}
		all, short := skips(file)
		if len(all) != want[0] || len(short) != want[1] {
			t.Errorf("%s: %d skips, %d with -short only; want %v", body, len(all), len(short), want)
		}
	}
}
