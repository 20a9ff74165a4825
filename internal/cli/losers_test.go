package cli_test

import (
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// TestLosingOperator: a command that waits for its turn, and whose session the fence of
// another ends, says that another is at work.
func TestLosingOperator(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 17)
	m.loadApp()
	m.result(0, "start")
	for _, loser := range [][]string{{"switchover", "--yes"}, {"pause"}} {
		winner, to := "switchover", "target"
		if m.result(0, "status")["baton"] == "target" {
			winner, to = "rollback", "source"
		}
		gate := fifo(t)
		p := pgtest.Spawn(t, m.options(winner, "--yes", "--json", "--on-pause", "echo paused; read _ <"+gate))
		p.AwaitStderr(t, "paused")
		q := pgtest.Spawn(t, m.options(append(loser, "--json")...))
		first := pgtest.Connect(t, m.sourceURI()) // of the locks
		for !pgtest.QueryValue[bool](t, first, `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE application_name = 'pgbaton' AND pid <> pg_backend_pid() AND query LIKE '%pg_try_advisory_lock%' AND query NOT LIKE '%pg_stat_activity%'
				AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted))`) {
		}
		open(t, gate)
		if r := p.Wait(t); r.Code != 0 {
			t.Fatalf("%s: %s", winner, r)
		}
		if r := q.Wait(t); r.Code != 3 || !strings.Contains(r.Stdout, "another pgbaton") {
			t.Errorf("%s beside a %s: %s", loser, winner, r)
		}
		if baton := m.result(0, "status")["baton"]; baton != to {
			t.Fatalf("the %s has the baton", baton)
		}
	}
}
