package cli_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
)

// TestEnds: a migration belongs to its two databases. Between others nothing is
// made, nothing is removed, and the first stream goes on.
func TestEnds(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 17)
	elsewhere := pgtest.Start(t, 17)
	m.load(`CREATE TABLE t (i int PRIMARY KEY)`, `INSERT INTO t SELECT generate_series(1, 100)`)
	pgtest.Exec(t, m.source.ConnString("postgres"), `CREATE DATABASE other TEMPLATE app`)
	m.run(0, "start")
	wrong := func(source, target string) pgtest.RunOptions {
		return pgtest.RunOptions{Env: []string{"PGBATON_SOURCE=" + source, "PGBATON_TARGET=" + target}, Timeout: time.Minute}
	}
	for name, o := range map[string]struct {
		pgtest.RunOptions
		says string
	}{
		"another server":          {wrong(m.sourceURI(), elsewhere.ConnString("app")), m.target.ConnString("app")},
		"another database":        {wrong(m.sourceURI(), m.target.ConnString("postgres")), m.target.ConnString("app")},
		"one that does not exist": {wrong(m.sourceURI(), m.target.ConnString("new")), m.target.ConnString("app")},
		"another source":          {wrong(m.source.ConnString("other"), m.targetURI()), m.source.ConnString("app")},
	} {
		for _, command := range [][]string{{"check"}, {"start"}, {"status"}, {"resume"}, {"pause"}, {"rehearse"}, {"switchover", "--yes"}, {"reset", "--yes", "--drop-database"}} {
			o.Args = append(command, "--pg-bin", m.target.BinDir())
			r := pgtest.Run(t, o.RunOptions)
			if r.Code == 0 && name == "one that does not exist" && command[0] == "pause" {
				continue
			}
			address := regexp.MustCompile(`@([^/]+/\w+)`).FindStringSubmatch(o.says)[1]
			if r.Code != 3 && r.Code != 1 || !strings.Contains(r.Stdout+r.Stderr, address) && r.Code == 3 {
				t.Errorf("%s, %q: want exit 3 and the name of %s\n%s", name, command, address, r)
			}
		}
	}
	admin := pgtest.Connect(t, elsewhere.ConnString("postgres"))
	if n := pgtest.QueryValue[int](t, admin, `SELECT count(*)::int FROM pg_database WHERE datname = 'app'`); n != 0 {
		t.Errorf("a database was made on the other server")
	}
	pgtest.Exec(t, m.sourceURI(), `INSERT INTO t SELECT generate_series(101, 200)`)
	if s := m.result(0, "status"); s["phase"] != "streaming" {
		t.Errorf("the first stream: %v", s)
	}
	m.run(0, "switchover", "--yes")
	m.same()
}

// TestTwoDatabases moves two databases of one cluster into one other cluster, at the
// same time and under the same name.
func TestTwoDatabases(t *testing.T) {
	t.Parallel()
	a := newMove(t, 12, 17)
	b := &move{t: t, source: a.source, target: a.target, db: "b"}
	for _, m := range []*move{a, b} {
		m.load(`CREATE TABLE t (i int PRIMARY KEY, d text DEFAULT current_database())`, `INSERT INTO t SELECT generate_series(1, 100)`)
		m.run(0, "check")
		m.run(0, "start")
	}
	a.run(0, "switchover", "--yes")
	for _, m := range []*move{a, b} {
		s := m.result(0, "status")
		if slots := s["slots"].([]any); len(slots) != 1 {
			t.Errorf("slots of database %s: %v", m.db, slots)
		}
	}
	// Names of migrations that were begun before they carried an id may collide.
	onTarget := pgtest.Connect(t, a.target.ConnString("postgres"))
	reverse := pgtest.QueryValue[string](t, pgtest.Connect(t, b.sourceURI()), `SELECT 'pgbaton_' || (ends ->> 'label') || '_reverse_1' FROM pgbaton.migration`)
	mustExec(t, onTarget, `SELECT pg_create_logical_replication_slot('`+reverse+`', 'pgoutput')`)
	for _, command := range [][]string{{"rehearse"}, {"switchover", "--yes"}} {
		if r := b.run(3, command...); !strings.Contains(r.Stderr, reverse+` already, for database "postgres"`) {
			t.Errorf("%s", r)
		}
	}
	mustExec(t, onTarget, `SELECT pg_drop_replication_slot('`+reverse+`')`)
	b.run(0, "rehearse")
	b.run(0, "switchover", "--yes")
	a.run(0, "rollback", "--yes")
	b.run(0, "rollback", "--yes")
	a.same()
	b.same()
}

// TestRecordsGone: what a migration has made is found by its name when somebody has
// dropped both records.
func TestRecordsGone(t *testing.T) {
	t.Parallel()
	m := newMove(t, 12, 17)
	m.load(`CREATE TABLE t (i int PRIMARY KEY)`, `INSERT INTO t SELECT generate_series(1, 100)`)
	m.run(0, "start")
	for _, uri := range []string{m.sourceURI(), m.targetURI()} {
		pgtest.Exec(t, uri, `SET default_transaction_read_only = off`, `DROP SCHEMA pgbaton CASCADE`)
	}
	m.refusedUntil(map[string]string{"neither side has a record of the migration any more": "pgbaton reset removes what there is, and leaves all rows and tables where they are"},
		func() { m.run(0, "reset", "--yes") }, "finish", "--yes")
	m.same()
	for uri, sql := range map[string]string{m.sourceURI(): `SELECT NOT EXISTS (SELECT FROM pg_replication_slots) AND NOT EXISTS (SELECT FROM pg_publication)`,
		m.targetURI(): `SELECT NOT EXISTS (SELECT FROM pg_subscription)`} {
		if !pgtest.QueryValue[bool](t, pgtest.Connect(t, uri), sql) {
			t.Errorf("something is left: %s", sql)
		}
	}
}

// TestElsewhere: a connection string for the target's server that leads to another
// database leaves no subscription behind, and the right one then goes on.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 17)
	m.load(`CREATE TABLE t (i int PRIMARY KEY)`, `INSERT INTO t SELECT generate_series(1, 100)`)
	pgtest.Exec(t, m.source.ConnString("postgres"), `CREATE DATABASE other`)
	if r := m.run(1, "start", "--source-from-target", m.source.ConnString("other")); !strings.Contains(r.Stderr, "--source-from-target must lead to") {
		t.Errorf("%s", r)
	}
	if n := pgtest.QueryValue[int](t, pgtest.Connect(t, m.targetURI()), `SELECT count(*)::int FROM pg_subscription`); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
	m.run(0, "start")
	m.run(0, "switchover", "--yes")
	m.same()
}
