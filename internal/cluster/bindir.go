package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// FindBinDir returns the directory with the server programs of a major version: ROOT/MAJOR/bin, or
// where Debian's and the PGDG's packages put them. An empty root stands for POSTGRES_DIR, or else for
// .postgres in the working directory or in a directory above it that holds a go.mod, or else for the
// directory that scripts/postgres-dir names when no server could run from there.
func FindBinDir(root string, major int) (string, error) {
	m := strconv.Itoa(major)
	roots := []string{root}
	if root == "" {
		roots = defaultRoots()
	}
	var dirs []string
	for _, r := range roots {
		dirs = append(dirs, filepath.Join(r, m, "bin"))
	}
	dirs = append(dirs, "/usr/lib/postgresql/"+m+"/bin", "/usr/pgsql-"+m+"/bin")
	for _, dir := range dirs {
		if isProgram(filepath.Join(dir, "postgres")) && isProgram(filepath.Join(dir, "initdb")) {
			return filepath.Abs(dir)
		}
	}
	return "", fmt.Errorf("no server programs of PostgreSQL %d in any of %q; get them with scripts/fetch-postgres %d, or name the directory that holds %d/bin in POSTGRES_DIR",
		major, dirs, major, major)
}

const cacheDir = "/var/cache/pgbaton/postgres"

func defaultRoots() []string {
	if dir := os.Getenv("POSTGRES_DIR"); dir != "" {
		return []string{dir}
	}
	roots := []string{".postgres"}
	dir, err := os.Getwd()
	if err != nil {
		return append(roots, cacheDir)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			roots = append(roots, filepath.Join(dir, ".postgres"))
		}
		if dir == filepath.Dir(dir) {
			return append(roots, cacheDir)
		}
	}
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
