package cli_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/pgtest"
)

// streaming returns a migration that streams, with the application's role and
// writers on the source.
func streaming(t *testing.T, from, to int) (*move, *pgtest.Writers) {
	t.Helper()
	m := newMove(t, from, to)
	m.loadApp()
	w := pgtest.StartWriters(t.Context(), t, m.source.ConnStringAs("app", "", m.db), 2, pgtest.WritersOptions{Rate: 40})
	if r := m.result(0, "start"); r["phase"] != "streaming" {
		t.Fatalf("start: %v", r)
	}
	return m, w
}

// serves requires that the source serves and the migration goes on after an
// aborted handover, then hands over for real and accounts for every write.
func (m *move) serves(w *pgtest.Writers) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	if sides := m.writable(ctx); !slices.Equal(sides, []string{"source"}) {
		m.t.Fatalf("writable after the abort: %v", sides)
	}
	if err := w.Await(ctx, 5); err != nil {
		m.t.Fatal(err)
	}
	for s := map[string]any{}; s["phase"] != "streaming"; { // a server up to 15 restarts a worker after 5 s only
		if s = m.result(0, "status"); s["baton"] != "source" || ctx.Err() != nil {
			m.t.Fatalf("after the abort: %v", s)
		}
	}
	w.Stop()
	m.run(0, "switchover", "--yes")
	m.same()
	if problems := w.Check(ctx, pgtest.Connect(m.t, m.targetURI())); len(problems) > 0 {
		m.t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
	}
}

// TestHooks: a hook that fails or hangs before the pass aborts the handover; one
// that fails after it is reported, and a second run calls it again.
func TestHooks(t *testing.T) {
	t.Parallel()
	t.Run("pause fails", func(t *testing.T) {
		t.Parallel()
		m, w := streaming(t, 12, 15)
		log := t.TempDir() + "/log"
		r := m.run(4, "switchover", "--yes", "--on-pause", "echo cannot; exit 3", "--on-abort", `echo "$PGBATON_PHASE $PGBATON_TO_SIDE $PGBATON_TO_PORT$PGBATON_SOURCE$PGBATON_TARGET" >`+log)
		if !strings.Contains(r.Stderr, "cannot") || !strings.Contains(r.Stderr, "phase pause") {
			t.Errorf("the message does not say which hook failed and why:\n%s", r.Stderr)
		}
		if got := readFile(t, log); got != "abort source "+port(m.source)+"\n" {
			t.Errorf("the abort hook was told %q", got)
		}
		m.serves(w)
	})
	t.Run("pause hangs", func(t *testing.T) {
		t.Parallel()
		m, w := streaming(t, 12, 15)
		began := time.Now()
		r := m.run(4, "switchover", "--yes", "--max-pause", "1s", "--on-pause", "sleep 60")
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
		if !strings.Contains(r.Stderr, "--max-pause 1s") {
			t.Errorf("the message does not name the budget:\n%s", r.Stderr)
		}
		m.serves(w)
	})
	t.Run("pause lies", func(t *testing.T) { // it holds nothing back: the fence does
		t.Parallel()
		m, w := streaming(t, 12, 15)
		m.handOver(t.Context(), w, "switchover", m.target.ConnStringAs("app", "", m.db), "--on-pause", "exit 0")
		w.Stop()
		if problems := w.Check(t.Context(), pgtest.Connect(t, m.targetURI())); len(problems) > 0 {
			t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
		}
	})
	t.Run("switch fails", func(t *testing.T) {
		t.Parallel()
		m, w := streaming(t, 12, 15)
		w.Stop()
		log := t.TempDir() + "/log"
		m.run(6, "switchover", "--yes", "--on-switch", "exit 9")
		if s := m.result(0, "status"); s["baton"] != "target" || len(s["findings"].([]any)) != 1 {
			t.Fatalf("%v", s)
		}
		m.run(0, "switchover", "--yes", "--on-switch", `echo "$PGBATON_TO_SIDE $PGBATON_TO_HOST $PGBATON_TO_PORT $PGBATON_TO_DATABASE" >`+log)
		if got := readFile(t, log); got != "target 127.0.0.1 "+port(m.target)+" app\n" {
			t.Errorf("the switch hook was told %q", got)
		}
		m.run(0, "switchover", "--yes", "--on-switch", "exit 9") // traffic has moved: not again
	})
}

