package cli_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// pooled is a migration whose application is behind PgBouncers.
type pooled struct {
	*move
	poolers []*cluster.Pooler
	flags   []string // --pgbouncer, for each
	writers []*pgtest.Writers
}

// newPooled starts a migration with writers behind n PgBouncers of a version.
func newPooled(t *testing.T, from, to int, version, mode string, n int) *pooled {
	t.Helper()
	p := &pooled{move: newMove(t, from, to)}
	p.loadApp()
	for i := range n {
		pooler := pgtest.StartPooler(t, version, cluster.PoolerOptions{PoolMode: mode,
			Users: map[string]string{"app": "", "postgres": ""}, Settings: map[string]string{"auth_type": "trust"},
			Databases: map[string]cluster.PoolerDatabase{p.db: {Port: p.source.Port()}}})
		p.poolers = append(p.poolers, pooler)
		p.flags = append(p.flags, "--pgbouncer", pooler.AdminURI())
		p.writers = append(p.writers, pgtest.StartWriters(t.Context(), t, p.through(i), 3, pgtest.WritersOptions{Rate: 30, First: 10 * i}))
	}
	if r := p.result(0, "start"); r["phase"] != "streaming" {
		t.Fatalf("start: %v", r)
	}
	return p
}

func (p *pooled) through(i int) string { return p.poolers[i].ConnString(p.db, "app") }

// command is a command with the PgBouncers.
func (p *pooled) command(args ...string) []string { return append(slices.Clone(args), p.flags...) }

// goesOn requires that every writer is served.
func (p *pooled) goesOn() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	for _, w := range p.writers {
		if err := w.Await(ctx, 10); err != nil {
			p.t.Fatal(err)
		}
	}
}

// nothingFailed requires that no client has seen an error.
func (p *pooled) nothingFailed() {
	p.t.Helper()
	for _, w := range p.writers {
		if s := w.Stats(); s.Failed+s.Unknown+s.ConnectFailures > 0 {
			p.t.Fatalf("clients saw errors: %+v", s)
		}
	}
}

// accounted stops the writers and accounts for every write on the target.
func (p *pooled) accounted() {
	p.t.Helper()
	for _, w := range p.writers {
		w.Stop()
	}
	for _, w := range p.writers {
		if problems := w.Check(p.t.Context(), pgtest.Connect(p.t, p.targetURI())); len(problems) > 0 {
			p.t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
		}
	}
}

// TestPooler: an application behind PgBouncer lives through switchover, rollback
// and another switchover without one failed query.
func TestPooler(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to int
		version  string
		poolers  int
	}{{12, 15, pgtest.OldPooler, 1}, {12, 15, "", 1}, {15, 18, pgtest.OldPooler, 2}} {
		t.Run(fmt.Sprintf("%d to %d, %d of version %q", c.from, c.to, c.poolers, c.version), func(t *testing.T) {
			t.Parallel()
			p := newPooled(t, c.from, c.to, c.version, "transaction", c.poolers)
			p.result(0, p.command("rehearse")...)
			for _, command := range []string{"switchover", "rollback", "switchover"} {
				p.goesOn()
				r := p.result(0, p.command(command, "--yes")...)
				t.Logf("%s: pause %v ms, of the databases %v ms", command, r["pause_ms"], r["database_pause_ms"])
				p.goesOn()
				p.newClient()
				p.nothingFailed()
			}
			p.accounted()
			p.run(0, "finish", "--yes")
		})
	}
}

// newClient requires that a client which connects now is served.
func (p *pooled) newClient() {
	p.t.Helper()
	for i := range p.poolers {
		config, err := pgx.ParseConfig(p.through(i))
		if err != nil {
			p.t.Fatal(err)
		}
		config.DefaultQueryExecMode = pgx.QueryExecModeExec
		conn, err := pgx.ConnectConfig(p.t.Context(), config)
		if err != nil {
			p.t.Fatal(err)
		}
		mustExec(p.t, conn, `INSERT INTO public.probe DEFAULT VALUES`)
		conn.Close(p.t.Context())
	}
}

// TestPoolerForgets: PgBouncer 1.26 remembers parameters that only servers since
// 16 know. After a rollback to an older one every client must be served, those
// that connected meanwhile and those that come later.
func TestPoolerForgets(t *testing.T) {
	t.Parallel()
	p := newPooled(t, 15, 18, "", "transaction", 1)
	p.goesOn()
	p.result(0, p.command("switchover", "--yes")...)
	p.newClient()
	p.nothingFailed()
	p.writers = append(p.writers, pgtest.StartWriters(t.Context(), t, p.through(0), 2, pgtest.WritersOptions{Rate: 30, First: 50}))
	p.goesOn()
	p.result(0, p.command("rollback", "--yes")...)
	p.goesOn()
	p.newClient()
	p.result(0, p.command("switchover", "--yes")...)
	p.goesOn()
	p.accounted()
}

