package routine_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgbaton/internal/routine"
)

var errOther = errors.New("other")

func oops() { var nothing []int; _ = nothing[len(nothing)] }

// caught is what f panics with.
func caught(f func()) (p *routine.Panic) {
	err := routine.Do(func() error { f(); return nil })
	errors.As(err, &p)
	return p
}

func requireOops(t *testing.T, p *routine.Panic) {
	t.Helper()
	if p == nil {
		t.Fatal("the panic is lost")
	}
	if !strings.Contains(p.Error(), "index out of range") || !strings.Contains(string(p.Stack), "oops") {
		t.Fatalf("%s\n%s", p, p.Stack)
	}
}

func TestDo(t *testing.T) {
	t.Parallel()
	requireOops(t, caught(oops))
	if err := routine.Do(func() error { return errOther }); err != errOther {
		t.Errorf("%v", err)
	}
}

func TestRoutine(t *testing.T) {
	t.Parallel()
	r := routine.Start(oops)
	<-r.Done()
	requireOops(t, caught(r.Wait))
	n := 0
	r = routine.Start(func() { n++ })
	if r.Wait(); n != 1 {
		t.Error("it did not run")
	}
}

// TestGroup: a panic ends the others as an error does, and is told when all have ended.
func TestGroup(t *testing.T) {
	t.Parallel()
	g, ctx := routine.WithContext(t.Context())
	ended := false
	g.Go(func() error { <-ctx.Done(); ended = true; return ctx.Err() })
	g.Go(func() error { oops(); return nil })
	requireOops(t, caught(func() { _ = g.Wait() }))
	if !ended {
		t.Error("somebody was not waited for")
	}

	var plain routine.Group
	plain.Go(func() error { oops(); return nil })
	requireOops(t, caught(func() { _ = plain.Wait() }))

	g, ctx = routine.WithContext(context.Background())
	g.Go(func() error { return errOther })
	g.Go(func() error { <-ctx.Done(); return nil })
	if err := g.Wait(); err != errOther {
		t.Errorf("%v", err)
	}

	// Through goroutines of goroutines, with the stack of the one that panicked.
	var outer routine.Group
	outer.Go(func() error { routine.Start(oops).Wait(); return nil })
	requireOops(t, caught(func() { _ = outer.Wait() }))
}

// TestEveryGoroutine: the program starts no goroutine but through this package.
func TestEveryGoroutine(t *testing.T) {
	t.Parallel()
	elsewhere := []string{"routine", "pgtest", "bench"} // tests, and what measures the program
	const counts = "shop/pool.go"                       // whose sync.WaitGroup starts nothing
	files, err := sources("../..", elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 100 {
		t.Fatalf("only %d files found", len(files))
	}
	for _, name := range files {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			what := ""
			switch n := n.(type) {
			case *ast.GoStmt:
				what = "a go statement"
			case *ast.ImportSpec:
				if strings.Contains(n.Path.Value, "sync/errgroup") {
					what = "package errgroup"
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "sync" && n.Sel.Name == "WaitGroup" && !strings.HasSuffix(name, counts) {
					what = "sync.WaitGroup"
				}
			}
			if what != "" {
				t.Errorf("%s: %s: use package routine, or a panic in it ends the program with exit code 2", set.Position(n.Pos()), what)
			}
			return true
		})
	}
}

// sources lists the program's files.
func sources(root string, elsewhere []string) (files []string, err error) {
	for _, dir := range []string{"cmd", "internal"} {
		walkErr := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && slices.Contains(elsewhere, d.Name()):
				return filepath.SkipDir
			case !d.IsDir() && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
				files = append(files, path)
			}
			return nil
		})
		if walkErr != nil {
			err = fmt.Errorf("%s: %w", dir, walkErr)
		}
	}
	return files, err
}
