package cli_test

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// TestInside: what a handover meets that was not so when it was found ready, before the
// pass and behind it, and what a rehearsal tells of that; each with what mends it.
func TestInside(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 15)
	m.load(`CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, pid int REFERENCES p); CREATE SEQUENCE s;
		INSERT INTO p SELECT generate_series(1, 10); INSERT INTO c SELECT i, i FROM generate_series(1, 10) i;
		CREATE FUNCTION nothing() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
		CREATE EVENT TRIGGER noticed ON ddl_command_end EXECUTE FUNCTION nothing()`)
	m.run(0, "start")
	m.tooSlow()
	m.ledAstray()
	m.keptBefore()
	m.keptBehind()
	m.wayBackLost()
}

// tooSlow: a rehearsal says what takes too long.
func (m *move) tooSlow() {
	t := m.t
	t.Helper()
	held := pgtest.Hold(t, m.sourceURI(), `ALTER SEQUENCE s RENAME TO t`) // a lock that keeps it from being read
	p := pgtest.Spawn(t, m.options("rehearse", "--max-pause", "1s"))
	pgtest.UntilTrue(t, m.sourceURI(), time.Minute, "it has waited for more than a second",
		`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE `+ours+` AND wait_event_type = 'Lock' AND query_start < clock_timestamp() - interval '1100 ms')`)
	held.Release()
	if r := p.Wait(t); r.Code != 3 || !regexp.MustCompile(`the pause would take about \d{4} ms, --max-pause allows 1000 ms; the longest part is the phase (drain|sequences): \d{4} ms`).MatchString(r.Stderr) ||
		!strings.Contains(r.Stderr, "hint: allow a longer --max-pause\n") {
		t.Errorf("%s", r)
	}
	m.run(0, "rehearse", "--max-pause", "10s")

	const behind, remedy = "group 1 is behind: a marker did not arrive on the target within ", "wait until pgbaton status shows a small lag, or allow a longer --max-pause"
	held = pgtest.Hold(t, m.targetURI(), `LOCK TABLE pgbaton.marker_forward_1 IN EXCLUSIVE MODE`)
	m.refusedUntil(map[string]string{behind + "1s": remedy}, func() {
		longer := pgtest.Spawn(t, m.options("rehearse", "--max-pause", "30s"))
		pgtest.UntilTrue(t, m.sourceURI(), time.Minute, "another marker is on its way", `SELECT count(*) > 1 FROM pgbaton.marker_forward_1`)
		held.Release()
		if r := longer.Wait(t); r.Code != 0 {
			t.Errorf("a longer --max-pause: %s", r)
		}
		pgtest.Until(t, time.Minute, "status shows a small lag", func() bool { return m.result(0, "status")["lag_seconds"] == 0.0 })
	}, "rehearse", "--max-pause", "1s")
}

// ledAstray: the address to which applications would be led leads elsewhere, and another
// database of the target's cluster has the slot of the way back.
func (m *move) ledAstray() {
	t := m.t
	t.Helper()
	proxy := pgtest.NewProxy(t, m.targetURI())
	proxy.Rule(func(seen []byte) pgtest.Verdict { // what logs in while pgbaton marks the target
		switch {
		case bytes.Contains(seen, []byte("pg_advisory_unlock_shared")):
			proxy.Lead(m.target.Port())
		case bytes.Contains(seen, []byte("pg_advisory_lock_shared")):
			proxy.Lead(m.source.Port())
		}
		return pgtest.Forward
	})
	label := pgtest.QueryValue[string](t, pgtest.Connect(t, m.sourceURI()), `SELECT ends ->> 'label' FROM pgbaton.migration`)
	elsewhere := pgtest.Connect(t, m.target.ConnString("postgres"))
	mustExec(t, elsewhere, `SELECT pg_create_logical_replication_slot('pgbaton_`+label+`_reverse_1', 'pgoutput')`)
	m.env = []string{"PGBATON_SOURCE=" + m.sourceURI(), "PGBATON_TARGET=" + proxy.Through(t, m.targetURI())}
	m.refusedUntil(map[string]string{
		fmt.Sprintf("the address to which traffic would be led is not that of the target: 127.0.0.1:%d leads to database app of the server at 127.0.0.1, port %d", proxy.Port(), m.source.Port()): "give --target a host name or address that leads to this one server",
		"_reverse_1 already, for database \"postgres\"": "hand over when the migration of that database is finished; or hand over without a way back: --no-rollback",
	}, func() {
		m.env = nil
		m.run(0, "rehearse", "--no-rollback")
		mustExec(t, elsewhere, `SELECT pg_drop_replication_slot('pgbaton_`+label+`_reverse_1')`)
	}, "rehearse")
	elsewhere.Close(t.Context())
}

