package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// TestPlan: plan changes nothing, and what it prints is what the servers then
// see when start and switchover run.
func TestPlan(t *testing.T) {
	t.Parallel()
	logging := map[string]string{"log_statement": "all", "log_replication_commands": "on"}
	m := &move{t: t, source: pgtest.Start(t, 13, logging), target: pgtest.Start(t, 17, logging), db: "app"}
	m.loadApp()
	pgtest.Exec(t, m.source.ConnStringAs("app", "", m.db), `CREATE TABLE app."no key" (a int)`,
		`CREATE MATERIALIZED VIEW app.mv AS SELECT count(*) FROM app.filler`)
	source, target := dump(t, m.source, "app"), dump(t, m.target, "postgres")
	plan := m.run(0, "plan", "--json")
	equal(t, "the source", source, dump(t, m.source, "app"))
	equal(t, "the target", target, dump(t, m.target, "postgres"))
	if r := m.run(0, "plan"); !strings.Contains(r.Stdout, "CREATE PUBLICATION") || !strings.Contains(r.Stdout, "$ pg_dump ") {
		t.Errorf("%s", r.Stdout)
	}

	m.run(0, "start")
	// The id that names carry is drawn anew: plan's is an example.
	label := pgtest.QueryValue[string](t, pgtest.Connect(t, m.sourceURI()), `SELECT ends ->> 'label' FROM pgbaton.migration`)
	printed := regexp.MustCompile(`default_[0-9a-f]{8}`).ReplaceAllString(plan.Stdout, label)
	m.run(0, "switchover", "--yes")
	logs := map[string]string{"source": squeeze(m.source.Log()), "target": squeeze(m.target.Log())}
	var compared int
	for line := range strings.Lines(printed) {
		var step struct {
			Type, Step string
			Actions    []struct{ Where, Do string }
		}
		if err := json.Unmarshal([]byte(line), &step); err != nil {
			t.Fatal(err)
		}
		for _, a := range step.Actions {
			log, ok := logs[a.Where]
			// What only the run knows stands in angle brackets, remarks behind dashes.
			if !ok || strings.ContainsAny(a.Do, "<") || strings.HasPrefix(a.Do, "--") {
				continue
			}
			sql, _, _ := strings.Cut(a.Do, " -- ")
			if strings.HasPrefix(sql, "CREATE SUBSCRIPTION") {
				continue // carries a password: kept out of the log
			}
			compared++
			if !strings.Contains(log, squeeze(sql)) {
				t.Errorf("step %q: the %s has not seen %s", step.Step, a.Where, a.Do)
			}
		}
	}
	if compared < 20 {
		t.Errorf("only %d statements were compared", compared)
	}
}

// squeeze makes white space uniform: a log breaks and indents what a statement
// does not.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }

// TestLeastPrivilege moves a database with no more rights than docs/privileges.md
// asks for. Before 16 only a superuser may subscribe: such a target takes one, and
// such a source has no way back without one.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{12, 15}, {15, 17}, {17, 18}} {
		t.Run(fmt.Sprintf("%d to %d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			leastPrivilege(t, pair[0], pair[1])
		})
	}
}

