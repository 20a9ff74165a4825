package cli_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// ourSlot is the name of the one slot on a server.
func ourSlot(t *testing.T, conn postgres.DB) string {
	t.Helper()
	return pgtest.QueryValue[string](t, conn, `SELECT slot_name::text FROM pg_replication_slots WHERE slot_name LIKE 'pgbaton\_%'`)
}

// tamperings are what somebody else may do to a slot that nothing of ours reads.
var tamperings = map[string]func(t *testing.T, conn postgres.DB, slot string){
	"advanced": func(t *testing.T, conn postgres.DB, slot string) {
		mustExec(t, conn, fmt.Sprintf(`SELECT pg_replication_slot_advance('%s', pg_current_wal_lsn())`, slot))
	},
	"made again": func(t *testing.T, conn postgres.DB, slot string) {
		mustExec(t, conn, fmt.Sprintf(`SELECT pg_drop_replication_slot('%s')`, slot))
		mustExec(t, conn, fmt.Sprintf(`SELECT pg_create_logical_replication_slot('%s', 'pgoutput')`, slot))
	},
	"read": func(t *testing.T, conn postgres.DB, slot string) {
		mustExec(t, conn, fmt.Sprintf(`SELECT pg_logical_slot_get_binary_changes('%[1]s', NULL, NULL, 'proto_version', '1', 'publication_names', '%[1]s')`, slot))
	},
}

