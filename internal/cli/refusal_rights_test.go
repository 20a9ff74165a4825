package cli_test

import (
	"regexp"
	"strings"
	"testing"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// TestRightsTaken: rights that the role had at the start, and that somebody takes away
// meanwhile, are named by what fails without them; given back as said, it fails no more.
func TestRightsTaken(t *testing.T) {
	t.Parallel()
	m := &move{t: t, db: "app", source: pgtest.StartOptions(t, cluster.Options{Major: 17, Password: "secret"}),
		target: pgtest.StartOptions(t, cluster.Options{Major: 18, Password: "secret"})}
	for _, c := range []*cluster.Cluster{m.source, m.target} {
		pgtest.Exec(t, c.ConnString("postgres"), `CREATE ROLE app LOGIN PASSWORD 'app'`, `CREATE ROLE mover LOGIN REPLICATION CREATEDB PASSWORD 'm0ver'`,
			`CREATE ROLE granter`, `CREATE ROLE guest LOGIN PASSWORD 'guest'`,
			`GRANT app, granter, pg_monitor, pg_signal_backend, pg_create_subscription TO mover`)
	}
	pgtest.Exec(t, m.source.ConnString("postgres"), `CREATE DATABASE app OWNER app`, `REVOKE CONNECT ON DATABASE app FROM PUBLIC`,
		`GRANT CONNECT ON DATABASE app TO granter WITH GRANT OPTION`, `SET ROLE granter`, `GRANT CONNECT ON DATABASE app TO guest`)
	pgtest.Exec(t, m.source.ConnStringAs("app", "app", "app"), `CREATE TABLE t (i int PRIMARY KEY)`, `INSERT INTO t VALUES (1)`,
		gatedSQL, `CREATE TABLE secret (i int PRIMARY KEY)`, `CREATE SCHEMA "Hidden"`, `CREATE TABLE "Hidden".t (i int PRIMARY KEY)`)
	m.env = []string{"PGBATON_SOURCE=" + m.source.ConnStringAs("mover", "m0ver", "app"), "PGBATON_TARGET=" + m.target.ConnStringAs("mover", "m0ver", "app")}
	m.rightsTakenMeanwhile()

	onSource, onTarget := m.sourceURI(), m.targetURI()
	const owner = "the role must be superuser, or a member of the database's owner and of each role that has granted something on the database"
	for _, right := range []struct {
		name, uri, take string
		code            int
		says, hint      string
		asSaid          string // "": what check prints
		command         []string
	}{
		{"the source's database", onSource, `ALTER DATABASE app OWNER TO postgres`, 3, "the source could not be fenced", owner, `ALTER DATABASE app OWNER TO app`, []string{"rehearse"}},
		{"the target's database", onTarget, `ALTER DATABASE app OWNER TO postgres`, 3, "the target could not be opened", owner, `ALTER DATABASE app OWNER TO app`, []string{"rehearse"}},
		{"a grant of another role's", onSource, `REVOKE granter FROM mover`, 3, "the source could not be fenced", owner, `GRANT granter TO mover`, []string{"rehearse"}},
		{"another role's grant, to be given back", onTarget, `REVOKE granter FROM mover`, 3, "the target could not be opened", owner, `GRANT granter TO mover`, []string{"rehearse"}},
		{"to subscribe", onSource, `REVOKE pg_create_subscription FROM mover`, 3, "the source's server cannot subscribe to the target",
			"the role must be superuser, or have pg_create_subscription and CREATE on the database: pgbaton check prints the GRANTs", "", []string{"rehearse"}},
		{"to replicate", onTarget, `ALTER ROLE mover NOREPLICATION`, 3, "cannot subscribe to the target", "its role there needs REPLICATION", `ALTER ROLE mover REPLICATION`, []string{"rehearse"}},
		{"to replicate from the source", onSource, `ALTER ROLE mover NOREPLICATION`, 1, "permission denied", "hint: the role needs REPLICATION", `ALTER ROLE mover REPLICATION`, []string{"rehearse"}},
		{"a table", onTarget, `ALTER TABLE t OWNER TO postgres`, 4, "must be owner of table t", "the role must own every table; or hand over without a way back: --no-rollback", `ALTER TABLE t OWNER TO app`, []string{"switchover", "--yes"}},
	} {
		const may = `SET default_transaction_read_only = off`
		if right.name == "a table" {
			m.subscribeMeanwhile() // what comes now hands over
		}
		pgtest.Exec(t, right.uri, may, right.take)
		r := m.run(right.code, right.command...)
		if !strings.Contains(r.Stderr, right.says) || !strings.Contains(r.Stderr, right.hint) {
			t.Errorf("%s: want %q and %q in\n%s", right.name, right.says, right.hint, r)
		}
		if right.asSaid == "" {
			said := regexp.MustCompile(`GRANT "pg_create_subscription" TO .*;`).FindString(pgtest.Run(t, m.options("check")).Stdout)
			if right.asSaid = said; said == "" {
				t.Errorf("%s: check does not say it\n%s", right.name, pgtest.Run(t, m.options("check")))
				right.asSaid = `GRANT pg_create_subscription TO mover`
			}
		}
		pgtest.Exec(t, right.uri, may, right.asSaid)
		m.run(0, right.command...)
	}
	m.same()
	m.openedInPart()
}

// subscribeMeanwhile takes the right to subscribe away when the handover has been found
// ready.
func (m *move) subscribeMeanwhile() {
	t := m.t
	t.Helper()
	held := pgtest.Hold(t, m.sourceURI(), `SELECT FROM pgbaton.migration FOR UPDATE`) // prepare begins by raising the attempt
	p := pgtest.Spawn(t, m.options("switchover", "--yes", "--json"))
	p.AwaitStdout(t, `"phase_ended","phase":"ready"`)
	pgtest.Exec(t, m.source.ConnString("postgres"), `REVOKE pg_create_subscription FROM mover`)
	held.Release()
	const hint = "the role must be superuser, or have pg_create_subscription and CREATE on the database: pgbaton check prints the GRANTs; or hand over without a way back: --no-rollback"
	if r := p.Wait(t); r.Code != 4 || !strings.Contains(r.Stdout, "creating the subscription of the way back") || !strings.Contains(r.Stdout, hint) {
		t.Errorf("%s", r)
	}
	pgtest.Exec(t, m.source.ConnString("postgres"), `GRANT pg_create_subscription TO mover`) // as check prints: see above
}

// rightsTakenMeanwhile takes rights while start copies. It ends for the first that it
// meets; check prints all of them.
func (m *move) rightsTakenMeanwhile() {
	t := m.t
	t.Helper()
	r := m.startMeanwhile(func() {
		pgtest.Exec(t, m.sourceURI(), `REVOKE SELECT ON secret FROM app`, `REVOKE USAGE ON SCHEMA "Hidden" FROM app`)
	})
	const hint = "hint: a right was taken since start began: pgbaton check prints the statements that give it back; then run start again"
	if r.Code != 1 || !strings.Contains(r.Stderr, "permission denied for") || !strings.Contains(r.Stderr, hint) {
		t.Errorf("%s", r)
	}
	printed := pgtest.Run(t, m.options("check"))
	said := regexp.MustCompile(`GRANT .* TO "mover";`).FindAllString(printed.Stdout, -1)
	if len(said) != 2 {
		t.Fatalf("check says %q\n%s", said, printed)
	}
	pgtest.Exec(t, m.sourceURI(), said...)
	m.run(0, "start")
	pgtest.Exec(t, m.sourceURI(), `GRANT SELECT ON secret TO app`, `GRANT USAGE ON SCHEMA "Hidden" TO app`)
}