func leastPrivilege(t *testing.T, from, to int) {
	m := &move{t: t, db: "app",
		source: pgtest.StartOptions(t, cluster.Options{Major: from, Password: "secret"}),
		target: pgtest.StartOptions(t, cluster.Options{Major: to, Password: "secret"})}
	for _, c := range []*cluster.Cluster{m.source, m.target} {
		pgtest.Exec(t, c.ConnString("postgres"), `CREATE ROLE app LOGIN PASSWORD 'app'`,
			`CREATE ROLE mover LOGIN REPLICATION CREATEDB PASSWORD 'm0ver'`,
			`GRANT app, pg_monitor, pg_signal_backend TO mover`)
		if c.Major() >= 16 {
			pgtest.Exec(t, c.ConnString("postgres"), `GRANT pg_create_subscription TO mover`)
		} else if c == m.target {
			pgtest.Exec(t, c.ConnString("postgres"), `ALTER ROLE mover SUPERUSER`)
		}
	}
	pgtest.Exec(t, m.source.ConnString("postgres"), `ALTER ROLE mover NOCREATEDB`) // nothing on the source needs it
	pgtest.Exec(t, m.source.ConnString("postgres"), `CREATE DATABASE app OWNER app`)
	pgtest.Exec(t, m.source.ConnStringAs("app", "app", "app"), pgtest.WriterSchema, `CREATE TABLE app.keyless (a int)`)
	onSource, onTarget := m.source.ConnStringAs("app", "app", "app"), m.target.ConnStringAs("app", "app", "app")
	m.env = []string{"PGBATON_SOURCE=" + m.source.ConnStringAs("mover", "m0ver", "app"), "PGBATON_TARGET=" + m.target.ConnStringAs("mover", "m0ver", "app")}
	w := pgtest.StartWriters(t.Context(), t, onSource, 2, pgtest.WritersOptions{Rate: 40})
	if r := m.run(0, "check"); strings.Contains(r.Stdout, "blocker") {
		t.Errorf("%s", r.Stdout)
	}
	m.run(0, "start")
	if err := w.Await(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	m.run(0, "status")
	m.run(0, "pause")
	m.run(0, "resume")
	if from >= 16 {
		m.run(0, "rehearse")
		m.handOver(t.Context(), w, "switchover", onTarget)
		m.handOver(t.Context(), w, "rollback", onSource)
	} else if r := m.run(3, "switchover", "--yes"); !strings.Contains(r.Stderr, "--no-rollback") {
		t.Errorf("%s", r)
	}
	m.run(0, "rehearse", "--no-rollback")
	m.handOver(t.Context(), w, "switchover", onTarget, "--no-rollback")
	m.run(0, "status")
	w.Stop()
	if problems := w.Check(t.Context(), pgtest.Connect(t, m.targetURI())); len(problems) > 0 {
		t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
	}
	m.run(3, "rollback", "--yes")
	m.run(0, "finish", "--yes")
	for _, c := range []*cluster.Cluster{m.source, m.target} {
		if log := c.Log(); strings.Contains(log, "m0ver") {
			t.Errorf("a password is in the log of server %d:\n%s", c.Major(), grep(log, "m0ver"))
		}
	}
}

// TestNotOpenToAll: a role that cannot be let in again is a problem, and nobody else
// waits for it.
func TestNotOpenToAll(t *testing.T) {
	t.Parallel()
	m := &move{t: t, db: "app",
		source: pgtest.StartOptions(t, cluster.Options{Major: 17, Password: "secret"}),
		target: pgtest.StartOptions(t, cluster.Options{Major: 17, Password: "secret"})}
	super := m.source.ConnString("postgres")
	for _, c := range []*cluster.Cluster{m.source, m.target} {
		pgtest.Exec(t, c.ConnString("postgres"), `CREATE ROLE app LOGIN PASSWORD 'app'`, `CREATE ROLE mover LOGIN REPLICATION CREATEDB PASSWORD 'm0ver'`,
			`GRANT app, pg_monitor, pg_signal_backend, pg_create_subscription TO mover`)
	}
	pgtest.Exec(t, super, `CREATE ROLE porter`, `CREATE ROLE guest`, `GRANT porter TO mover`, `CREATE DATABASE app OWNER app`,
		`GRANT CONNECT ON DATABASE app TO porter WITH GRANT OPTION`, `SET ROLE porter`, `GRANT CONNECT ON DATABASE app TO guest`)
	pgtest.Exec(t, m.source.ConnStringAs("app", "app", "app"), pgtest.WriterSchema)
	m.env = []string{"PGBATON_SOURCE=" + m.source.ConnStringAs("mover", "m0ver", "app"), "PGBATON_TARGET=" + m.target.ConnStringAs("mover", "m0ver", "app")}
	w := pgtest.StartWriters(t.Context(), t, m.source.ConnStringAs("app", "app", "app"), 2, pgtest.WritersOptions{Rate: 40})
	m.run(0, "start")
	away := fmt.Sprintf("%s/psql -X -q '%s' -c 'REVOKE porter FROM mover'", m.source.BinDir(), super)
	told := filepath.Join(t.TempDir(), "told")
	tell := func(phase string) []string { return []string{"--on-" + phase, "echo " + phase + " >>" + told} }
	m.handOver(t.Context(), w, "switchover", m.target.ConnStringAs("app", "app", "app"))
	r := m.run(6, slices.Concat([]string{"rollback", "--yes", "--on-pause", away}, tell("switch"), tell("resume"))...)
	if !strings.Contains(r.Stderr, `"guest" has no CONNECT by "porter"`) {
		t.Errorf("it is not said who is missing: %s", r)
	}
	if text, err := os.ReadFile(told); err != nil || string(text) != "switch\nresume\n" {
		t.Errorf("the hooks ran %q (%v)", text, err)
	}
	w.Switch(m.source.ConnStringAs("app", "app", "app"))
	if err := w.Await(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, super, `GRANT porter TO mover`)
	m.run(0, slices.Concat([]string{"rollback", "--yes"}, tell("switch"), tell("resume"))...)
}

// grep returns the lines that contain a text.
func grep(text, what string) string {
	var found strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, what) {
			found.WriteString(line)
		}
	}
	return found.String()
}
