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
// the side that has the baton is exit code 6, until it does. Whatever is refused, or
// warned of, is not any more when that was done which the remedy says.
func TestWrongWay(t *testing.T) {
	t.Parallel()
	p := newPooled(t, 12, 17, "", "transaction", 1)
	pooler := p.poolers[0]
	other := pgtest.Start(t, 17)
	pgtest.Exec(t, other.ConnString("postgres"), `CREATE DATABASE app`)
	astray := func(from *cluster.Cluster, port int) string {
		return fmt.Sprintf("sed -i 's/port=%d/port=%d/' %s && %s/psql -X -q '%s' -c RELOAD",
			from.Port(), port, pooler.IniPath(), p.target.BinDir(), pooler.AdminURI())
	}
	says := func(r pgtest.Result, texts ...string) {
		t.Helper()
		for _, text := range texts {
			if !strings.Contains(r.Stderr, text) {
				t.Errorf("%q is not in\n%s", text, r)
			}
		}
	}
	const correct = "correct the entry and RELOAD, or remove what keeps PgBouncer from logging in there; then run the same command again"

	// Where pgbaton's role may not log in, it is said that nobody looks.
	closed := pgtest.StartPooler(t, "", cluster.PoolerOptions{Users: map[string]string{"app": ""}, Settings: map[string]string{"auth_type": "trust"},
		Databases: map[string]cluster.PoolerDatabase{p.db: {Port: p.source.Port()}}})
	rehearse := p.command("rehearse", "--pgbouncer", closed.AdminURI())
	const unseen = "where it leads cannot be looked at"
	r := p.run(0, rehearse...)
	if says(r, "let pgbaton's role log in there (auth_file, auth_query)"); strings.Count(r.Stderr, unseen) != 1 {
		t.Errorf("%s", r)
	}
	users := filepath.Join(closed.Dir(), "users.txt")
	text, err := os.ReadFile(users)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(users, append(text, "\"postgres\" \"\"\n"...), 0); err != nil {
		t.Fatal(err)
	}
	console(t, closed, "RELOAD")
	if r := p.run(0, rehearse...); strings.Contains(r.Stderr, unseen) {
		t.Errorf("%s", r)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody answers there
	told := filepath.Join(t.TempDir(), "told")
	tell := []string{"--on-pause", "echo pause >>" + told, "--on-switch", "echo switch >>" + told}
	nowhere := l.Addr().(*net.TCPAddr).Port
	says(p.run(6, p.command(append([]string{"switchover", "--yes", "--on-resume", astray(p.target, nowhere)}, tell...)...)...), "leads nowhere now", correct)
	if findings := fmt.Sprint(p.result(0, "status")["findings"]); strings.Contains(findings, "traffic has not been moved") || !strings.Contains(findings, "leads nowhere now") {
		t.Errorf("status: %s", findings)
	}
	// What was not seen to lead elsewhere is not held back again.
	again := p.command(append([]string{"switchover", "--yes"}, tell...)...)
	says(p.run(6, again...), "leads nowhere now", correct)
	lead(t, pooler, nowhere, p.target.Port())
	p.result(0, again...)
	if text, err := os.ReadFile(told); err != nil || string(text) != "pause\nswitch\n" {
		t.Errorf("the hooks ran %q (%v)", text, err)
	}
	arrived := func() {
		t.Helper()
		p.newClient()
		if findings := fmt.Sprint(p.result(0, "status")["findings"]); strings.Contains(findings, "traffic") {
			t.Errorf("status: %s", findings)
		}
	}
	arrived()
	says(p.run(6, p.command("rollback", "--yes", "--on-resume", astray(p.source, other.Port()))...), correct,
		fmt.Sprintf("database app of the server at 127.0.0.1, port %d, and not to 127.0.0.1:%d/app", other.Port(), p.source.Port()))
	if findings := fmt.Sprint(p.result(0, "status")["findings"]); !strings.Contains(findings, "has not been seen to arrive") {
		t.Errorf("status: %s", findings)
	}
	p.result(0, p.command("rollback", "--yes")...)
	arrived()

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
	says(p.run(3, p.command("switchover", "--yes", "--pgbouncer-database", "elsewhere")...), "not to the source",
		"name the database under which the application connects (--pgbouncer-database), or correct its entry and RELOAD")
	p.goesOn()
	lead(t, pooler, other.Port(), p.source.Port())
	p.run(0, p.command("rehearse", "--pgbouncer-database", "elsewhere")...)
	p.run(0, p.command("switchover", "--yes", "--pgbouncer-database", p.db)...)
	p.goesOn()
}

// TestUsedUp: clients that take every connection which PgBouncer may have to the taker
// are served there. That one more does not get in is no reason to hold them back.
func TestUsedUp(t *testing.T) {
	t.Parallel()
	p := newPooled(t, 12, 17, "", "transaction", 1)
	pooler, psql := p.poolers[0], p.target.BinDir()+"/psql -X -q -A -t "
	const busy = "SELECT pg_catalog.pg_sleep(997)"
	r := p.run(0, p.command("switchover", "--yes", "--on-resume", fmt.Sprintf(`%[1]s '%[2]s' -c '%[3]s' >/dev/null 2>&1 </dev/null &
		until test "$(%[1]s '%[4]s' -c "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE query = '%[3]s'")" = 1; do :; done
		%[1]s '%[5]s' -c 'SET max_db_connections = 1'`, psql, p.through(0), busy, p.targetURI(), pooler.AdminURI()))...)
	if !strings.Contains(r.Stderr, "serves clients, but where it leads could not be looked at") {
		t.Errorf("it is not said that nobody has looked:\n%s", r)
	}
	if findings := fmt.Sprint(p.result(0, "status")["findings"]); strings.Contains(findings, "traffic") {
		t.Errorf("status: %s", findings)
	}
	pgtest.Exec(t, p.targetURI(), `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE query = '`+busy+`'`)
	console(t, pooler, "RELOAD")
	p.goesOn()
}

// lead corrects the port of an entry by hand.
func lead(t *testing.T, p *cluster.Pooler, from, to int) {
	t.Helper()
	ini, err := os.ReadFile(p.IniPath())
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(ini), fmt.Sprintf("port=%d", from), fmt.Sprintf("port=%d", to))
	if err := os.WriteFile(p.IniPath(), []byte(text), 0); err != nil {
		t.Fatal(err)
	}
	console(t, p, "RELOAD")
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
