package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgbaton/internal/cluster"
)

// OldPooler is the PgBouncer of Debian 12, the oldest that is tested.
const OldPooler = "1.18.0"

// StartPooler returns a running PgBouncer of a version ("": the newest there is), unless the options
// name a program. It is removed at the end of the test, and the end of its log is shown if the test
// failed.
func StartPooler(t testing.TB, version string, o cluster.PoolerOptions) *cluster.Pooler {
	t.Helper()
	NeedServers(t)
	if o.Program == "" {
		o.Program = Pooler(t, version)
	}
	p, err := cluster.StartPooler(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the log of PgBouncer on port %d:\n%s", p.Port(), lastLines(p.Log(), logLinesOnFailure))
		}
		if err := p.Remove(); err != nil {
			t.Errorf("remove PgBouncer on port %d: %v", p.Port(), err)
		}
	})
	return p
}

// poolers holds, per version, a function that finds the program once per process.
var poolers sync.Map // string → func() (string, error)

// Pooler returns the program of a PgBouncer version ("": the newest). What is missing is fetched; when
// that fails the test fails.
func Pooler(t testing.TB, version string) string {
	t.Helper()
	NeedServers(t)
	find, _ := poolers.LoadOrStore(version, sync.OnceValues(func() (string, error) { return findOrFetchPooler(version) }))
	program, err := find.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func findOrFetchPooler(version string) (string, error) {
	if program, err := cluster.FindPooler("", version); err == nil && (version != "" || isNewer(program)) {
		return program, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	out, err := exec.Command(filepath.Join(root, "scripts", "postgres-dir")).Output()
	if err != nil {
		return "", fmt.Errorf("scripts/postgres-dir: %w", err)
	}
	dest := strings.TrimSpace(string(out))
	script := filepath.Join(root, "scripts", "fetch-postgres")
	cmd := exec.Command(script, "pgbouncer") // one at a time per destination: it locks
	cmd.Env = append(os.Environ(), "POSTGRES_DIR="+dest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("this test needs PgBouncer %s, and fetching it failed; run POSTGRES_DIR=%s %s pgbouncer and see why: %w\n%s",
			version, dest, script, err, lastLines(string(out), 20))
	}
	return cluster.FindPooler("", version)
}

// isNewer says whether a program is another than the old one: with only that in place the newest has
// not been fetched yet.
func isNewer(program string) bool { return filepath.Base(program) != "pgbouncer-"+OldPooler }
