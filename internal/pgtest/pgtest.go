// Package pgtest gives tests real PostgreSQL servers, a database full of traps, writers whose every
// acknowledged commit can be accounted for, and a comparison of two databases that shares no code
// with the product. It is imported by tests only.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/cluster"
	"pgbaton/internal/postgres"
)

const logLinesOnFailure = 60

// NeedServers leaves a test out when the tests run with -short, as make test-unit runs those that
// need no servers. Nothing else leaves a test out: make test runs all. What starts a server or pgbaton
// calls it; a test calls it that starts its servers in goroutines of its own.
func NeedServers(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs servers, or pgbaton as a program: make test runs it")
	}
}

// Start returns a fresh running server of a major version; later settings win over earlier ones. It is
// removed at the end of the test, and the end of its log is shown if the test failed.
func Start(t testing.TB, major int, settings ...map[string]string) *cluster.Cluster {
	t.Helper()
	merged := map[string]string{}
	for _, s := range settings {
		for k, v := range s {
			merged[k] = v
		}
	}
	return StartOptions(t, cluster.Options{Major: major, Settings: merged})
}

// StartOptions is Start for a test that needs more than settings: a password, a durable server.
func StartOptions(t testing.TB, o cluster.Options) *cluster.Cluster {
	t.Helper()
	NeedServers(t)
	if o.BinDir == "" {
		o.BinDir = BinDir(t, o.Major)
	}
	if o.TemplateDir == "" {
		o.TemplateDir = templateDir(t)
	}
	c, err := cluster.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the log of server %d on port %d:\n%s", c.Major(), c.Port(), lastLines(c.Log(), logLinesOnFailure))
		}
		if err := c.Remove(); err != nil {
			t.Errorf("remove server %d on port %d: %v", c.Major(), c.Port(), err)
		}
	})
	return c
}

// binDirs holds, per major version, a function that finds the programs once per process.
var binDirs sync.Map // int → func() (string, error)

// BinDir returns the directory with the server and client programs of a major version. What is missing
// is fetched; when that fails the test fails.
func BinDir(t testing.TB, major int) string {
	t.Helper()
	NeedServers(t)
	find, _ := binDirs.LoadOrStore(major, sync.OnceValues(func() (string, error) { return findOrFetch(major) }))
	dir, err := find.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func findOrFetch(major int) (string, error) {
	if dir, err := findComplete(major); err == nil {
		return dir, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	script := filepath.Join(root, "scripts", "fetch-postgres")
	out, err := exec.Command(filepath.Join(root, "scripts", "postgres-dir")).Output()
	if err != nil {
		return "", fmt.Errorf("scripts/postgres-dir: %w", err)
	}
	dest := strings.TrimSpace(string(out))
	cmd := exec.Command(script, strconv.Itoa(major)) // one at a time per destination: it locks
	cmd.Env = append(os.Environ(), "POSTGRES_DIR="+dest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("this test needs PostgreSQL %d, and fetching it failed; run `make test`, or POSTGRES_DIR=%s %s %d, and see why: %w\n%s",
			major, dest, script, major, err, lastLines(string(out), 20))
	}
	return findComplete(major)
}

// findComplete accepts a directory with the clients too: they are fetched after the server.
func findComplete(major int) (string, error) {
	dir, err := cluster.FindBinDir("", major)
	if err != nil {
		return "", err
	}
	for _, program := range []string{"psql", "pg_dump", "pg_restore"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod in or above the working directory")
		}
	}
}

// templateDir is shared by all test processes of a user and kept: initdb takes longer than a copy.
func templateDir(t testing.TB) string {
	t.Helper()
	dir, err := sharedDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func sharedDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "pgbaton-test-"+strconv.Itoa(os.Getuid()))
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return "", err
	}
	// Anybody could have made a directory of this name; what is in it will be run as a database.
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Getuid() || info.Mode() != os.ModeDir|0o700 {
		return "", fmt.Errorf("%s is not a directory of ours alone; remove it", dir)
	}
	return dir, nil
}

// Connect opens a session that is closed at the end of the test, without any settings of ours; which
// side it is on makes no difference to a test: it is the source.
func Connect(t testing.TB, connString string) *postgres.Session {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), connString)
	if err != nil {
		t.Fatalf("connect to %s: %v", connString, err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the server may be gone by then
	at := conn.Config()
	server, err := postgres.NewServer(postgres.Source, postgres.Conninfo{"host": at.Host, "port": fmt.Sprint(at.Port), "dbname": at.Database, "user": at.User}.String())
	if err != nil {
		t.Fatal(err)
	}
	return &postgres.Session{Conn: conn, Server: server}
}

// Exec runs statements, each string as one simple query that may hold several, on one connection.
func Exec(t testing.TB, connString string, sql ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), connString)
	if err != nil {
		t.Fatalf("connect to %s: %v", connString, err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for _, s := range sql {
		if _, err := conn.PgConn().Exec(t.Context(), s).ReadAll(); err != nil {
			t.Fatalf("%s: %v", failedPart(s, err), err)
		}
	}
}

// failedPart returns what the server points at in a text that it refused, or the text's beginning.
func failedPart(sql string, err error) string {
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) && refusal.Position > 0 {
		if r := []rune(sql); int(refusal.Position) <= len(r) {
			sql = "… " + string(r[refusal.Position-1:])
		}
	}
	return excerpt(sql)
}

// QueryValue returns the single value of the single row of a query.
func QueryValue[T any](t testing.TB, conn postgres.DB, sql string, args ...any) T {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", excerpt(sql), err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", excerpt(sql), err)
	}
	return v
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// excerpt shortens a value for a message.
func excerpt(s string) string {
	const limit = 300
	r := []rune(s)
	if len(r) <= limit {
		return s
	}
	return string(r[:limit]) + "…"
}