// keptBefore: what aborts a handover.
func (m *move) keptBefore() {
	t := m.t
	t.Helper()
	locked := pgtest.Hold(t, m.targetURI(), `LOCK TABLE c IN SHARE UPDATE EXCLUSIVE MODE`)
	r := m.run(4, "switchover", "--yes", "--max-pause", "1s")
	who := regexp.MustCompile(`locked by pid (\d+), user postgres, client backend, table public\.c\b`).FindStringSubmatch(r.Stderr)
	if who == nil || !strings.Contains(r.Stderr, "wait for who holds the lock, or end it with pg_terminate_backend, and run the same command again; or hand over without a way back: --no-rollback") {
		t.Fatalf("%s", r)
	}
	pgtest.Exec(t, m.target.ConnString("postgres"), `SELECT pg_terminate_backend(`+who[1]+`)`)
	defer locked.Release()

	// It gets further now.
	gate := pgtest.NewFifo(t)
	p := pgtest.Spawn(t, m.options("switchover", "--yes", "--on-pause", gate.Command("paused")))
	p.AwaitStderr(t, "paused")
	pgtest.Exec(t, m.sourceURI(), `CREATE TABLE late (i int PRIMARY KEY)`)
	gate.Open(t, 1)
	if r := p.Wait(t); r.Code != 4 || !strings.Contains(r.Stderr, "hint: run the command again: it says what differs, if anything does") {
		t.Errorf("%s", r)
	}
	if r := m.run(3, "switchover", "--yes"); !strings.Contains(r.Stderr, `table "public"."late" is not in the publication`) {
		t.Errorf("%s", r)
	}
	pgtest.Exec(t, m.sourceURI(), `DROP TABLE late`)

	// It dies, and what it has left cannot be undone at once.
	written := pgtest.Hold(t, m.target.ConnString("postgres"), `SELECT txid_current()`) // the way back's slot waits for it
	p = pgtest.Spawn(t, m.options("switchover", "--yes", "--json", "--on-pause", "true"))
	p.AwaitStdout(t, `"phase_ended","phase":"drain"`)
	m.killBoth(p)
	written.Release()
	if r := m.run(1, "switchover", "--yes", "--on-abort", "exit 9"); !strings.Contains(r.Stderr, "undoing an earlier handover: ") || !strings.Contains(r.Stderr, "hint: "+again) {
		t.Errorf("%s", r)
	}
}

const again = "remove the cause, and run the same command again: it continues from here"

