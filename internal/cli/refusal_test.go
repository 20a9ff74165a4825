package cli_test

import (
	"strings"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
)

// refused are conditions in which no handover can be, each with what mends it as the
// refusal says.
var refused = []struct {
	name           string
	source, target []string // provoke it; the target's in a session that may write
	code           int
	says, remedy   string
	asSaidSource   []string
	asSaidTarget   []string
	command        string // as said, too
}{
	{name: "a generated column and no key", code: 3, says: `table "public"."gk" has a generated column in its replica identity`,
		remedy:       `on both sides ALTER TABLE ONLY "public"."gk" ADD PRIMARY KEY (these columns) and ALTER TABLE ONLY "public"."gk" REPLICA IDENTITY DEFAULT`,
		asSaidSource: []string{`ALTER TABLE ONLY "public"."gk" ADD PRIMARY KEY (a)`, `ALTER TABLE ONLY "public"."gk" REPLICA IDENTITY DEFAULT`},
		asSaidTarget: []string{`ALTER TABLE ONLY "public"."gk" ADD PRIMARY KEY (a)`, `ALTER TABLE ONLY "public"."gk" REPLICA IDENTITY DEFAULT`}},
	{name: "a table that came later", source: []string{`CREATE TABLE later (i int PRIMARY KEY)`}, code: 3,
		says: `table "public"."later" is not in the publication`, remedy: "drop it until after the handover", asSaidSource: []string{`DROP TABLE later`}},
	{name: "a table on the receiving side only", target: []string{`CREATE TABLE there (i int PRIMARY KEY)`}, code: 3,
		says: `table "public"."there" exists only on the receiving side`, remedy: "drop it until after the handover", asSaidTarget: []string{`DROP TABLE there`}},
	{name: "other columns", source: []string{`ALTER TABLE t ADD COLUMN late text`}, code: 3,
		says: `table "public"."t" has other columns`, remedy: "make its columns the same on both sides", asSaidTarget: []string{`ALTER TABLE t ADD COLUMN late text`}},
	{name: "a sequence that came later", source: []string{`CREATE SEQUENCE late`}, code: 4,
		says: `sequence "public"."late" does not exist here`, remedy: "create it as it is on the source", asSaidTarget: []string{`CREATE SEQUENCE late`}},
	{name: "no replica identity", target: []string{`ALTER TABLE t REPLICA IDENTITY NOTHING`}, code: 3,
		says: `table "public"."t" on the target has no replica identity`, remedy: `ALTER TABLE "public"."t" REPLICA IDENTITY FULL`,
		asSaidTarget: []string{`ALTER TABLE "public"."t" REPLICA IDENTITY FULL`}},
	{name: "a key with a generated column", target: []string{`ALTER TABLE g REPLICA IDENTITY FULL`}, code: 3,
		says: `table "public"."g" has a generated column in its replica identity`, remedy: `ALTER TABLE ONLY "public"."g" REPLICA IDENTITY DEFAULT`,
		asSaidTarget: []string{`ALTER TABLE ONLY "public"."g" REPLICA IDENTITY DEFAULT`}},
	{name: "a disabled subscription", command: "resume", code: 3,
		target: []string{`DO $$ BEGIN EXECUTE (SELECT format('ALTER SUBSCRIPTION %I DISABLE', subname) FROM pg_subscription WHERE subname LIKE 'pgbaton\_%'); END $$`},
		says:   "is disabled", remedy: "pgbaton resume"},
	{name: "a subscription of the user's", code: 3,
		source: []string{`CREATE SUBSCRIPTION "My sub" CONNECTION 'dbname=nothing' PUBLICATION p WITH (connect = false)`, `ALTER SUBSCRIPTION "My sub" ENABLE`},
		says:   `subscription "My sub" writes into the source's database`, remedy: `ALTER SUBSCRIPTION "My sub" DISABLE`, asSaidSource: []string{`ALTER SUBSCRIPTION "My sub" DISABLE`}},
}

// TestRefused: what a switchover refuses to begin with it does no longer once the
// remedy has been followed.
func TestRefused(t *testing.T) {
	t.Parallel()
	m := newMove(t, 15, 18)
	m.load(`CREATE TABLE t (i int PRIMARY KEY); CREATE TABLE g (i int PRIMARY KEY, g int GENERATED ALWAYS AS (i + 1) STORED);
		CREATE TABLE gk (a int NOT NULL, g int GENERATED ALWAYS AS (a + 1) STORED); INSERT INTO gk SELECT generate_series(1, 10);
		CREATE TABLE once_more (i int PRIMARY KEY); INSERT INTO once_more SELECT generate_series(1, 10)`)
	m.run(0, "start")
	exec := func(uri string, sql ...string) {
		t.Helper()
		conn := pgtest.Connect(t, uri)
		for _, one := range append([]string{`SET default_transaction_read_only = off`}, sql...) {
			mustExec(t, conn, one)
		}
		conn.Close(t.Context())
	}
	for _, r := range refused {
		exec(m.sourceURI(), r.source...)
		exec(m.targetURI(), r.target...)
		got := m.run(r.code, "switchover", "--yes", "--max-pause", "5s")
		if !strings.Contains(got.Stderr, r.says) || !strings.Contains(got.Stderr, r.remedy) {
			t.Errorf("%s: want %q and %q in\n%s", r.name, r.says, r.remedy, got)
		}
		exec(m.targetURI(), r.asSaidTarget...)
		exec(m.sourceURI(), r.asSaidSource...)
		if r.command != "" {
			m.run(0, r.command)
		}
		if got := m.run(0, "rehearse"); strings.Contains(got.Stderr, r.says) {
			t.Errorf("%s: the remedy does not help:\n%s", r.name, got)
		}
	}
	m.copiedAgain("once_more")
	m.run(0, "switchover", "--yes")
	m.same()
	exec(m.targetURI(), `UPDATE gk SET a = a + 100 WHERE a < 3`, `DELETE FROM gk WHERE a = 7`)
	m.run(0, "rollback", "--yes")
	m.same()
}