// TestGap: whatever happens to a slot while our worker does not read from it, rows
// that it leaves out are not left out in silence.
func TestGap(t *testing.T) {
	t.Parallel()
	for how, tamper := range tamperings {
		t.Run(how+" while paused", func(t *testing.T) {
			t.Parallel()
			m := gapMove(t)
			m.run(0, "start")
			m.run(0, "pause")
			m.run(0, "pause") // where it stood the first time counts
			m.tampered(tamper)
			m.suspect("resume")
		})
	}
	t.Run("while held", func(t *testing.T) {
		t.Parallel()
		m := gapMove(t)
		m.run(0, "start", "--hold")
		m.tampered(tamperings["advanced"])
		m.suspect("resume")
		m.run(3, "start")
	})
	t.Run("while the target is down", func(t *testing.T) {
		t.Parallel()
		m := gapMove(t)
		m.run(0, "start")
		if err := m.target.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		pgtest.UntilTrue(t, m.sourceURI(), time.Minute, "nobody reads the slot", `SELECT NOT active FROM pg_replication_slots`)
		m.run(0, "status") // which finds that
		m.tampered(tamperings["advanced"])
		if err := m.target.Restart(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		pgtest.UntilTrue(t, m.sourceURI(), time.Minute, "the worker reads the slot", `SELECT active FROM pg_replication_slots`)
		m.suspect()
	})
	t.Run("of the way back", func(t *testing.T) {
		t.Parallel()
		m := gapMove(t)
		m.run(0, "start")
		m.run(0, "switchover", "--yes")
		m.run(0, "pause")
		target := pgtest.Connect(t, m.targetURI())
		mustExec(t, target, `INSERT INTO t SELECT generate_series(101, 150)`)
		tamperings["made again"](t, target, ourSlot(t, target))
		if r := m.run(3, "rollback", "--yes"); !strings.Contains(r.Stderr, "may be missing on the source") {
			t.Errorf("%s", r)
		}
		m.run(3, "resume")
		m.run(0, "finish", "--yes")
	})
	t.Run("none", func(t *testing.T) { // what is no gap is not taken for one
		t.Parallel()
		m := gapMove(t)
		m.run(0, "start", "--hold")
		source := pgtest.Connect(t, m.sourceURI())
		for i := range 3 {
			mustExec(t, source, fmt.Sprintf(`INSERT INTO t VALUES (%d)`, 1000+i))
			m.run(0, "resume")
			m.run(0, "status")
			if err := m.source.Kill(); err != nil { // it may have forgotten how far it was read
				t.Fatal(err)
			}
			if err := m.source.Restart(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			source = pgtest.Connect(t, m.sourceURI())
			pgtest.UntilTrue(t, m.sourceURI(), time.Minute, "the worker reads the slot", `SELECT active FROM pg_replication_slots`)
			m.run(0, "status")
			m.run(0, "pause")
			m.run(0, "status")
		}
		// Stopped and let on while it lags, and stopped again before it has caught up.
		held := pgtest.Hold(t, m.targetURI(), `LOCK TABLE t`)
		mustExec(t, pgtest.Connect(t, m.sourceURI()), `INSERT INTO t VALUES (2000)`)
		for range 2 {
			m.run(0, "resume")
			pgtest.UntilTrue(t, m.sourceURI(), time.Minute, "the worker reads the slot", `SELECT active FROM pg_replication_slots`)
			mustExec(t, pgtest.Connect(t, m.sourceURI()), `INSERT INTO t SELECT max(i) + 1 FROM t`)
			m.run(0, "pause")
			m.run(0, "pause")
			if s := m.result(0, "status"); strings.Contains(fmt.Sprint(s["findings"]), "suspect") {
				t.Errorf("status: %v", s)
			}
		}
		held.Release()
		m.run(0, "resume")
		m.run(0, "switchover", "--yes")
		m.same()
		m.run(0, "rollback", "--yes")
		m.run(0, "switchover", "--yes")
		m.same()
	})
}

// TestMovedWhileCopying: rows that an interrupted start has copied are kept only
// under the slot that they were copied with.
func TestMovedWhileCopying(t *testing.T) {
	t.Parallel()
	m := newMove(t, 15, 17)
	m.load(loadSQL)
	p := pgtest.Spawn(t, m.options("start", "--jobs", "1", "--max-rate", "3MB", "--groups", "1", "--json"))
	p.AwaitStdout(t, `"table_copied","table":"\"load\".\"a\""`)
	p.Signal(t, syscall.SIGKILL)
	p.Wait(t)
	source := pgtest.Connect(t, m.sourceURI())
	mustExec(t, source, `UPDATE load.a SET t = 'changed'`)
	tamperings["made again"](t, source, ourSlot(t, source))
	if r := m.run(0, "start"); strings.Contains(r.Stderr, "are kept") {
		t.Errorf("%s", r)
	}
	m.run(0, "switchover", "--yes")
	m.same()
}

func gapMove(t *testing.T) *move {
	t.Helper()
	m := newMove(t, 15, 17)
	m.load(`CREATE TABLE t (i int PRIMARY KEY)`, `INSERT INTO t SELECT generate_series(1, 50)`)
	return m
}

// tampered writes rows and lets somebody make the slot leave them out.
func (m *move) tampered(tamper func(*testing.T, postgres.DB, string)) {
	m.t.Helper()
	source := pgtest.Connect(m.t, m.sourceURI())
	mustExec(m.t, source, `INSERT INTO t SELECT generate_series(101, 150)`)
	tamper(m.t, source, ourSlot(m.t, source))
}

// suspect: every command that would go on says what is wrong, and so does status.
func (m *move) suspect(commands ...string) {
	m.t.Helper()
	for _, command := range commands {
		if r := m.run(3, command); !strings.Contains(r.Stderr, "may be missing on the target") || !strings.Contains(r.Stderr, "pgbaton reset") {
			m.t.Errorf("%s: %s", command, r)
		}
	}
	if s := m.result(0, "status"); !strings.Contains(fmt.Sprint(s["findings"]), "suspect") {
		m.t.Errorf("status: %v", s)
	}
	if r := m.run(3, "switchover", "--yes"); !strings.Contains(r.Stderr, "may be missing on the target") {
		m.t.Errorf("%s", r)
	}
	m.run(3, "rehearse")
	m.run(0, "reset", "--yes")
	m.run(0, "start") // a new beginning
	m.run(0, "switchover", "--yes")
	m.same()
}
