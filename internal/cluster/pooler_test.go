package cluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func startPooler(t *testing.T, o PoolerOptions) *Pooler {
	t.Helper()
	p, err := StartPooler(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.Log())
		}
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestPoolerLife(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Major: 15})
	p := startPooler(t, PoolerOptions{
		Databases: map[string]PoolerDatabase{"shop": {Port: c.Port(), DBName: "postgres"}},
		Extra:     "; the last word\n",
	})
	select1 := func() (n int, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, p.ConnString("shop", "postgres")+"&default_query_exec_mode=simple_protocol")
		if err != nil {
			return 0, err
		}
		defer conn.Close(context.Background())
		return n, conn.QueryRow(ctx, "SELECT 1").Scan(&n)
	}
	if n, err := select1(); err != nil || n != 1 {
		t.Fatalf("through PgBouncer: %d, %v", n, err)
	}
	pid, port := p.PID(), p.Port()
	for name, end := range map[string]func() error{"kill": p.Kill, "stop": p.Stop, "none": func() error { return nil }} {
		if err := end(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name != "none" && alive(pid) {
			t.Errorf("pid %d lives on after %s", pid, name)
		}
		if err := p.Restart(t.Context()); err != nil {
			t.Fatalf("restart after %s: %v", name, err)
		}
		if p.PID() == pid || p.Port() != port {
			t.Errorf("after %s: pid %d, was %d; port %d, was %d", name, p.PID(), pid, p.Port(), port)
		}
		pid = p.PID()
		if _, err := select1(); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.probe(ctx); err == nil {
		t.Error("a frozen PgBouncer answers")
	}
	if err := p.Continue(); err != nil {
		t.Fatal(err)
	}
	if _, err := select1(); err != nil {
		t.Errorf("after SIGCONT: %v", err)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := p.Remove(); err != nil {
		t.Fatalf("remove a frozen PgBouncer: %v", err)
	}
	if _, err := os.Stat(p.Dir()); !os.IsNotExist(err) || alive(pid) {
		t.Errorf("left behind: %v, pid %d alive %t", err, pid, alive(pid))
	}
}

func TestPoolerThatCannotStart(t *testing.T) {
	needServers(t)
	t.Parallel()
	parent := open(t, t.TempDir())
	_, err := StartPooler(t.Context(), PoolerOptions{Dir: parent, PoolMode: "lots"})
	if err == nil || !strings.Contains(err.Error(), "pool_mode") {
		t.Errorf("error %v does not show the log", err)
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFindPooler(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if _, err := FindPooler(root, "1.9.0"); err == nil || !strings.Contains(err.Error(), "scripts/fetch-postgres pgbouncer") {
		t.Errorf("error without the remedy: %v", err)
	}
	if err := os.Mkdir(filepath.Join(root, "tools"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"1.9.0", "1.18.0"} {
		if err := os.WriteFile(filepath.Join(root, "tools", "pgbouncer-"+v), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "tools", "pgbouncer-1.99.0"), nil, 0o644); err != nil {
		t.Fatal(err) // no program
	}
	for version, want := range map[string]string{"": "1.18.0", "1.9.0": "1.9.0", "1.18.0": "1.18.0"} {
		got, err := FindPooler(root, version)
		if err != nil || poolerVersion(got) != want {
			t.Errorf("version %q: %s, %v; want %s", version, got, err, want)
		}
	}
}
