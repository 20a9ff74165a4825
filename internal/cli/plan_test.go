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
	"time"

	"pgbaton/internal/cluster"
	"pgbaton/internal/handover"
	"pgbaton/internal/pgtest"
)

// TestPlan: plan changes nothing, and what it prints is what the servers then
// see when start and switchover run.
func TestPlan(t *testing.T) {
	t.Parallel()
	logging := map[string]string{"log_statement": "all", "log_replication_commands": "on", "log_line_prefix": "%m [%p] %a|", "log_timezone": "UTC"}
	m := &move{t: t, source: pgtest.Start(t, 13, logging), target: pgtest.Start(t, 17, logging), db: "app"}
	m.loadApp()
	pgtest.Exec(t, m.source.ConnStringAs("app", "", m.db), `CREATE TABLE app."no key" (a int)`,
		`CREATE MATERIALIZED VIEW app.mv AS SELECT count(*) FROM app.filler`,
		`CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`,
		`CREATE TRIGGER "t'" BEFORE INSERT ON app."no key" FOR EACH ROW EXECUTE FUNCTION app.f()`, `ALTER TABLE app."no key" ENABLE ALWAYS TRIGGER "t'"`)
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
	switched := m.run(0, "switchover", "--yes", "--json")
	var handedOver handover.Result
	for line := range strings.Lines(switched.Stdout) {
		if strings.HasPrefix(line, `{"type":"result"`) {
			if err := json.Unmarshal([]byte(line), &handedOver); err != nil {
				t.Fatal(err)
			}
		}
	}
	logs := map[string]string{"source": m.source.Log(), "target": m.target.Log()}
	plans := map[string]*phasePlan{}
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
			if !ok || strings.HasPrefix(a.Do, "--") {
				continue // a remark, or what the operator's machine does
			}
			sql, remark, _ := strings.Cut(a.Do, " -- ")
			if slices.Contains(handover.Phases(), step.Step) {
				if plans[a.Where+step.Step] == nil {
					plans[a.Where+step.Step] = &phasePlan{}
				}
				plans[a.Where+step.Step].add(sql, strings.HasPrefix(remark, "if "))
				continue
			}
			// What only the run knows stands in angle brackets.
			if strings.ContainsAny(a.Do, "<") || strings.HasPrefix(sql, "CREATE SUBSCRIPTION") { // carries a password: kept out of the log
				continue
			}
			compared++
			if !strings.Contains(squeeze(log), squeeze(sql)) {
				t.Errorf("step %q: the %s has not seen %s", step.Step, a.Where, a.Do)
			}
		}
	}
	if compared < 10 {
		t.Errorf("only %d statements were compared", compared)
	}
	for side, log := range logs {
		comparePhases(t, side, log, handedOver, plans)
	}
}

// phasePlan is what a plan says of a phase on one side.
type phasePlan struct{ statements []*planned }

type planned struct {
	sql         string
	match       *regexp.Regexp
	conditional bool
	seen        bool
}

func (p *phasePlan) add(sql string, conditional bool) {
	pattern := regexp.MustCompile(`<[^<>]*>`).ReplaceAllString(regexp.QuoteMeta(squeeze(sql)), `.*`)
	p.statements = append(p.statements, &planned{sql: sql, match: regexp.MustCompile(`^` + pattern + `$`), conditional: conditional})
}

// has says whether the plan has a statement, and notes that it was sent.
func (p *phasePlan) has(sql string) (has bool) {
	if p == nil {
		return false
	}
	for _, s := range p.statements {
		if s.match.MatchString(sql) {
			s.seen, has = true, true
		}
	}
	return has
}

// comparePhases compares, both ways, what a plan says of each phase of a handover with the
// statements that change something of pgbaton's sessions in a server's log. A statement at
// the border of two phases may be of either.
func comparePhases(t *testing.T, side, log string, r handover.Result, plans map[string]*phasePlan) {
	t.Helper()
	const border = 3.0 // milliseconds: a log's clock has no finer ones
	found := 0
	for _, s := range sent(t, log) {
		at := float64(s.at.Sub(r.Began).Microseconds()) / 1000
		var in []string
		has := false
		for _, p := range r.Phases {
			last := p.Name == handover.PhaseSettle // what follows belongs to it
			if p.AtMS-border <= at && (at <= p.AtMS+p.MS+border || last) {
				in = append(in, p.Name)
				has = plans[side+p.Name].has(s.sql) || has
			}
		}
		if len(in) == 0 || !changes.MatchString(s.sql) {
			continue
		}
		if found++; !has {
			t.Errorf("%s, %s: the plan has no %s", side, strings.Join(in, " or "), s.sql)
		}
	}
	if found < 20 {
		t.Errorf("only %d statements of the %s's log were compared", found, side)
	}
	for _, phase := range handover.Phases() {
		if p := plans[side+phase]; p != nil {
			for _, s := range p.statements {
				if !s.seen && !s.conditional && !strings.HasPrefix(s.sql, "CREATE SUBSCRIPTION") {
					t.Errorf("%s, %s: the log has no %s", side, phase, s.sql)
				}
			}
		}
	}
}

// changes matches statements that change something, or hold or end somebody.
var changes = regexp.MustCompile(`^(INSERT|UPDATE|DELETE|TRUNCATE|CREATE|ALTER|DROP|GRANT|REVOKE|REFRESH|COMMENT|SAVEPOINT lift)\b|^WITH .*\b(INSERT INTO|DELETE FROM|UPDATE pgbaton)\b|` +
	`\b(setval|pg_create_logical_replication_slot|pg_drop_replication_slot|pg_terminate_backend|pg_advisory_(un)?lock_shared|pg_logical_slot_peek_binary_changes)\(`)

// statement is one that a server has logged.
type statement struct {
	at  time.Time
	sql string // with its parameters in place
}

var (
	logLine   = regexp.MustCompile(`(?m)^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC \[(\d+)\] ([^|]*)\|(?:LOG|DETAIL|ERROR|STATEMENT|HINT|WARNING|FATAL|NOTICE|CONTEXT):  `)
	parameter = regexp.MustCompile(`(?s)\$(\d+) = ('(?:[^']|'')*'|NULL)`)
)

// sent reads the statements of pgbaton's sessions from a log with log_statement = all.
func sent(t *testing.T, log string) (all []statement) {
	t.Helper()
	lines := logLine.FindAllStringSubmatchIndex(log, -1)
	var last string // the process of the last statement
	for i, l := range lines {
		end := len(log)
		if i+1 < len(lines) {
			end = lines[i+1][0]
		}
		pid, text := log[l[4]:l[5]], log[l[1]:end]
		if _, values, ok := strings.Cut(text, "arameters: "); ok && pid == last && len(text)-len(values) < 20 {
			given := map[string]string{}
			for _, p := range parameter.FindAllStringSubmatch(values, -1) {
				given[p[1]] = p[2]
			}
			s := &all[len(all)-1]
			s.sql = regexp.MustCompile(`\$\d+`).ReplaceAllStringFunc(s.sql, func(n string) string { return given[n[1:]] })
			continue
		}
		last = ""
		_, sql, ok := strings.Cut(text, ": ")
		if !ok || log[l[6]:l[7]] != "pgbaton" || !strings.HasPrefix(text, "statement: ") && !strings.HasPrefix(text, "execute ") {
			continue
		}
		at, err := time.Parse("2006-01-02 15:04:05.000", log[l[2]:l[3]])
		if err != nil {
			t.Fatal(err)
		}
		all, last = append(all, statement{at, squeeze(sql)}), pid
	}
	return all
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
