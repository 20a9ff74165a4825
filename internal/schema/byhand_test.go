package schema_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgbaton/internal/cluster"
	"pgbaton/internal/journal"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// TestByHand: what pgbaton's role may not put back, take out or drop is told with the
// statement, and is done when a role that may has run it.
func TestByHand(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 15, map[string]string{"autovacuum_naptime": "1s"})
	pgtest.Exec(t, c.ConnString("postgres"), `CREATE ROLE mover LOGIN CREATEDB`, `GRANT pg_signal_backend TO mover`)
	t.Run("triggers", func(t *testing.T) { t.Parallel(); testTriggersByHand(t, c) })
	t.Run("empty", func(t *testing.T) { t.Parallel(); testEmptyByHand(t, c) })
	t.Run("throw-away database", func(t *testing.T) { t.Parallel(); testTrialByHand(t, c) })
}

// asMover makes a database of the role's, and returns its session there.
func asMover(t *testing.T, c *cluster.Cluster, db string) (*postgres.Server, *postgres.Session) {
	t.Helper()
	pgtest.Exec(t, c.ConnString("postgres"), `CREATE DATABASE `+db+` OWNER mover`)
	server := newServer(t, postgres.Target, c.ConnStringAs("mover", "", db))
	conn, err := server.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return server, conn
}

func testTriggersByHand(t *testing.T, c *cluster.Cluster) {
	_, conn := asMover(t, c, "triggers")
	admin := c.ConnString("triggers")
	err := journal.Create(t.Context(), conn, journal.Record{Name: "m", ID: "1", Side: postgres.Target, Method: "stream"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, admin, `CREATE TABLE "T" (i int)`, `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`,
		`CREATE TRIGGER "it's always" AFTER INSERT ON "T" EXECUTE FUNCTION f()`, `ALTER TABLE "T" ENABLE ALWAYS TRIGGER "it's always"`,
		`CREATE TRIGGER replica AFTER INSERT ON "T" EXECUTE FUNCTION f()`, `ALTER TABLE "T" ENABLE REPLICA TRIGGER replica`, `ALTER TABLE "T" OWNER TO mover`)
	enabled := func(want string) {
		t.Helper()
		got := pgtest.QueryValue[string](t, conn, `SELECT string_agg(tgname || ' ' || tgenabled::text, ', ' ORDER BY tgname) FROM pg_catalog.pg_trigger WHERE NOT tgisinternal`)
		if got != want {
			t.Errorf("triggers: %s, want %s", got, want)
		}
	}
	if err := schema.QuietTriggers(t.Context(), conn, nil); err != nil {
		t.Fatal(err)
	}
	enabled("it's always O, replica D")
	pgtest.Exec(t, admin, `ALTER TABLE "T" OWNER TO postgres`)
	_, left, err := schema.RestoreTriggers(t.Context(), conn)
	if err != nil || len(left) != 2 {
		t.Fatalf("left: %+v, %v", left, err)
	}
	enabled("it's always O, replica D")
	for _, l := range left {
		pgtest.Exec(t, admin, l.Remedy)
	}
	enabled("it's always A, replica R")
	if _, left, err := schema.RestoreTriggers(t.Context(), conn); err != nil || len(left) > 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
}

func testEmptyByHand(t *testing.T, c *cluster.Cluster) {
	_, conn := asMover(t, c, "emptied")
	baseline, err := schema.ReadBaseline(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	admin := c.ConnString("emptied")
	pgtest.Exec(t, admin, `CREATE SCHEMA "A stranger's"`, `CREATE TABLE "A stranger's".t ()`, `CREATE SCHEMA ours AUTHORIZATION mover`)
	left, err := schema.Empty(t.Context(), conn, baseline)
	if err != nil || len(left) != 1 || !strings.Contains(left[0].Why, "must be owner of schema A stranger's") {
		t.Fatalf("left: %+v, %v", left, err)
	}
	sql, ok := strings.CutSuffix(left[0].Remedy, ", by hand as a role that may, if it is still wanted")
	if !ok {
		t.Fatalf("remedy: %s", left[0].Remedy)
	}
	pgtest.Exec(t, admin, sql)
	if left, err := schema.Empty(t.Context(), conn, baseline); err != nil || len(left) > 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
	if n := pgtest.QueryValue[int](t, conn, `SELECT count(*)::int FROM pg_catalog.pg_namespace WHERE nspname IN ('A stranger''s', 'ours')`); n != 0 {
		t.Errorf("%d schemas are left", n)
	}
}

// testTrialByHand: a superuser's session in the database of a dead process is not ours to
// end, and a worker of autovacuum makes way.
func testTrialByHand(t *testing.T, c *cluster.Cluster) {
	server, conn := asMover(t, c, "tried")
	admin := c.ConnString("postgres")
	const name = "pgbaton_try_0123456789ab"
	pgtest.Exec(t, admin, `CREATE DATABASE `+name+` OWNER mover`)
	pgtest.Connect(t, c.ConnString(name))
	err := schema.RemoveTrials(t.Context(), server, conn)
	sql, ok := strings.CutPrefix(postgres.Hint(err), "end the sessions in it, then ")
	if !ok || !strings.Contains(err.Error(), `dropping the throw-away database "`+name+`"`) {
		t.Fatalf("%v; hint: %s", err, postgres.Hint(err))
	}
	pgtest.Exec(t, admin, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '`+name+`'`, sql)
	there := func() bool {
		return pgtest.QueryValue[bool](t, conn, `SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)`, name)
	}
	if there() {
		t.Error("the remedy does not help")
	}
	if err := schema.RemoveTrials(t.Context(), server, conn); err != nil {
		t.Error(err)
	}

	pgtest.Exec(t, admin, `CREATE DATABASE `+name+` OWNER mover`)
	pgtest.Exec(t, c.ConnString(name), `CREATE TABLE t WITH (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 1)
		AS SELECT i, repeat('x', 1000) FROM generate_series(1, 2000) i`, `DELETE FROM t`)
	pgtest.UntilTrue(t, admin, time.Minute, "a worker of autovacuum", fmt.Sprintf(`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = '%s' AND backend_type = 'autovacuum worker')`, name))
	if err := schema.RemoveTrials(t.Context(), server, conn); err != nil || there() {
		t.Errorf("beside autovacuum: %v", err)
	}
}
