package refusal_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// packages are those that refuse, warn and hint.
var packages = []string{"cli", "fence", "handover", "journal", "migrate", "postgres", "replication", "schema", "tablecopy", "traffic"}

// TestRemediesAreFollowed: a remedy that is added needs a test that provokes what it is
// for, follows it as printed, and sees that gone.
func TestRemediesAreFollowed(t *testing.T) {
	t.Parallel()
	found, tests := map[string]string{}, map[string]string{}
	for _, name := range packages {
		p := readPackage(t, name)
		p.collect(found)
		maps.Copy(tests, p.tests)
	}
	maps.Copy(tests, readPackage(t, "preflight").tests) // its remedies have a table there
	if len(found) < 100 || len(tests) < 150 {
		t.Fatalf("found only %d remedies, %d tests", len(found), len(tests))
	}
	lists := map[string]int{}
	for _, keys := range []iter.Seq[string]{maps.Keys(followed), maps.Keys(unfollowed)} {
		for key := range keys {
			if lists[key]++; lists[key] > 1 {
				t.Errorf("%q is in two lists", key)
			}
			if found[key] == "" {
				t.Errorf("%q is no remedy any more", key)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		if lists[key] == 0 {
			t.Errorf("%s: no test follows this remedy: name the one that does in followed\n\t%q", found[key], key)
		}
		if name := followed[key]; name != "" && tests[name] == "" {
			t.Errorf("%q: there is no %s", key, name)
		}
	}
}

// asked is which of a function's parameters is a remedy, and how many there are.
type asked struct {
	at, all  int
	variadic bool
}

// source is a package's code.
type source struct {
	t         *testing.T
	name      string
	fset      *token.FileSet
	files     []*ast.File
	constants map[string]string
	asked     map[string]asked // functions that are given a remedy
	answers   map[string]bool  // functions that return remedies
	tests     map[string]string
}

func readPackage(t *testing.T, name string) *source {
	t.Helper()
	s := &source{t: t, name: name, fset: token.NewFileSet(), constants: map[string]string{},
		asked: map[string]asked{"refusal.New": {2, 3, false}, "postgres.WrapHint": {3, 4, false}, "postgres.WrapRights": {3, 4, false}, "WrapHint": {2, 3, false}, "WrapRights": {2, 3, false}}, answers: map[string]bool{}, tests: map[string]string{}}
	paths, err := filepath.Glob(filepath.Join("..", name, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(s.fset, path, content, 0)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, "_test.go") {
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Test") {
					s.tests[name+"."+f.Name.Name] = string(content)
				}
			}
			continue
		}
		s.files = append(s.files, file)
		ast.Inspect(file, s.declares)
	}
	return s
}

func isRemedy(name string) bool {
	name = strings.ToLower(name)
	return strings.HasSuffix(name, "remedy") || strings.HasSuffix(name, "hint") || name == "mend"
}

// declares notes constants, functions that are given a remedy, and such that answer
// with one.
func (s *source) declares(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.ValueSpec:
		for i, name := range n.Names {
			if i < len(n.Values) {
				if lit, ok := n.Values[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
					s.constants[name.Name], _ = strconv.Unquote(lit.Value)
				}
			}
		}
	case *ast.FuncDecl:
		s.asks(n.Name.Name, n.Type)
		if _, ok := s.answer(n); ok {
			s.answers[n.Name.Name] = true
		}
	case *ast.Field:
		if f, ok := n.Type.(*ast.FuncType); ok && len(n.Names) == 1 {
			s.asks(n.Names[0].Name, f)
		}
	case *ast.AssignStmt:
		if f, ok := n.Rhs[0].(*ast.FuncLit); ok {
			if name, ok := n.Lhs[0].(*ast.Ident); ok {
				s.asks(name.Name, f.Type)
			}
		}
	}
	return true
}

func (s *source) asks(name string, f *ast.FuncType) {
	a := asked{at: -1}
	for _, p := range f.Params.List {
		_, a.variadic = p.Type.(*ast.Ellipsis)
		for _, n := range p.Names {
			if isRemedy(n.Name) {
				a.at = a.all
			}
			a.all++
		}
	}
	if a.at >= 0 {
		s.asked[name] = a
	}
}

