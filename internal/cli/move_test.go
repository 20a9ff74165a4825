package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// move is a migration between two clusters, driven through the program.
type move struct {
	t              *testing.T
	source, target *cluster.Cluster
	db             string
	env            []string // instead of the superuser's connection strings
	tries          bool     // start tries the definitions first, as it does for users; most tests save that second
}

func newMove(t *testing.T, from, to int) *move {
	t.Helper()
	return &move{t: t, source: pgtest.Start(t, from), target: pgtest.Start(t, to), db: "app"}
}

func (m *move) sourceURI() string { return m.source.ConnString(m.db) }
func (m *move) targetURI() string { return m.target.ConnString(m.db) }

func (m *move) options(args ...string) pgtest.RunOptions {
	env := m.env
	if env == nil {
		env = []string{"PGBATON_SOURCE=" + m.sourceURI(), "PGBATON_TARGET=" + m.targetURI()}
	}
	if !m.tries {
		env = append(slices.Clone(env), "PGBATON_TRY_SCHEMA=false")
	}
	return pgtest.RunOptions{Args: append(args, "--pg-bin", m.target.BinDir()), Env: env, Timeout: 2 * time.Minute}
}

// run runs the program and requires an exit code.
func (m *move) run(code int, args ...string) pgtest.Result {
	m.t.Helper()
	r := pgtest.Run(m.t, m.options(args...))
	if r.Code != code {
		m.t.Fatalf("pgbaton %s: exit %d, want %d\n%s", strings.Join(args, " "), r.Code, code, r)
	}
	return r
}

// result runs the program with --json and returns the last object.
func (m *move) result(code int, args ...string) map[string]any {
	m.t.Helper()
	r := m.run(code, append(args, "--json")...)
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	var last map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		m.t.Fatalf("last line of pgbaton %s is no JSON: %v\n%s", strings.Join(args, " "), err, r)
	}
	if last["type"] != "result" {
		m.t.Fatalf("last line of pgbaton %s is no result: %s", strings.Join(args, " "), lines[len(lines)-1])
	}
	next, _ := last["next"].(map[string]any)
	if command, _ := next["command"].(string); next["why"] == nil || next["why"] == "" || command != "" && !strings.HasPrefix(command, "pgbaton ") {
		m.t.Errorf("pgbaton %s does not say what to run next: %v", strings.Join(args, " "), last)
	}
	return last
}

// load makes the database and fills it.
func (m *move) load(sql ...string) {
	m.t.Helper()
	pgtest.Exec(m.t, m.source.ConnString("postgres"), `CREATE DATABASE "`+m.db+`"`)
	pgtest.Exec(m.t, m.sourceURI(), sql...)
}

// same compares every row of both databases.
func (m *move) same() {
	m.t.Helper()
	diff, err := pgtest.Compare(m.t.Context(), m.sourceURI(), m.targetURI(), pgtest.CompareOptions{NextValues: true})
	if err != nil {
		m.t.Fatal(err)
	}
	if len(diff) > 0 {
		m.t.Fatalf("the databases differ:\n%s", strings.Join(diff, "\n"))
	}
}

// TestMove moves a nasty database by each method between each pair of versions,
// under write load, and compares every row and every sequence's next value.
func TestMove(t *testing.T) {
	t.Parallel()
	all := []string{"stream", "native", "dump"}
	for _, pair := range []struct {
		from, to int
		methods  []string
	}{{12, 15, all}, {12, 17, all}, {13, 18, all}, {15, 19, all}, {18, 19, all[:1]}, {19, 19, all[:1]}} {
		for _, method := range pair.methods {
			t.Run(fmt.Sprintf("%d to %d by %s", pair.from, pair.to, method), func(t *testing.T) {
				t.Parallel()
				moveUnderLoad(t, pair.from, pair.to, method)
			})
		}
	}
}

// nativeCannot removes rows that violate NOT VALID constraints.
const nativeCannot = `TRUNCATE nasty.not_valid, nasty.domain_not_valid`