// TestPoolerSessions: behind session pooling a session that is open ends with the
// fence, as a direct one does, and its client connects anew.
func TestPoolerSessions(t *testing.T) {
	t.Parallel()
	p := newPooled(t, 13, 17, "", "session", 1)
	for _, command := range []string{"switchover", "rollback", "switchover"} {
		p.goesOn()
		p.result(0, p.command(command, "--yes")...)
		p.goesOn()
	}
	p.accounted()
}

// TestPoolerKilled: pgbaton is killed while PgBouncer holds the clients back; the
// guardian lets them go, to the side that has the baton, and none has seen an
// error.
func TestPoolerKilled(t *testing.T) {
	t.Parallel()
	p := newPooled(t, 12, 15, "", "transaction", 1)
	for _, phase := range []string{"pause", "fence", "drain"} {
		t.Logf("killed after %s", phase)
		p.kill(fmt.Sprintf(`"phase_ended","phase":"%s"`, phase), p.command("switchover", "--yes")...)
		p.goesOn()
		p.awaitNote(t, "the guardian")
		p.nothingFailed()
		if baton := p.result(0, "status")["baton"]; baton != "source" { // it was further than we saw
			p.run(0, p.command("rollback", "--yes")...)
		}
	}
	gate := fifo(t)
	for _, hook := range []string{"switch", "resume"} {
		t.Logf("killed in %s", hook)
		s := pgtest.Spawn(t, p.options(p.command("switchover", "--yes", "--json", "--on-"+hook, "echo at the gate; [ -e "+gate+" ] && read _ <"+gate+"; true")...))
		s.AwaitStderr(t, "at the gate")
		if err := syscall.Unlink(gate); err != nil { // the guardian's hook runs through
			t.Fatal(err)
		}
		s.Signal(t, syscall.SIGKILL)
		p.goesOn()
		p.awaitNote(t, "completed the handover")
		p.nothingFailed()
		// The guardian has not ended yet: it must not let go what is held back now.
		p.run(0, p.command("rollback", "--yes", "--on-pause", "sleep 1")...)
		p.nothingFailed()
		gate = fifo(t)
	}
	p.result(0, p.command("switchover", "--yes")...)
	p.goesOn()
	p.nothingFailed()
	p.accounted()
}

// TestPoolerOtherHost: both processes die while traffic is held back. A command
// that knows nothing of the PgBouncer says so, and one that does lets go.
func TestPoolerOtherHost(t *testing.T) {
	t.Parallel()
	p := newPooled(t, 12, 17, "", "transaction", 1)
	gate := fifo(t)
	s := pgtest.Spawn(t, p.options(p.command("switchover", "--yes", "--json", "--on-pause", "echo at the gate; read _ <"+gate)...))
	s.AwaitStderr(t, "at the gate")
	p.killBoth(s)
	open(t, gate) // the hook, which nobody ends now
	if findings := fmt.Sprint(p.result(0, "status")["findings"]); !strings.Contains(findings, "PgBouncer 127.0.0.1:") {
		t.Errorf("status does not say what holds traffic back: %s", findings)
	}
	if r := p.run(3, "switchover", "--yes"); !strings.Contains(r.Stderr, "holds traffic back: PgBouncer 127.0.0.1:") ||
		!strings.Contains(r.Stderr, "give this command the same --pgbouncer options") {
		t.Errorf("%s", r)
	}
	p.result(0, p.command("switchover", "--yes")...) // as the remedy says
	p.goesOn()
	p.nothingFailed()
	p.accounted()
}

// killBoth kills a handover's guardian and then the handover, as the loss of the
// host would.
func (m *move) killBoth(s *pgtest.Process) {
	m.t.Helper()
	if err := syscall.Kill(guardianOf(m.t, s.Stdout()), syscall.SIGKILL); err != nil {
		m.t.Fatal(err)
	}
	s.Signal(m.t, syscall.SIGKILL)
	s.Wait(m.t)
}

// TestPoolerBlocked: a client that holds a transaction open aborts the handover
// at the end of the budget; it is named, and nobody sees more than a delay.
func TestPoolerBlocked(t *testing.T) {
	t.Parallel()
	p := newPooled(t, 12, 15, pgtest.OldPooler, "transaction", 1)
	config, err := pgx.ParseConfig(p.through(0))
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.RuntimeParams = map[string]string{"application_name": "the blocker"}
	blocker, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer blocker.Close(context.Background())
	mustExec(t, blocker, `BEGIN`)
	r := p.run(4, p.command("switchover", "--yes", "--max-pause", "1500ms")...)
	if !strings.Contains(r.Stderr, "the blocker") {
		t.Errorf("the client in the way is not named:\n%s", r)
	}
	p.goesOn()
	p.nothingFailed()
	mustExec(t, blocker, `COMMIT`)
	p.result(0, p.command("switchover", "--yes")...)
	p.goesOn()
	p.nothingFailed()
	p.accounted()
}

