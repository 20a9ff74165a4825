package journal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgbaton/internal/journal"
)

// TestPage: the page and the code agree. Each entry has one type, that of the page, in
// one place; no statement on the journal is anywhere else than in its package.
func TestPage(t *testing.T) {
	t.Parallel()
	names := pageNames(t)
	if len(names) != len(journal.Page) {
		t.Errorf("%d names are declared, %d are on the page", len(names), len(journal.Page))
	}
	values, keys := map[string]string{}, map[[2]string]bool{}
	for i, n := range journal.Page {
		if n.Kind == "" || n.Value == "" || n.On == "" || n.Until == "" || n.Key != "" && n.By != "" {
			t.Errorf("%+v: something is not said", n)
		}
		if keys[[2]string{n.Kind, n.Key}] {
			t.Errorf("%s %q is there twice", n.Kind, n.Key)
		}
		keys[[2]string{n.Kind, n.Key}] = true
		if i < len(names) {
			values[names[i]] = n.Value
		}
	}
	typed := map[string]int{}
	for path, file := range sources(t) {
		ast.Inspect(file, func(node ast.Node) bool {
			switch x := node.(type) {
			case *ast.BasicLit:
				if x.Kind == token.STRING && strings.Contains(x.Value, "pgbaton.journal") && !strings.HasPrefix(path, "../journal/") {
					t.Errorf("%s has a statement on the journal: %s", path, x.Value)
				}
			case *ast.CallExpr:
				name, value := typing(x)
				if name == "" {
					return true
				}
				if typed[name]++; values[name] != value {
					t.Errorf("%s takes %s for %s, on the page it is %s", path, name, value, values[name])
				}
			}
			return true
		})
	}
	for _, name := range names {
		if typed[name] != 1 {
			t.Errorf("%s has a type in %d places", name, typed[name])
		}
	}
}

// typing is what a call of One or Many says: the entry, and its type.
func typing(call *ast.CallExpr) (name, value string) {
	index, ok := call.Fun.(*ast.IndexExpr)
	if !ok || len(call.Args) != 1 {
		return "", ""
	}
	if f := text(index.X); f != "journal.One" && f != "journal.Many" && f != "One" && f != "Many" {
		return "", ""
	}
	if value = text(index.Index); value == "any" { // whether there is one, not what
		return "", ""
	}
	return strings.TrimPrefix(text(call.Args[0]), "journal."), value
}

// text is an expression as it is written, of the few kinds that stand here.
func text(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return text(x.X) + "." + x.Sel.Name
	case *ast.ArrayType:
		return "[]" + text(x.Elt)
	case *ast.MapType:
		return "map[" + text(x.Key) + "]" + text(x.Value)
	}
	return ""
}

// sources is all code but that of tests.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	paths, err := filepath.Glob("../*/*.go")
	if err != nil || len(paths) < 100 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if files[path], err = parser.ParseFile(token.NewFileSet(), path, body, 0); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// pageNames are the names of the page's variables, in their order.
func pageNames(t *testing.T) (names []string) {
	t.Helper()
	for _, decl := range sources(t)["../journal/entries.go"].Decls {
		d, ok := decl.(*ast.GenDecl)
		if !ok || d.Tok != token.VAR {
			continue
		}
		for _, spec := range d.Specs {
			v := spec.(*ast.ValueSpec)
			if lit, ok := v.Values[0].(*ast.CompositeLit); ok && text(lit.Type) == "Name" {
				names = append(names, v.Names[0].Name)
			}
		}
	}
	return names
}
