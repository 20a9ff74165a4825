package cluster

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// FindPooler returns the program of a PgBouncer version, or of the newest when version is empty:
// ROOT/tools/pgbouncer-VERSION, where scripts/fetch-postgres puts it. An empty root stands for the same
// directories as with FindBinDir. Without a version, one that is installed on the system is good too.
func FindPooler(root, version string) (string, error) {
	roots := []string{root}
	if root == "" {
		roots = defaultRoots()
	}
	for _, r := range roots {
		found, err := filepath.Glob(filepath.Join(r, "tools", "pgbouncer-*"))
		if err != nil {
			return "", err
		}
		found = slices.DeleteFunc(found, func(p string) bool {
			return !isProgram(p) || version != "" && poolerVersion(p) != version
		})
		if len(found) > 0 {
			return filepath.Abs(slices.MaxFunc(found, comparePoolers))
		}
	}
	if version == "" {
		for _, p := range []string{"/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"} {
			if isProgram(p) {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("no PgBouncer %s below any of %q; get it with scripts/fetch-postgres pgbouncer, or name the directory that holds tools/pgbouncer-VERSION in POSTGRES_DIR",
		version, roots)
}

func poolerVersion(path string) string {
	return strings.TrimPrefix(filepath.Base(path), "pgbouncer-")
}

// comparePoolers orders by version: 1.9.0 is older than 1.18.0.
func comparePoolers(a, b string) int {
	return slices.Compare(versionNumbers(a), versionNumbers(b))
}

func versionNumbers(path string) []int {
	var numbers []int
	for _, s := range strings.Split(poolerVersion(path), ".") {
		n, err := strconv.Atoi(s)
		if err != nil {
			n = -1 // what is no number is older than any
		}
		numbers = append(numbers, n)
	}
	return numbers
}