func moveUnderLoad(t *testing.T, from, to int, method string) {
	m := newMove(t, from, to)
	m.load(pgtest.WriterSchema, pgtest.NastySQL(from))
	if to >= 18 {
		// Its identity has a generated column, which 18 does not publish.
		pgtest.Exec(t, m.sourceURI(), `DROP TABLE nasty.only_generated`)
	}
	if method == "native" { // what the servers' own copy cannot move (docs/not-replicated.md)
		pgtest.Exec(t, m.sourceURI(), nativeCannot)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w := pgtest.StartWriters(ctx, t, m.sourceURI(), 3, pgtest.WritersOptions{Rate: 50})
	if err := w.Await(ctx, 20); err != nil {
		t.Fatal(err)
	}

	started := m.result(0, "start", "--method", method, "--roles", "--try-schema")
	if started["phase"] != "streaming" {
		t.Fatalf("after start: %v", started)
	}
	m.nastyWrites(ctx, m.sourceURI(), 1)
	if err := w.Await(ctx, 50); err != nil {
		t.Fatal(err)
	}
	status := m.result(0, "status")
	if status["phase"] != "streaming" || status["baton"] != "source" {
		t.Fatalf("before the switchover: %v", status)
	}
	if c, n := status["tables_copied"], status["tables_total"]; c != n {
		t.Errorf("%v of %v tables copied", c, n)
	}

	for round := range 2 {
		m.handOver(ctx, w, "switchover", m.targetURI())
		if s := m.result(0, "status"); s["phase"] != "switched" || s["baton"] != "target" || s["lag_seconds"] != 0.0 {
			t.Fatalf("after the switchover: %v", s)
		}
		m.nastyWrites(ctx, m.targetURI(), 100*round+30)
		m.handOver(ctx, w, "rollback", m.sourceURI())
		if s := m.result(0, "status"); s["phase"] != "streaming" || s["baton"] != "source" {
			t.Fatalf("after the rollback: %v", s)
		}
		m.nastyWrites(ctx, m.sourceURI(), 100*round+60)
	}
	m.handOver(ctx, w, "switchover", m.targetURI(), "--no-rollback")
	w.Stop()
	if problems := w.Check(ctx, pgtest.Connect(t, m.targetURI())); len(problems) > 0 {
		t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
	}
	m.run(0, "finish", "--yes")
}

// handOver runs a switchover or a rollback, compares the sides while nothing
// writes, and lets the writers go on where the baton is.
func (m *move) handOver(ctx context.Context, w *pgtest.Writers, command, to string, args ...string) {
	m.t.Helper()
	r := m.result(0, append([]string{command, "--yes"}, args...)...)
	if want := map[string]string{"switchover": "target", "rollback": "source"}[command]; r["baton"] != want {
		m.t.Fatalf("after the %s: %v", command, r)
	}
	m.t.Logf("%s: pause %v ms: %v", command, r["pause_ms"], r["phases"])
	m.same() // nothing has written to the new holder yet
	w.Switch(to)
	if err := w.Await(ctx, 20); err != nil {
		m.t.Fatal(err)
	}
}

// nastyWrites does each kind of write 20 times.
func (m *move) nastyWrites(ctx context.Context, uri string, from int) {
	m.t.Helper()
	conn := pgtest.Connect(m.t, uri)
	for i := from; i < from+20; i++ {
		if err := pgtest.NastyWrite(ctx, conn, i); err != nil {
			m.t.Fatal(err)
		}
	}
	conn.Close(ctx)
}

func mustExec(t *testing.T, conn postgres.DB, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func port(c *cluster.Cluster) string { return strconv.Itoa(c.Port()) }

// TestNames: quotes, spaces, capitals, Unicode and SQL in the names of database,
// role and migration; the nasty schema has them in everything below.
func TestNames(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 15)
	m.db = `Ünï "quoted"; DROP DATABASE x; -- %s`
	const role = `o'wner "x"; --`
	quoted := func(s string) string { return pgx.Identifier{s}.Sanitize() }
	for _, c := range []*cluster.Cluster{m.source, m.target} {
		pgtest.Exec(t, c.ConnString("postgres"), `CREATE ROLE `+quoted(role)+` SUPERUSER LOGIN`)
	}
	pgtest.Exec(t, m.source.ConnString("postgres"), `CREATE DATABASE `+quoted(m.db)+` OWNER `+quoted(role),
		`COMMENT ON DATABASE `+quoted(m.db)+` IS 'it''s \ here'`)
	pgtest.Exec(t, m.sourceURI(), pgtest.NastySQL(13))
	m.env = []string{"PGBATON_SOURCE=" + m.source.ConnStringAs(role, "", m.db), "PGBATON_TARGET=" + m.target.ConnStringAs(role, "", m.db),
		"PGBATON_MIGRATION=My 'Migration' \"№ 1\"; --"}
	m.run(0, "check", "--roles")
	m.run(0, "start", "--roles")
	m.run(0, "status")
	m.run(0, "switchover", "--yes")
	m.same()
	m.run(0, "finish", "--yes", "--unfence")
}
