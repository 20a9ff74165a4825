package cli_test

import (
	"strings"
	"testing"

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
		CREATE TABLE gk (a int NOT NULL, g int GENERATED ALWAYS AS (a + 1) STORED); INSERT INTO gk SELECT generate_series(1, 10)`)
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
	m.run(0, "switchover", "--yes")
	m.same()
	exec(m.targetURI(), `UPDATE gk SET a = a + 100 WHERE a < 3`, `DELETE FROM gk WHERE a = 7`)
	m.run(0, "rollback", "--yes")
	m.same()
}
