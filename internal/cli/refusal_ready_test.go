package cli_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// refusedUntil requires a command to be refused for each reason, with its remedy; once
// the remedies are followed it is refused for none of them.
func (m *move) refusedUntil(reasons map[string]string, follow func(), command ...string) {
	m.t.Helper()
	r := m.run(3, command...)
	if command[0] == "rehearse" && !strings.Contains(r.Stderr, "pgbaton: rehearse refused: nothing was changed") {
		m.t.Errorf("%q: it is not said what was refused:\n%s", command, r)
	}
	for why, remedy := range reasons {
		if !strings.Contains(r.Stderr, why) || !strings.Contains(r.Stderr, remedy) {
			m.t.Errorf("%q: want %q and %q in\n%s", command, why, remedy, r)
		}
	}
	follow()
	r = pgtest.Run(m.t, m.options(command...))
	for why := range reasons {
		if strings.Contains(r.Stderr, why) || r.Code != 0 {
			m.t.Errorf("%q: the remedy does not help:\n%s", command, r)
		}
	}
}

// TestRefusedByServers: what the servers' settings and other people's sessions keep a
// handover from, and what becomes of a stream that is lost.
func TestRefusedByServers(t *testing.T) {
	t.Parallel()
	prepared := map[string]string{"max_prepared_transactions": "2"}
	m := &move{t: t, source: pgtest.Start(t, 15, prepared), target: pgtest.Start(t, 17, prepared), db: "app"}
	m.load(`CREATE TABLE t (i int PRIMARY KEY)`, `CREATE TABLE keyless (i int)`)
	m.run(0, "start")
	restart := func(c *cluster.Cluster, settings map[string]string) {
		t.Helper()
		if err := c.Restart(t.Context(), settings); err != nil {
			t.Fatal(err)
		}
		pgtest.UntilTrue(t, m.sourceURI(), time.Minute, "the worker reads the slot", `SELECT active FROM pg_replication_slots`)
	}
	target := m.target.ConnString("postgres")

	// One restart puts right all that needs one.
	pgtest.Exec(t, target, `SELECT pg_create_physical_replication_slot('theirs_' || i) FROM generate_series(1, current_setting('max_replication_slots')::int) i`)
	slots := pgtest.QueryValue[int](t, pgtest.Connect(t, target), `SELECT current_setting('max_replication_slots')::int`)
	restart(m.target, map[string]string{"wal_level": "replica", "max_wal_senders": "0"})
	m.refusedUntil(map[string]string{
		"wal_level is replica on the target":             "set it to logical and restart; or hand over without a way back: --no-rollback",
		"all replication slots of the target are in use": "raise max_replication_slots and restart; or hand over without a way back: --no-rollback",
		"all WAL senders of the target are in use":       "raise max_wal_senders and restart; or hand over without a way back: --no-rollback",
	}, func() {
		m.run(0, "rehearse", "--no-rollback")
		restart(m.target, map[string]string{"wal_level": "logical", "max_wal_senders": "10", "max_replication_slots": fmt.Sprint(slots + 2)})
	}, "rehearse")
	pgtest.Exec(t, target, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'theirs%'`)

	pgtest.Exec(t, target, `CREATE TABLE elsewhere (i int)`)
	pgtest.Hold(t, target, `INSERT INTO elsewhere VALUES (1)`)
	pgtest.UntilTrue(t, target, time.Minute, "it is old", `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND xact_start < clock_timestamp() - interval '1500 ms')`)
	const old = "an old writing transaction in the target's cluster: pid "
	m.refusedUntil(map[string]string{old: "wait for it, or end it with pg_terminate_backend"}, func() {
		pid := regexp.MustCompile(old + `(\d+)`).FindStringSubmatch(m.run(3, "rehearse", "--max-pause", "2s").Stderr)
		pgtest.Exec(t, target, `SELECT pg_terminate_backend(`+pid[1]+`)`)
	}, "rehearse", "--max-pause", "2s")

	pgtest.Exec(t, target, "BEGIN; INSERT INTO elsewhere VALUES (1); PREPARE TRANSACTION 'theirs'")
	m.refusedUntil(map[string]string{"could be committed after the fence, or would hold up a slot": "COMMIT PREPARED or ROLLBACK PREPARED it"},
		func() { pgtest.Exec(t, target, "COMMIT PREPARED 'theirs'") }, "rehearse")

	m.lostStream(restart)
}

// lostStream loses the stream in each way, before the first handover and after it.
func (m *move) lostStream(restart func(*cluster.Cluster, map[string]string)) {
	t := m.t
	again := func() { m.run(0, "reset", "--yes"); m.run(0, "start") }
	drop := func(uri string) {
		pgtest.Exec(t, uri, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'pgbaton\_%'`)
	}
	// Nobody else knows how far the subscription had applied: rows would come twice.
	pgtest.Exec(t, m.sourceURI(), `INSERT INTO keyless SELECT generate_series(1, 20000)`)
	pgtest.UntilTrue(t, m.targetURI(), time.Minute, "the rows have arrived", `SELECT count(*) = 20000 FROM keyless`)
	pgtest.Exec(t, m.targetURI(), `SET default_transaction_read_only = off`, `DO $$ DECLARE s name := (SELECT subname FROM pg_subscription WHERE subname LIKE 'pgbaton\_%'); BEGIN
		EXECUTE format('ALTER SUBSCRIPTION %I DISABLE', s); EXECUTE format('ALTER SUBSCRIPTION %I SET (slot_name = NONE)', s);
		EXECUTE format('DROP SUBSCRIPTION %I', s); END $$`)
	const twice = "changes would be applied twice on the target: somebody dropped subscription"
	for _, command := range []string{"start", "resume"} {
		if r := m.run(3, command); !strings.Contains(r.Stderr, twice) || strings.Contains(r.Stderr, "may be missing") {
			t.Errorf("%s", r)
		}
	}
	if s := fmt.Sprint(m.result(0, "status")["findings"]); !strings.Contains(s, "is suspect, "+twice) || strings.Contains(s, "start is not complete") || strings.Contains(s, "may be missing") {
		t.Errorf("%s", s)
	}
	m.refusedUntil(map[string]string{twice: "pgbaton reset, then start again"}, again, "rehearse")
	m.same()
	// Nothing has been said of a slot before somebody dropped it.
	m.run(0, "pause")
	drop(m.sourceURI())
	if s := fmt.Sprint(m.result(0, "status")["findings"]); !strings.Contains(s, "is gone from the source") || !strings.Contains(s, "pgbaton reset, then start again") {
		t.Errorf("%s", s)
	}
	m.run(3, "start")
	if r := m.run(3, "resume"); !strings.Contains(r.Stderr, "pgbaton reset, then start again; if the server removed the WAL, raise max_slot_wal_keep_size first") {
		t.Errorf("%s", r)
	}
	m.refusedUntil(map[string]string{"does not exist on the source": "what was written since it was lost is not on the other side: pgbaton reset, then start again"}, again, "rehearse")

	m.run(0, "pause")
	if err := m.source.Reload(t.Context(), map[string]string{"max_slot_wal_keep_size": "1MB"}); err != nil {
		t.Fatal(err)
	}
	source := pgtest.Connect(t, m.sourceURI())
	for range 3 {
		mustExec(t, source, `SELECT pg_switch_wal(), txid_current()`)
		mustExec(t, source, `CHECKPOINT`)
	}
	pgtest.UntilTrue(t, m.sourceURI(), time.Minute, "the slot is lost", `SELECT wal_status = 'lost' FROM pg_replication_slots`)
	if r := m.run(3, "resume"); !strings.Contains(r.Stderr, "is lost or gone from the source") {
		t.Errorf("%s", r)
	}
	m.refusedUntil(map[string]string{"is lost: the source has removed WAL it needs": "raise max_slot_wal_keep_size, and pgbaton reset, then start again"}, func() {
		if err := m.source.Reload(t.Context(), map[string]string{"max_slot_wal_keep_size": "-1"}); err != nil {
			t.Fatal(err)
		}
		again()
	}, "rehearse")

	m.run(0, "switchover", "--yes")
	m.run(0, "pause")
	drop(m.targetURI())
	if r := m.run(3, "resume"); !strings.Contains(r.Stderr, "the handover cannot be taken back any more: pgbaton finish") {
		t.Errorf("%s", r)
	}
	for _, command := range [][]string{{"rehearse"}, {"rollback", "--yes"}} {
		if r := m.run(3, command...); !strings.Contains(r.Stderr, "pgbaton finish: this way is closed") {
			t.Errorf("%s", r)
		}
	}
	m.run(0, "finish", "--yes", "--unfence")
	pgtest.Exec(t, m.target.ConnString("postgres"), `DROP DATABASE app`)
	m.run(0, "start") // nothing is in the way of another beginning
	m.run(0, "switchover", "--yes", "--no-rollback")
	if s := fmt.Sprint(m.result(0, "status")["findings"]); !strings.Contains(s, "there is no way back: the handover was made without one") || !strings.Contains(s, "pgbaton finish, when it is not needed") {
		t.Errorf("%s", s)
	}
	for command, remedy := range map[string]string{"rollback": "hint: pgbaton finish", "resume": "pgbaton finish, when it is not needed"} {
		args := []string{command}
		if command == "rollback" {
			args = append(args, "--yes")
		}
		if r := m.run(3, args...); !strings.Contains(r.Stderr, "there is no way back") || strings.Contains(r.Stderr, "slot") || !strings.Contains(r.Stderr, remedy) {
			t.Errorf("%s", r)
		}
	}
	m.run(0, "finish", "--yes")
}