// TestLeakAborts: a superuser's session that overrides the read-only default and
// writes after the fence is noticed before the pass.
func TestLeakAborts(t *testing.T) {
	t.Parallel()
	m, w := streaming(t, 12, 15)
	gate := fifo(t)
	// The drain is held up by a lock on the target, long enough to write.
	blocker := pgtest.Connect(t, m.targetURI())
	mustExec(t, blocker, `SET default_transaction_read_only = off`)
	p := pgtest.Spawn(t, m.options("switchover", "--yes", "--json", "--on-pause", "echo paused; read _ <"+gate))
	p.AwaitStderr(t, "paused")
	mustExec(t, blocker, `BEGIN`)
	mustExec(t, blocker, `LOCK TABLE pgbaton.marker_forward_1 IN EXCLUSIVE MODE`)
	open(t, gate)
	p.AwaitStdout(t, `"phase":"fence"`)
	config, err := pgx.ParseConfig(m.sourceURI())
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["default_transaction_read_only"] = "off"
	stranger, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	// What is written before the drain's marker goes over with it; what comes later leaks.
	for !pgtest.QueryValue[bool](t, stranger, `SELECT EXISTS (SELECT FROM pgbaton.marker_forward_1 WHERE kind = 'drain')`) {
	}
	mustExec(t, stranger, `INSERT INTO public.probe DEFAULT VALUES`)
	stranger.Close(t.Context())
	mustExec(t, blocker, `COMMIT`)
	r := p.Wait(t)
	if r.Code != 4 || !strings.Contains(r.Stdout, `public`) || !strings.Contains(r.Stdout, "after the fence") {
		t.Fatalf("the leak was not noticed: %s", r)
	}
	m.serves(w)
}

// TestDrainTooSlow: a taker that does not apply in time aborts the handover
// within the budget.
func TestDrainTooSlow(t *testing.T) {
	t.Parallel()
	m, w := streaming(t, 15, 18)
	blocker := pgtest.Connect(t, m.targetURI())
	mustExec(t, blocker, `SET default_transaction_read_only = off`)
	gate := fifo(t)
	p := pgtest.Spawn(t, m.options("switchover", "--yes", "--json", "--max-pause", "2s", "--on-pause", "echo paused; read _ <"+gate))
	p.AwaitStderr(t, "paused")
	mustExec(t, blocker, `BEGIN`)
	mustExec(t, blocker, `LOCK TABLE pgbaton.marker_forward_1 IN EXCLUSIVE MODE`)
	open(t, gate)
	r := p.Wait(t)
	if r.Code != 4 || !strings.Contains(r.Stdout, "phase drain") || !strings.Contains(r.Stdout, "--max-pause 2s") {
		t.Fatalf("%s", r)
	}
	mustExec(t, blocker, `COMMIT`)
	m.serves(w)
}

// TestFenceTooSlow: a session that takes longer to start up than the budget
// allows aborts the handover at the barrier.
func TestFenceTooSlow(t *testing.T) {
	t.Parallel()
	m, w := streaming(t, 12, 17)
	gate := fifo(t)
	p := pgtest.Spawn(t, m.options("switchover", "--yes", "--json", "--max-pause", "1s", "--on-pause", "echo paused; read _ <"+gate))
	p.AwaitStderr(t, "paused")
	config, err := pgx.ParseConfig(m.source.ConnStringAs("app", "", m.db))
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["options"] = "-c post_auth_delay=4"
	slow := make(chan struct{})
	go func() {
		defer close(slow)
		if conn, err := pgx.ConnectConfig(t.Context(), config); err == nil {
			conn.Close(t.Context())
		}
	}()
	hidden := pgtest.Connect(t, m.sourceURI())
	for !pgtest.QueryValue[bool](t, hidden, `SELECT EXISTS (SELECT FROM pg_locks l WHERE l.classid = 'pg_database'::regclass
		AND l.objid = (SELECT oid FROM pg_database WHERE datname = 'app') AND l.granted AND l.pid <> pg_backend_pid())`) {
	}
	open(t, gate)
	r := p.Wait(t)
	if r.Code != 4 || !strings.Contains(r.Stdout, "phase fence") {
		t.Fatalf("%s", r)
	}
	<-slow
	m.serves(w)
}

