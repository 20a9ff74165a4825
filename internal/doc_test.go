package internal

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackageComments: what a package is for stands in the file with its name, and
// there alone.
func TestPackageComments(t *testing.T) {
	t.Parallel()
	var files []string
	for _, pattern := range []string{"*/*.go", "*/*/*.go"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	documented := map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Dir(name)
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		documented[dir] = documented[dir] || file.Doc != nil
		if own := filepath.Base(dir) + ".go"; file.Doc != nil && filepath.Base(name) != own {
			t.Errorf("%s has the comment on its package: it belongs into %s", name, own)
		}
	}
	if len(documented) < 20 {
		t.Fatalf("only %d packages", len(documented))
	}
	for dir, is := range documented {
		if !is {
			t.Errorf("no comment says what package %s is for: write it into %s.go", dir, filepath.Base(dir))
		}
	}
}