// answer says which of a function's results is a remedy.
func (s *source) answer(f *ast.FuncDecl) (int, bool) {
	if f.Type.Results == nil {
		return 0, false
	}
	i := 0
	for _, r := range f.Type.Results.List {
		for _, n := range r.Names {
			if isRemedy(n.Name) {
				return i, true
			}
			i++
		}
	}
	one, ok := f.Type.Results.List[0].Type.(*ast.Ident)
	name := f.Name.Name
	return 0, ok && one.Name == "string" && len(f.Type.Results.List) == 1 && i < 2 &&
		(isRemedy(name) || name == "hintOr" || name == "lost" || name == "missing" || strings.HasPrefix(name, "Mend"))
}

// collect finds the remedies, and where they are.
func (s *source) collect(found map[string]string) {
	add := func(e ast.Expr) {
		if text := s.text(e); text != "" {
			found[s.name+": "+text] = s.fset.Position(e.Pos()).String()
		}
	}
	for _, file := range s.files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if a, ok := s.asked[called(n)]; ok && (len(n.Args) == a.all || a.variadic && len(n.Args) >= a.all-1) {
					add(n.Args[a.at])
				}
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && (key.Name == "Remedy" || key.Name == "Hint") {
					add(n.Value)
				}
			case *ast.AssignStmt:
				for i, l := range n.Lhs {
					var name string
					switch l := l.(type) {
					case *ast.Ident:
						name = l.Name
					case *ast.SelectorExpr:
						name = l.Sel.Name
					}
					if isRemedy(name) && len(n.Rhs) == len(n.Lhs) {
						add(n.Rhs[i])
					}
				}
			case *ast.FuncDecl:
				at, ok := s.answer(n)
				if !ok {
					break
				}
				ast.Inspect(n, func(inner ast.Node) bool {
					if _, ok := inner.(*ast.FuncLit); ok {
						return false
					}
					if r, ok := inner.(*ast.ReturnStmt); ok && at < len(r.Results) {
						add(r.Results[at])
					}
					return true
				})
			}
			return true
		})
	}
}

func called(n *ast.CallExpr) string {
	switch f := n.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok && (x.Name == "refusal" || x.Name == "postgres") {
			return x.Name + "." + f.Sel.Name
		}
		return f.Sel.Name
	}
	return ""
}

var verb = regexp.MustCompile(`%(\[\d\])?[-.\d]*[a-z]`)

// text is what is constant in a remedy; where nothing is, the expression; "" when it
// only passes on what is found elsewhere.
func (s *source) text(e ast.Expr) string {
	text, passes := s.literal(e)
	if strings.Trim(text, "… ;,") != "" {
		return text
	}
	if passes || text == "" {
		return ""
	}
	var b bytes.Buffer
	if err := printer.Fprint(&b, s.fset, e); err != nil {
		s.t.Fatal(err)
	}
	return b.String()
}

func (s *source) literal(e ast.Expr) (text string, passes bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, _ = strconv.Unquote(e.Value)
		return text, false
	case *ast.Ident:
		if text, ok := s.constants[e.Name]; ok && !isRemedy(e.Name) {
			return text, false
		}
		return "…", isRemedy(e.Name)
	case *ast.BinaryExpr:
		left, a := s.literal(e.X)
		right, b := s.literal(e.Y)
		return strings.ReplaceAll(left+right, "……", "…"), a || b
	case *ast.SelectorExpr:
		return "…", isRemedy(e.Sel.Name)
	case *ast.CallExpr:
		name := called(e)
		if name == "Sprintf" {
			format, _ := s.literal(e.Args[0])
			return verb.ReplaceAllString(format, "…"), false
		}
		_, inner, _ := strings.Cut(name, ".")
		return "…", s.answers[name] || isRemedy(name) || isRemedy(inner) || strings.HasPrefix(inner, "Mend")
	}
	return "…", false
}