// copiedAgain has PostgreSQL copy a table once more, after somebody has dropped it on the
// target: until that is done a switchover is refused, and status shows when it is.
func (m *move) copiedAgain(table string) {
	m.t.Helper()
	const open = `SET default_transaction_read_only = off`
	pgtest.Exec(m.t, m.targetURI(), open, `DROP TABLE `+table, `CREATE TABLE `+table+` (i int PRIMARY KEY)`)
	held := pgtest.Hold(m.t, m.targetURI(), `LOCK TABLE `+table+` IN SHARE MODE`) // nothing is copied into it
	name := pgtest.QueryValue[string](m.t, pgtest.Connect(m.t, m.targetURI()), `SELECT subname FROM pg_subscription WHERE subname LIKE 'pgbaton\_%'`)
	pgtest.Exec(m.t, m.targetURI(), open, `ALTER SUBSCRIPTION `+name+` REFRESH PUBLICATION`)
	r := m.run(3, "switchover", "--yes")
	says, remedy := `table "public"."`+table+`" is not ready`, "wait until pgbaton status shows all tables ready"
	if !strings.Contains(r.Stderr, says) || !strings.Contains(r.Stderr, remedy) {
		m.t.Errorf("want %q and %q in\n%s", says, remedy, r)
	}
	held.Release()
	pgtest.Until(m.t, time.Minute, "status shows all tables ready", func() bool {
		group := m.result(0, "status")["groups"].([]any)[0].(map[string]any)
		return group["tables_ready"] == group["tables"]
	})
	if r := m.run(0, "rehearse"); strings.Contains(r.Stderr, says) {
		m.t.Errorf("the remedy does not help:\n%s", r)
	}
}

// TestCommandsRefused: a command that comes at the wrong time says which one helps, and
// that one does.
func TestCommandsRefused(t *testing.T) {
	t.Parallel()
	m := &move{t: t, source: pgtest.Start(t, 12, map[string]string{"max_prepared_transactions": "2"}), target: pgtest.Start(t, 15), db: "app"}
	m.load(`CREATE TABLE t (i int PRIMARY KEY)`)
	// refuses runs a command, and follows the remedy; the command is not refused for this any more.
	refuses := func(why, remedy string, command []string, follow func(), then int) {
		t.Helper()
		r := m.run(3, command...)
		if !strings.Contains(r.Stderr, why) || !strings.Contains(r.Stderr, remedy) {
			t.Errorf("%q: want %q and %q in\n%s", command, why, remedy, r)
		}
		if follow == nil {
			return
		}
		follow()
		if r := m.run(then, command...); strings.Contains(r.Stderr, why) {
			t.Errorf("%q: the remedy does not help:\n%s", command, r)
		}
	}
	does := func(command ...string) func() { return func() { t.Helper(); m.run(0, command...) } }
	const none = "there is no migration between these databases"
	for _, command := range [][]string{{"switchover", "--yes"}, {"rollback", "--yes"}, {"rehearse"}, {"pause"}, {"resume"}, {"report"}} {
		refuses(none, "pgbaton start", command, nil, 0) // while the target's database is not there
	}
	pgtest.Exec(t, m.target.ConnString("postgres"), `CREATE DATABASE app`)
	refuses(none, "pgbaton start", []string{"switchover", "--yes"}, nil, 0)
	refuses(none, "pgbaton start", []string{"report"}, nil, 0)
	refuses("there is no subscription yet", "pgbaton start", []string{"resume"}, nil, 0)
	refuses(none, "pgbaton start", []string{"rehearse"}, does("start"), 0)
	m.run(0, "report")
	m.run(0, "resume")
	refuses("was started with --method stream", "continue with that method", []string{"start", "--method", "dump"}, nil, 0)
	m.run(0, "start", "--method", "stream")
	refuses("was started with another selection of tables", "give the same", []string{"start", "--schema", "public"}, nil, 0)
	m.run(0, "start")

	pgtest.Exec(t, m.sourceURI(), "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'p'")
	refuses("could be committed after the fence", "ROLLBACK PREPARED", []string{"rehearse"},
		func() { pgtest.Exec(t, m.sourceURI(), "ROLLBACK PREPARED 'p'") }, 0)

	refuses("the source still holds the baton", "pgbaton switchover first", []string{"finish", "--yes"}, nil, 0)
	m.run(0, "switchover", "--yes")
	refuses("the target holds the baton", "pgbaton finish", []string{"reset", "--yes"}, nil, 0)
	refuses("the baton has passed to the target", "pgbaton status, then pgbaton finish", []string{"start"}, nil, 0)
	m.run(0, "rollback", "--yes")
	refuses("the target has held the baton", "pgbaton finish", []string{"reset", "--yes"}, does("finish", "--yes"), 0)
}