// TestTakerDies: the taker goes away in the drain: the holder serves again, and
// the handover succeeds when the taker is back.
func TestTakerDies(t *testing.T) {
	t.Parallel()
	m, w := streaming(t, 13, 18)
	gate := fifo(t)
	p := pgtest.Spawn(t, m.options("switchover", "--yes", "--json", "--on-pause", "echo paused; read _ <"+gate))
	p.AwaitStderr(t, "paused")
	if err := m.target.Kill(); err != nil {
		t.Fatal(err)
	}
	open(t, gate)
	if r := p.Wait(t); r.Code != 4 {
		t.Fatalf("%s", r)
	}
	back := func() {
		t.Helper()
		if sides := m.writable(t.Context()); !slices.Equal(sides, []string{"source"}) {
			t.Fatalf("writable after the abort: %v", sides)
		}
		if err := m.target.Restart(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	back()

	// Behind the end of the stream: it is let on by hand, and what was prepared for the way
	// back is removed by the next handover.
	pgtest.UntilTrue(t, m.sourceURI(), time.Minute, "the worker reads the slot", `SELECT active FROM pg_replication_slots`)
	p = pgtest.Spawn(t, m.options("switchover", "--yes", "--on-pause", "echo paused; read _ <"+gate))
	p.AwaitStderr(t, "paused")
	pgtest.Hold(t, m.target.ConnString("postgres"), `SELECT txid_current()`) // the slot waits for it
	open(t, gate)
	pgtest.UntilTrue(t, m.target.ConnString("postgres"), time.Minute, "the stream has ended, and the way back's slot is being made",
		`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_create_logical_replication_slot%' AND wait_event_type = 'Lock' AND pid <> pg_backend_pid())`)
	if err := m.target.Kill(); err != nil {
		t.Fatal(err)
	}
	r := p.Wait(t)
	for _, said := range []string{"phase way back", "the subscription could not be enabled again", "pgbaton resume, when the target is back",
		"what was prepared for the way back could not be removed", "the next handover, finish or reset removes it"} {
		if r.Code != 4 || !strings.Contains(r.Stderr, said) {
			t.Errorf("want %q in %s", said, r)
		}
	}
	back()
	const prepared = `SELECT coalesce(sum(oid::bigint), 0)::bigint FROM pg_publication`
	left := pgtest.QueryValue[int64](t, pgtest.Connect(t, m.targetURI()), prepared)
	if s := m.result(0, "status"); left == 0 || s["phase"] != "held" {
		t.Errorf("publication %d is left; status: %v", left, s)
	}
	m.run(0, "resume")
	m.serves(w)
	if now := pgtest.QueryValue[int64](t, pgtest.Connect(t, m.targetURI()), prepared); now == left {
		t.Error("the next handover has not removed what was prepared")
	}
}

// TestNotReady: what would break a handover is refused before anyone waits.
func TestNotReady(t *testing.T) {
	t.Parallel()
	m, w := streaming(t, 13, 17)
	refused := func(why string, args ...string) {
		t.Helper()
		r := m.run(3, append([]string{"switchover", "--yes"}, args...)...)
		if !strings.Contains(r.Stderr, why) {
			t.Errorf("the refusal does not say %q:\n%s", why, r.Stderr)
		}
	}
	app := m.source.ConnStringAs("app", "", m.db)
	pgtest.Exec(t, app, `CREATE TABLE app.late (i int PRIMARY KEY)`)
	refused(`"app"."late" is not in the publication`)
	pgtest.Exec(t, app, `DROP TABLE app.late`)

	pgtest.Exec(t, app, `ALTER TABLE app.filler ADD COLUMN late int`)
	refused(`"app"."filler" has other columns`)
	pgtest.Exec(t, app, `ALTER TABLE app.filler DROP COLUMN late`)

	m.run(0, "pause")
	if s := m.result(0, "status"); s["phase"] != "held" || s["lag_seconds"] != nil {
		t.Errorf("paused: %v", s)
	}
	refused("is disabled")
	m.run(0, "resume")

	m.serves(w)
	m.run(0, "finish", "--yes")
}

// TestLateSequence: a sequence that is created after the handover was found ready
// would be lost with its value: it is found before anyone waits.
func TestLateSequence(t *testing.T) {
	t.Parallel()
	m, w := streaming(t, 13, 15)
	gate := pgtest.Connect(t, m.sourceURI()) // prepare begins by raising the attempt
	mustExec(t, gate, `BEGIN`)
	mustExec(t, gate, `SELECT FROM pgbaton.migration FOR UPDATE`)
	p := pgtest.Spawn(t, m.options("switchover", "--yes", "--json"))
	p.AwaitStdout(t, `"phase_ended","phase":"ready"`)
	pgtest.Exec(t, m.source.ConnStringAs("app", "", m.db), `CREATE SEQUENCE app.late START 1000`)
	mustExec(t, gate, `COMMIT`)
	if r := p.Wait(t); r.Code != 4 || !strings.Contains(r.Stdout, "phase prepare") || !strings.Contains(r.Stdout, `late`) {
		t.Fatalf("%s", r)
	}
	pgtest.Exec(t, m.source.ConnStringAs("app", "", m.db), `DROP SEQUENCE app.late`)
	m.serves(w)
}

// TestTrouble: a stream that stops with an error: status shows the server's
// message and what to do, and goes on when it is mended.
func TestTrouble(t *testing.T) {
	t.Parallel()
	for _, to := range []int{15, 19} {
		t.Run(fmt.Sprint(to), func(t *testing.T) {
			t.Parallel()
			m, w := streaming(t, 13, to)
			target := pgtest.Connect(t, m.targetURI())
			mustExec(t, target, `SET default_transaction_read_only = off`)
			mustExec(t, target, `INSERT INTO app.filler VALUES (77777, 'in the way')`)
			pgtest.Exec(t, m.source.ConnStringAs("app", "", m.db), `INSERT INTO app.filler VALUES (77777, 'the right one')`)
			deadline := time.Now().Add(time.Minute)
			for {
				r := m.run(0, "status")
				if strings.Contains(r.Stdout, `filler_pkey`) && strings.Contains(r.Stdout, "77777") && strings.Contains(r.Stdout, "hint:") {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("status does not show the server's message:\n%s", r.Stdout)
				}
			}
			// Nor is more time what a handover needs.
			if r := m.run(3, "switchover", "--yes", "--max-pause", "2s"); !strings.Contains(r.Stderr, "apply worker fails: INSERT") || strings.Contains(r.Stderr, "allow a longer --max-pause") {
				t.Errorf("%s", r)
			}
			mustExec(t, target, `DELETE FROM app.filler WHERE i = 77777`)
			for m.result(0, "status")["phase"] != "streaming" {
				if time.Now().After(deadline) {
					t.Fatal("the stream does not go on")
				}
			}
			m.serves(w)
		})
	}
}

// fifo makes a named pipe at which a hook waits until open.
func fifo(t *testing.T) string {
	t.Helper()
	name := t.TempDir() + "/gate"
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func open(t *testing.T, gate string) {
	t.Helper()
	if err := os.WriteFile(gate, []byte("go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestResumeAfterAbort: a handover was aborted while the target was out of reach, behind
// the phase in which it makes the slot of the way back. Whoever lets the stream flow
// again takes that away first: through it, what the target applies would come back.
func TestResumeAfterAbort(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 17)
	m.load(`CREATE TABLE t (i int PRIMARY KEY)`, `INSERT INTO t SELECT generate_series(1, 100)`)
	m.run(0, "start")
	source, target := pgtest.Connect(t, m.sourceURI()), pgtest.Connect(t, m.targetURI())
	label := pgtest.QueryValue[string](t, source, `SELECT ends ->> 'label' FROM pgbaton.migration`)
	mustExec(t, target, `SET default_transaction_read_only = off`)
	const says = "the subscription was left disabled by an aborted handover"
	for _, helps := range [][]string{{"resume"}, {"switchover", "--yes"}} {
		mustExec(t, target, `ALTER SUBSCRIPTION pgbaton_`+label+`_forward_1 DISABLE`)
		mustExec(t, target, `SELECT pg_create_logical_replication_slot('pgbaton_`+label+`_reverse_1', 'pgoutput')`)
		mustExec(t, source, `INSERT INTO pgbaton.journal VALUES ('handover', 'stream', '1')`)
		s := m.result(0, "status")
		if remedy := remedyOf(t, s["findings"], says); s["phase"] != "held" || remedy != "pgbaton resume; the next handover does it by itself" {
			t.Errorf("left disabled: %v, %s", s["phase"], remedy)
		}
		m.run(0, helps...)
		if n := pgtest.QueryValue[int](t, target, `SELECT count(*)::int FROM pg_replication_slots`); helps[0] == "resume" && n != 0 {
			t.Errorf("%d slots are left on the target", n)
		}
		if s := m.result(0, "status"); strings.Contains(texts(s["findings"]), says) {
			t.Errorf("after %s: %v", helps[0], s["findings"])
		}
	}
	m.same()

	// The way back, paused, or left disabled by a switchover that died behind the pass.
	for _, helps := range [][]string{{"resume"}, {"switchover", "--yes"}} {
		m.run(0, "pause")
		if remedy := remedyOf(t, m.result(0, "status")["findings"], "the way back is disabled"); remedy != "pgbaton resume; or complete an unfinished handover: pgbaton switchover" {
			t.Error(remedy)
		}
		m.run(0, helps...)
		if s := m.result(0, "status"); strings.Contains(texts(s["findings"]), "the way back is disabled") {
			t.Errorf("after %s: %v", helps[0], s["findings"])
		}
	}
}
