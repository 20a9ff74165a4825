package internal

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRules: the rules that the code cites stand in docs/architecture.md, and the files
// that are named there are there.
func TestRules(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string]bool{}
	_, text, _ := strings.Cut(string(page), "## The rules")
	for _, m := range regexp.MustCompile(`(?m)^(\d+)\. \*\*`).FindAllStringSubmatch(text, -1) {
		rules[m[1]] = true
	}
	cites, cited := regexp.MustCompile(`\brules? (\d+)`), 0
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" && filepath.Ext(path) != ".sql" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		body, err := os.ReadFile(path)
		for _, m := range cites.FindAllStringSubmatch(string(body), -1) {
			if cited++; !rules[m[1]] {
				t.Errorf("%s cites rule %s, which docs/architecture.md does not have", path, m[1])
			}
		}
		return err
	})
	if err != nil || cited < 20 {
		t.Errorf("%d citations, %v", cited, err)
	}
	for _, m := range regexp.MustCompile("`([a-z]+/[a-z_]+\\.go)`").FindAllStringSubmatch(string(page), -1) {
		if _, err := os.Stat(strings.TrimPrefix(m[1], "internal/")); err != nil {
			t.Errorf("docs/architecture.md names %s: %v", m[1], err)
		}
	}
}
