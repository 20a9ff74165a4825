package cli_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// several is a connection string of several hosts, of which the first does not answer.
func several(t *testing.T, c *cluster.Cluster, db string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres dbname=%s sslmode=disable target_session_attrs=read-write",
		l.Addr().(*net.TCPAddr).Port, c.Port(), db)
}

// TestSeveralHosts: with several hosts in both strings, applications, hooks, the other
// server and status get the one that was reached.
func TestSeveralHosts(t *testing.T) {
	t.Parallel()
	p := newPooled(t, 12, 15, "", "transaction", 1)
	p.env = []string{"PGBATON_SOURCE=" + several(t, p.source, p.db), "PGBATON_TARGET=" + several(t, p.target, p.db)}
	for side, c := range map[string]*cluster.Cluster{"source": p.source, "target": p.target} {
		address := p.result(0, "status")[side].(map[string]any)["address"]
		if want := fmt.Sprintf("127.0.0.1:%d/app", c.Port()); address != want {
			t.Errorf("status has the %s at %v, not at %s", side, address, want)
		}
	}
	for _, to := range []*cluster.Cluster{p.target, p.source} {
		command, from := "switchover", p.source
		if to == p.source {
			command, from = "rollback", p.target
		}
		told := filepath.Join(t.TempDir(), "told")
		p.result(0, p.command(command, "--yes", "--on-switch", "echo $PGBATON_FROM_HOST $PGBATON_FROM_PORT $PGBATON_TO_HOST $PGBATON_TO_PORT >"+told)...)
		text, err := os.ReadFile(told)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("127.0.0.1 %d 127.0.0.1 %d\n", from.Port(), to.Port()); string(text) != want {
			t.Errorf("the hook was told %q, not %q", text, want)
		}
		p.goesOn()
		p.nothingFailed()
	}
	for _, w := range p.writers {
		w.Stop()
		if problems := w.Check(t.Context(), pgtest.Connect(t, p.sourceURI())); len(problems) > 0 {
			t.Errorf("writes:\n%s", strings.Join(problems, "\n"))
		}
	}
}

// TestWrongWay: after the switch PgBouncer is looked through. What does not lead to
// the side that has the baton is exit code 6, until it does.
func TestWrongWay(t *testing.T) {
	t.Parallel()
	p := newPooled(t, 12, 17, "", "transaction", 1)
	pooler := p.poolers[0]
	other := pgtest.Start(t, 17)
	pgtest.Exec(t, other.ConnString("postgres"), `CREATE DATABASE app`)
	astray := func(port int) string {
		return fmt.Sprintf("sed -i 's/port=%d/port=%d/' %s && %s/psql -X -q '%s' -c RELOAD",
			p.target.Port(), port, pooler.IniPath(), p.target.BinDir(), pooler.AdminURI())
	}

	// Where pgbaton's role may not log in, it is said that nobody looks.
	closed := pgtest.StartPooler(t, "", cluster.PoolerOptions{Users: map[string]string{"app": ""}, Settings: map[string]string{"auth_type": "trust"},
		Databases: map[string]cluster.PoolerDatabase{p.db: {Port: p.source.Port()}}})
	if r := p.run(0, p.command("rehearse", "--pgbouncer", closed.AdminURI())...); strings.Count(r.Stderr, "where it leads cannot be looked at") != 1 {
		t.Errorf("rehearse: %s", r)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody answers there
	r := p.run(6, p.command("switchover", "--yes", "--on-resume", astray(l.Addr().(*net.TCPAddr).Port))...)
	if !strings.Contains(r.Stderr, "leads nowhere now") {
		t.Errorf("it is not said that PgBouncer leads nowhere:\n%s", r)
	}
	r = p.run(6, p.command("switchover", "--yes", "--on-resume", astray(other.Port()))...)
	if want := fmt.Sprintf("database app of the server at 127.0.0.1, port %d, and not to 127.0.0.1:%d/app", other.Port(), p.target.Port()); !strings.Contains(r.Stderr, want) {
		t.Errorf("it is not said that PgBouncer leads to %s:\n%s", want, r)
	}
	if findings := fmt.Sprint(p.result(0, "status")["findings"]); !strings.Contains(findings, "traffic has not been moved") {
		t.Errorf("status: %s", findings)
	}
	p.result(0, p.command("switchover", "--yes")...)
	p.newClient()
	if findings := fmt.Sprint(p.result(0, "status")["findings"]); strings.Contains(findings, "traffic") {
		t.Errorf("status: %s", findings)
	}

	// What does not lead to the holder is not paused, and not led anywhere.
	ini, err := os.ReadFile(pooler.IniPath())
	if err != nil {
		t.Fatal(err)
	}
	entry := fmt.Sprintf("[databases]\nelsewhere = host=127.0.0.1 port=%d dbname=app\n", other.Port())
	if err := os.WriteFile(pooler.IniPath(), []byte(strings.Replace(string(ini), "[databases]\n", entry, 1)), 0); err != nil {
		t.Fatal(err)
	}
	console(t, pooler, "RELOAD")
	r = p.run(3, p.command("rollback", "--yes", "--pgbouncer-database", "elsewhere")...)
	if !strings.Contains(r.Stderr, "not to the target") || !strings.Contains(r.Stderr, "--pgbouncer-database") {
		t.Errorf("rollback: %s", r)
	}
	p.goesOn()
}

// console gives a command to a PgBouncer.
func console(t *testing.T, p *cluster.Pooler, command string) {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), p.AdminURI())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.Exec(t.Context(), command).Close(); err != nil {
		t.Fatal(err)
	}
}