// TestPoolerDies: PgBouncer is killed, or hangs, in the middle of a handover. The
// data is right whatever becomes of it; who comes back leads to the side that has
// the baton.
func TestPoolerDies(t *testing.T) {
	t.Parallel()
	p := newPooled(t, 13, 15, "", "transaction", 1)
	pooler := p.poolers[0]
	at := func(hook, command string) (*pgtest.Process, string) {
		t.Helper()
		p.goesOn()
		gate := fifo(t)
		s := pgtest.Spawn(t, p.options(p.command(command, "--yes", "--json", "--on-"+hook, "echo at the gate; read _ <"+gate)...))
		s.AwaitStderr(t, "at the gate")
		return s, gate
	}
	baton := func(want string) {
		t.Helper()
		if s := p.result(0, "status"); s["baton"] != want {
			t.Fatalf("the baton is not with the %s: %v", want, s)
		}
	}

	t.Log("killed while clients are held back, and back at once")
	s, gate := at("pause", "switchover")
	if err := pooler.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := pooler.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	open(t, gate)
	if r := s.Wait(t); r.Code != 0 {
		t.Fatalf("%s", r)
	}
	baton("target")

	t.Log("killed while clients are held back, and away")
	s, gate = at("pause", "rollback")
	if err := pooler.Kill(); err != nil {
		t.Fatal(err)
	}
	open(t, gate)
	if r := s.Wait(t); r.Code != 6 {
		t.Fatalf("%s", r)
	}
	baton("source")
	if err := pooler.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.goesOn()
	p.run(0, p.command("rollback", "--yes")...)

	t.Log("hangs while clients are held back")
	s, gate = at("pause", "switchover")
	if err := pooler.Pause(); err != nil {
		t.Fatal(err)
	}
	open(t, gate)
	if r := s.Wait(t); r.Code != 6 {
		t.Fatalf("%s", r)
	}
	baton("target")
	if err := pooler.Continue(); err != nil {
		t.Fatal(err)
	}
	p.run(0, p.command("switchover", "--yes")...)
	p.goesOn()

	t.Log("away when a handover that is complete is looked at once more")
	if err := pooler.Kill(); err != nil {
		t.Fatal(err)
	}
	const again = "remove the cause and run the same command again: it continues from here"
	if r := p.run(6, p.command("switchover", "--yes")...); !strings.Contains(r.Stderr, again) {
		t.Errorf("it is not said how to go on:\n%s", r)
	}
	if err := pooler.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.run(0, p.command("switchover", "--yes")...)
	p.goesOn()

	t.Log("hangs before clients are held back")
	if err := pooler.Pause(); err != nil {
		t.Fatal(err)
	}
	if r := p.run(3, p.command("rollback", "--yes")...); !strings.Contains(r.Stderr, "PgBouncer") {
		t.Errorf("%s", r)
	}
	if err := pooler.Continue(); err != nil {
		t.Fatal(err)
	}
	p.goesOn()
	p.accounted()
}

// TestPoolerAsServer: the address of a pooler, given for that of a server, is a
// blocker that says what it is; every command refuses it, and the server's own
// address, as the remedy says, is taken.
func TestPoolerAsServer(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 17)
	pgtest.Exec(t, c.ConnString("postgres"), `CREATE DATABASE app`)
	for _, ignores := range []string{"extra_float_digits", everything} {
		p := pgtest.StartPooler(t, "", cluster.PoolerOptions{Databases: map[string]cluster.PoolerDatabase{"app": {Port: c.Port()}},
			Settings: map[string]string{"ignore_startup_parameters": ignores}})
		m := &move{t: t, source: c, target: c, db: "app", env: []string{"PGBATON_SOURCE=" + p.ConnString("app", "postgres"), "PGBATON_TARGET=" + c.ConnString("moved")}}
		r := m.run(3, "check", "--json")
		if !strings.Contains(r.Stdout, `"code":"pooler","severity":"blocker","side":"source"`) || !strings.Contains(r.Stdout, "the server's own host and port") {
			t.Errorf("check: %s", r)
		}
		for _, command := range []string{"start", "status", "rehearse"} {
			if r := m.run(3, command); !strings.Contains(r.Stderr, "this is a connection pooler, not the server") {
				t.Errorf("%s: %s", command, r)
			}
		}
		m.env[0] = "PGBATON_SOURCE=" + c.ConnString("app")
		if r := pgtest.Run(t, m.options("check", "--json")); strings.Contains(r.Stdout, `"code":"pooler"`) {
			t.Errorf("check of the server itself: %s", r)
		}
	}
}

// everything are the start-up parameters that a PgBouncer can be told to ignore.
const everything = "search_path, default_transaction_read_only, default_transaction_isolation, statement_timeout, lock_timeout, " +
	"idle_in_transaction_session_timeout, client_min_messages, extra_float_digits, bytea_output, row_security, " +
	"tcp_keepalives_idle, tcp_keepalives_interval, tcp_keepalives_count, options, session_replication_role, event_triggers"
