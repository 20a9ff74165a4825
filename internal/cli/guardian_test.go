package cli_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
)

// guardianOf reads the process id of the guardian from a handover's events.
func guardianOf(t *testing.T, stdout string) int {
	t.Helper()
	for line := range strings.Lines(stdout) {
		var e struct {
			Type string `json:"type"`
			PID  int    `json:"pid"`
		}
		if json.Unmarshal([]byte(line), &e) == nil && e.Type == "guardian_started" {
			return e.PID
		}
	}
	t.Fatalf("no guardian was started:\n%s", stdout)
	return 0
}

// TestGuardianUndoes: the process that hands over is killed, or stopped, before
// the pass; without anybody's doing the source serves again.
func TestGuardianUndoes(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGSTOP} {
		for _, phase := range []string{"pause", "fence", "drain"} {
			t.Run(name+" after "+phase, func(t *testing.T) {
				t.Parallel()
				m, w := streaming(t, 12, 15)
				log, gate := t.TempDir()+"/log", pgtest.NewFifo(t)
				p := pgtest.Spawn(t, m.options("switchover", "--yes", "--json", "--max-pause", "3s",
					"--on-pause", gate.Command("paused"), "--on-abort", "echo $PGBATON_PHASE $PGBATON_SOURCE >>"+log)) // of the connection string it is told nothing
				p.AwaitStderr(t, "paused")
				// The way back's slot waits for who has written: the pass must not come before the signal.
				written := pgtest.Hold(t, m.target.ConnString("postgres"), `SELECT txid_current()`)
				gate.Open(t, 1)
				p.AwaitStdout(t, fmt.Sprintf(`"phase_ended","phase":"%s"`, phase))
				p.Signal(t, sig)
				stopped := time.Now()
				m.awaitNote(t, "the guardian undid")
				t.Logf("undone %v after the signal", time.Since(stopped))
				written.Release()
				if got := readFile(t, log); got != "abort\n" {
					t.Errorf("--on-abort was run: %q", got)
				}
				if sides := m.writable(t.Context()); !slices.Equal(sides, []string{"source"}) {
					t.Fatalf("writable: %v", sides)
				}
				if sig == syscall.SIGSTOP {
					select {
					case <-p.Done(): // killed by the guardian
					case <-t.Context().Done():
					}
				}
				m.serves(w)
			})
		}
	}
}

// awaitNote waits until status shows a text.
func (m *move) awaitNote(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		s := m.result(0, "status")
		if b, _ := json.Marshal(s["findings"]); strings.Contains(string(b), text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %q in status: %v", text, s)
		}
	}
}

// TestRehearse: a handover is measured in either direction while the application
// writes, and nobody notices; what would refuse a handover refuses its rehearsal.
func TestRehearse(t *testing.T) {
	t.Parallel()
	m, w := streaming(t, 13, 17)
	source := pgtest.Connect(t, m.sourceURI())
	grants := func() string {
		return pgtest.QueryValue[string](t, source, `SELECT coalesce(datacl::text, '') || coalesce((SELECT setconfig::text FROM pg_db_role_setting s WHERE s.setdatabase = d.oid), '')
			FROM pg_database d WHERE datname = current_database()`)
	}
	before := grants()
	sessions := pgtest.QueryValue[[]int32](t, source, `SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE usename = 'app'`)
	r := m.result(0, "rehearse", "--on-pause", "true")
	if r["forecast_ms"].(float64) <= 0 || len(r["parts"].([]any)) != 8 || r["to"] != "target" {
		t.Errorf("%v", r)
	}
	if after := grants(); after != before {
		t.Errorf("the grants were %s and are %s", before, after)
	}
	if after := pgtest.QueryValue[[]int32](t, source, `SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE usename = 'app'`); !slices.Equal(sessions, after) {
		t.Errorf("sessions were ended: %v became %v", sessions, after)
	}
	if n := pgtest.QueryValue[int](t, source, `SELECT count(*)::int FROM pg_replication_slots`); n != 1 {
		t.Errorf("%d slots", n)
	}
	refused := func(why string, args ...string) {
		t.Helper()
		if r := m.run(3, append([]string{"rehearse"}, args...)...); !strings.Contains(r.Stderr, why) {
			t.Errorf("it does not say %q:\n%s", why, r)
		}
	}
	refused("the command of --on-switch does not exist", "--on-switch", "/nowhere/at-all")
	refused("cannot read --on-pause", "--on-pause", "echo (")
	pgtest.Exec(t, m.sourceURI(), `CREATE TABLE app.late (i int PRIMARY KEY)`)
	refused("is not in the publication")
	pgtest.Exec(t, m.sourceURI(), `DROP TABLE app.late`)
	m.handOver(t.Context(), w, "switchover", m.target.ConnStringAs("app", "", m.db))
	if r := m.result(0, "rehearse"); r["command"] != "rollback" || r["to"] != "source" {
		t.Errorf("%v", r)
	}
	w.Stop()
	if problems := w.Check(t.Context(), pgtest.Connect(t, m.targetURI())); len(problems) > 0 {
		t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
	}
}