// keptBehind: the baton passes, and then not everything can be done: all that is said at
// once, and the same command does it when the causes are removed.
func (m *move) keptBehind() {
	t := m.t
	t.Helper()
	// As a load leaves it whose groups a foreign key connects; a row violates it.
	target := writer(t, m.targetURI())
	key := replication.WithheldKey{Table: postgres.Ident{Schema: "public", Name: "c"}, Name: "c_pid_fkey",
		Add: `ALTER TABLE ONLY public.c ADD CONSTRAINT c_pid_fkey FOREIGN KEY (pid) REFERENCES public.p NOT VALID`, Validate: `ALTER TABLE ONLY public.c VALIDATE CONSTRAINT c_pid_fkey`}
	if err := replication.Withhold(t.Context(), target, []replication.WithheldKey{key}); err != nil {
		t.Fatal(err)
	}
	mustExec(t, target, `ALTER TABLE c DROP CONSTRAINT c_pid_fkey`)
	pgtest.Exec(t, m.sourceURI(), `SET session_replication_role = replica`, `INSERT INTO c VALUES (99, 99)`)

	pause, resume := pgtest.NewFifo(t), pgtest.NewFifo(t)
	p := pgtest.Spawn(t, m.options("switchover", "--yes", "--json", "--on-abort", "true", "--on-pause", pause.Command("paused"), "--on-resume", resume.Command("in resume")))
	p.AwaitStderr(t, "paused")
	mustExec(t, target, `UPDATE pgbaton.journal SET value = '"x"' WHERE kind = 'event-trigger'`)
	pause.Open(t, 1)
	p.AwaitStderr(t, "in resume")
	pgtest.Exec(t, m.targetURI(), `CREATE FUNCTION keeps() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''kept''; END'`,
		`CREATE EVENT TRIGGER keeps ON ddl_command_start WHEN TAG IN ('DROP SUBSCRIPTION') EXECUTE FUNCTION keeps()`, `ALTER EVENT TRIGGER keeps ENABLE ALWAYS`)
	resume.Open(t, 1)
	r := p.Wait(t)
	failed := lastObject(t, r.Stdout)
	for _, said := range []string{"restoring event triggers: ", "dropping subscription ", "kept", "completing the foreign keys between groups: "} {
		if r.Code != 6 || !strings.Contains(failed["error"].(string), said) {
			t.Errorf("want %q in %s", said, r)
		}
	}
	hint := failed["hint"].(string)
	trigger := regexp.MustCompile(`UPDATE pgbaton\.journal SET value = '"O"' WHERE kind = '[a-z-]+' AND key = '[a-z]+'`).FindString(hint)
	if trigger == "" || !strings.Contains(hint, "; then run the same command again") || !strings.Contains(hint, again) {
		t.Fatalf("%s", hint)
	}
	pgtest.Exec(t, m.targetURI(), `DROP EVENT TRIGGER keeps`, `DROP FUNCTION keeps()`, trigger, `DELETE FROM c WHERE id = 99`)
	m.run(0, "switchover", "--yes")
	if left := pgtest.QueryValue[string](t, target, `SELECT concat_ws(' ', (SELECT evtenabled::text FROM pg_event_trigger), (SELECT count(*) FROM pg_subscription),
		(SELECT convalidated FROM pg_constraint WHERE conname = 'c_pid_fkey'), (SELECT count(*) FROM pgbaton.journal WHERE kind IN ('foreign-key', 'event-trigger')))`); left != "O 0 t 0" {
		t.Errorf("the event trigger, subscriptions, the foreign key, entries of the journal: %s", left)
	}
	target.Close(t.Context())
}

// wayBackLost: somebody moves the slot of the way back before it is enabled.
func (m *move) wayBackLost() {
	t := m.t
	t.Helper()
	resume := pgtest.NewFifo(t)
	p := pgtest.Spawn(t, m.options("rollback", "--yes", "--on-resume", resume.Command("in resume")))
	p.AwaitStderr(t, "in resume")
	m.same()
	pgtest.Exec(t, m.sourceURI(), `INSERT INTO p VALUES (1000)`,
		`SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM pg_replication_slots WHERE slot_name LIKE 'pgbaton%\_forward\_1'`)
	resume.Open(t, 1)
	const lost, closed = "changes may be missing on the target: slot pgbaton_", "pgbaton finish: this way is closed"
	if r := p.Wait(t); r.Code != 0 || !strings.Contains(r.Stderr, "the way back is not opened: "+lost) || !strings.Contains(r.Stderr, closed) {
		t.Errorf("%s", r)
	}
	if r := m.run(3, "switchover", "--yes"); !strings.Contains(r.Stderr, lost) || !strings.Contains(r.Stderr, closed) {
		t.Errorf("%s", r)
	}
	m.run(0, "finish", "--yes")
	if s := m.result(0, "status"); len(s["findings"].([]any)) > 0 {
		t.Errorf("%v", s)
	}
}
