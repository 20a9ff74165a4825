package cli_test

import (
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// TestAfterDeath: what other commands say of a handover that died with its guardian, and
// that the command which they name brings it to its end.
func TestAfterDeath(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 17)
	m.load(`CREATE TABLE t (i int PRIMARY KEY)`)
	m.run(0, "start")
	says := func(why, remedy string, command ...string) {
		t.Helper()
		if r := m.run(3, command...); !strings.Contains(r.Stderr, why) || !strings.Contains(r.Stderr, remedy) {
			t.Errorf("%q: want %q and %q in\n%s", command, why, remedy, r)
		}
	}
	dies := func(phase string, args ...string) {
		t.Helper()
		p := pgtest.Spawn(t, m.options(append([]string{"switchover", "--yes", "--json"}, args...)...))
		p.AwaitStdout(t, `"phase_ended","phase":"`+phase+`"`)
		m.killBoth(p)
	}
	// Before the pass: the way back's slot waits for who has written.
	written := pgtest.Hold(t, m.target.ConnString("postgres"), `SELECT txid_current()`)
	dies("drain")
	written.Release()
	says("the source is fenced: a handover died before the pass", "pgbaton switchover, run again, continues from there", "start")
	says("the source is fenced: a handover died", "pgbaton switchover, run again, undoes or completes it", "rehearse")
	m.run(0, "switchover", "--yes")
	m.run(0, "rollback", "--yes")

	// Behind the pass: the other side cannot take it.
	taking := pgtest.Hold(t, m.targetURI(), `INSERT INTO pgbaton.journal VALUES ('handover', 'traffic', '[1]')`)
	dies("pass", "--no-rollback") // a slot would wait for it
	taking.Release()
	says("the source has handed the baton over and the target has not taken it yet", "run the command of that handover again: it completes it", "rollback", "--yes")
	says("the baton has passed, and the target has not taken it yet", "run the handover's command again: it completes it", "resume")
	says("the baton has passed, but the target has not taken it yet", "pgbaton switchover, run again, completes it", "finish", "--yes")
	m.run(0, "switchover", "--yes")
	m.same()
	m.run(0, "finish", "--yes")
}
