package cli_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
)

// TestSigns: what the program says where a move stands still: on the way, after
// a failure, and before it asks.
func TestSigns(t *testing.T) {
	t.Parallel()
	m := newMove(t, 15, 17)
	m.loadApp()

	// A migration may have any name, also that of the command that minds SIGHUP in
	// its own way.
	p := pgtest.Spawn(t, m.options("status", "--watch", "--json", "--migration", "demo"))
	p.AwaitStdout(t, `"phase":"new"`)
	p.Signal(t, syscall.SIGHUP)
	if r := p.Wait(t); r.Code != 0 {
		t.Errorf("status --watch after SIGHUP: %s", r)
	}

	// A start that dies when one table is copied.
	m.kill(`"type":"table_copied"`, "start", "--jobs", "1", "--max-rate", "2MB")
	target := pgtest.Connect(t, m.targetURI())
	kept := pgtest.QueryValue[float64](t, target, `SELECT count(*)::float FROM pgbaton.journal WHERE kind = 'copied'`)
	s := m.result(0, "status")
	if kept == 0 || s["tables_copied"] != kept || s["bytes_copied"] == 0.0 || s["bytes_per_second"] != 0.0 || s["eta_seconds"] != 0.0 || s["running"] != nil {
		t.Errorf("%v tables are kept, and status says %v", kept, s)
	}
	for _, command := range [][]string{{"switchover", "--yes"}, {"rehearse"}} {
		reasons, _ := m.result(3, command...)["reasons"].([]any)
		if len(reasons) != 1 || !strings.Contains(reasons[0].(map[string]any)["why"].(string), "the copy is not complete") {
			t.Errorf("%s while the copy is not complete: %v", command[0], reasons)
		}
	}
	m.run(0, "start")

	// What keeps nothing is not said to keep something.
	m.run(0, "pause")
	if r := m.run(0, "status"); strings.Contains(r.Stdout, "is gone") {
		t.Errorf("paused: %s", r)
	}
	pgtest.Exec(t, m.sourceURI(), `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots`)
	if r := m.run(0, "status"); !strings.Contains(r.Stdout, "is gone from the source") || strings.Contains(r.Stdout, "keeps WAL") {
		t.Errorf("without its slot: %s", r)
	}
	if r := m.run(0, "pause"); strings.Contains(r.Stdout, "keeps WAL") || !strings.Contains(r.Stdout, "is gone from the source") {
		t.Errorf("pause without a slot: %s", r)
	}
}

// TestQuestion: who may not hand over is not asked, and who is asked has seen the
// forecast.
func TestQuestion(t *testing.T) {
	t.Parallel()
	m := newMove(t, 15, 17)
	m.loadApp()
	m.run(0, "start", "--hold")
	for _, command := range []string{"switchover", "rollback"} {
		if command == "switchover" {
			if said, code := m.atTerminal("n", command); code != 3 || strings.Contains(said, question) || !strings.Contains(said, "is disabled") {
				t.Errorf("held: exit %d\n%s", code, said)
			}
			m.run(0, "resume")
			pgtest.UntilTrue(t, m.sourceURI(), 10*time.Second, "the slot is read", `SELECT bool_and(active) FROM pg_replication_slots`)
		}
		said, code := m.atTerminal("n", command)
		asked, _, _ := strings.Cut(said, question)
		if code != 2 || !strings.Contains(asked, "forecast:") || !strings.Contains(said, "not confirmed") {
			t.Errorf("%s, answered with no: exit %d\n%s", command, code, said)
		}
		baton := map[string]string{"switchover": "source", "rollback": "target"}[command]
		if s := m.result(0, "status"); s["baton"] != baton || s["working"] != false {
			t.Errorf("after the answer no: %v", s)
		}
		if said, code := m.atTerminal("y", command); code != 0 {
			t.Errorf("%s, answered with yes: exit %d\n%s", command, code, said)
		}
	}
	m.same()

	// While a person thinks, somebody else hands over: nothing has gone wrong, and what
	// is answered is judged by what is so now.
	said, code := m.thinking(func() string {
		m.run(0, "switchover", "--yes")
		return "y"
	}, "switchover")
	if code != 0 || !strings.Contains(said, question) {
		t.Errorf("handed over by somebody else while a person thought: exit %d\n%s", code, said)
	}
	// Or another migration takes its place, with other tables and names.
	said, code = m.thinking(func() string {
		m.run(0, "rollback", "--yes")
		m.run(0, "finish", "--yes", "--unfence")
		pgtest.Exec(t, m.target.ConnString("postgres"), `DROP DATABASE app WITH (FORCE)`)
		m.run(0, "start", "--exclude-table", "app.filler")
		return "y"
	}, "rollback")
	if code != 3 || !strings.Contains(said, "the target never had the baton") {
		t.Errorf("another migration while a person thought: exit %d\n%s", code, said)
	}
	if s := m.result(0, "status"); s["baton"] != "source" {
		t.Errorf("afterwards: %v", s)
	}
}

// TestTrySchemaKilled: start finds by itself what the target cannot restore, before it
// has made anything; killed meanwhile, the next command removes the throw-away
// database.
func TestTrySchemaKilled(t *testing.T) {
	t.Parallel()
	m := newMove(t, 12, 17)
	m.tries = true
	m.load(`CREATE TABLE t (i int PRIMARY KEY)`, `CREATE VIEW old AS SELECT datlastsysoid FROM pg_database`,
		`DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('CREATE TABLE t%s (i int, t text)', i); END LOOP; END $$`)
	const trials = `SELECT count(*)::int FROM pg_database WHERE datname LIKE 'pgbaton%'`
	admin := m.target.ConnString("postgres")
	p := pgtest.Spawn(t, m.options("start"))
	pgtest.UntilTrue(t, admin, time.Minute, "the definitions are being restored", `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname LIKE 'pgbaton%' AND query LIKE '%CREATE TABLE%')`)
	p.Signal(t, syscall.SIGKILL)
	p.Wait(t)
	if n := pgtest.QueryValue[int](t, pgtest.Connect(t, admin), trials); n != 1 {
		t.Errorf("%d throw-away databases after the kill", n)
	}
	m.run(0, "check")
	if n := pgtest.QueryValue[int](t, pgtest.Connect(t, admin), trials); n != 0 {
		t.Errorf("%d throw-away databases are left", n)
	}
	if r := m.run(3, "start"); !strings.Contains(r.Stderr, `VIEW "public.old"`) || !strings.Contains(r.Stderr, "datlastsysoid") {
		t.Errorf("%s", r)
	}
	if n := pgtest.QueryValue[int](t, pgtest.Connect(t, m.sourceURI()), `SELECT count(*)::int FROM pg_namespace WHERE nspname = 'pgbaton'`); n != 0 {
		t.Error("start has made something")
	}
	pgtest.Exec(t, m.sourceURI(), `DROP VIEW old`)
	m.run(0, "start")
	if n := pgtest.QueryValue[int](t, pgtest.Connect(t, admin), trials); n != 0 {
		t.Errorf("%d throw-away databases are left", n)
	}
}
