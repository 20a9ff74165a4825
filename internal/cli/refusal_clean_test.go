package cli_test

import (
	"strings"
	"testing"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// TestLeftToOthers: what the role may not do, or not any more, start and finish leave, and
// say what somebody else does instead.
func TestLeftToOthers(t *testing.T) {
	t.Parallel()
	m := &move{t: t, db: "app", source: pgtest.StartOptions(t, cluster.Options{Major: 17, Password: "secret"}),
		target: pgtest.StartOptions(t, cluster.Options{Major: 18, Password: "secret"})}
	for _, c := range []*cluster.Cluster{m.source, m.target} {
		pgtest.Exec(t, c.ConnString("postgres"), `CREATE ROLE app LOGIN PASSWORD 'app'`, `CREATE ROLE mover LOGIN REPLICATION PASSWORD 'm0ver'`, `CREATE ROLE porter`, `CREATE ROLE guest`,
			`GRANT app, porter, pg_monitor, pg_signal_backend, pg_create_subscription TO mover`, `CREATE DATABASE app OWNER app`)
	}
	pgtest.Exec(t, m.source.ConnString("postgres"), `REVOKE CONNECT ON DATABASE app FROM PUBLIC`,
		`GRANT CONNECT ON DATABASE app TO porter WITH GRANT OPTION`, `SET ROLE porter`, `GRANT CONNECT ON DATABASE app TO guest`)
	pgtest.Exec(t, m.source.ConnStringAs("app", "app", "app"), `CREATE TABLE t (i int PRIMARY KEY)`, `COMMENT ON SCHEMA public IS 'ours'`)
	pgtest.Exec(t, m.targetURI(), `ALTER SCHEMA public OWNER TO postgres`, `GRANT ALL ON SCHEMA public TO app`)
	m.env = []string{"PGBATON_SOURCE=" + m.source.ConnStringAs("mover", "m0ver", "app"), "PGBATON_TARGET=" + m.target.ConnStringAs("mover", "m0ver", "app")}

	r := m.run(0, "start")
	if hint := hintBelow(t, r.Stderr, "must be owner of schema public"); hint != "rows and all other definitions are complete without it; if it is wanted, remove the cause and run the statement there by hand" {
		t.Error(hint)
	}
	_, sql, _ := strings.Cut(r.Stderr, "Command was: ")
	sql, _, _ = strings.Cut(sql, ";")
	pgtest.Exec(t, m.targetURI(), `SET default_transaction_read_only = off`, sql)
	target := writer(t, m.targetURI())
	if is := pgtest.QueryValue[string](t, target, `SELECT obj_description('public'::regnamespace)`); is != "ours" {
		t.Errorf("after %s the comment is %q", sql, is)
	}

	m.run(0, "switchover", "--yes")
	publication := pgtest.QueryValue[string](t, target, `SELECT quote_ident(pubname) FROM pg_publication`)
	mustExec(t, target, `ALTER PUBLICATION `+publication+` OWNER TO postgres`)
	pgtest.Exec(t, m.source.ConnString("postgres"), `REVOKE porter FROM mover`)
	left := m.result(0, "finish", "--yes", "--unfence")["left"]
	if len(left.([]any)) != 2 {
		t.Errorf("left: %v", left)
	}
	const mayConnect = `SELECT has_database_privilege('guest', 'app', 'CONNECT')`
	source := pgtest.Connect(t, m.sourceURI())
	if pgtest.QueryValue[bool](t, source, mayConnect) {
		t.Error("the guest may connect already")
	}
	_, sql, found := strings.Cut(remedyOf(t, left, `source: applications cannot all connect: "guest" has no CONNECT by "porter"`), "there, as a superuser: ")
	if !found {
		t.Errorf("%q", sql)
	}
	pgtest.Exec(t, m.sourceURI(), sql)
	if !pgtest.QueryValue[bool](t, source, mayConnect) {
		t.Errorf("the guest may not connect after %s", sql)
	}
	if remedy := remedyOf(t, left, "must be owner of publication"); remedy != "remove the cause, then run the same command again" {
		t.Error(remedy)
	}
	mustExec(t, target, `ALTER PUBLICATION `+publication+` OWNER TO mover`)
	if left := m.result(0, "finish", "--yes")["left"]; len(left.([]any)) > 0 {
		t.Errorf("left: %v", left)
	}
	if n := pgtest.QueryValue[int](t, target, `SELECT (SELECT count(*) FROM pg_publication)::int + (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgbaton')::int`); n != 0 {
		t.Errorf("%d things of ours are left on the target", n)
	}
}
