package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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

// heldUp is a command one of whose sessions stands before a statement.
type heldUp struct {
	*pgtest.Process
	args    []string
	release func() // lets it go on
}

// holdUp runs a command until it sends a side a statement that has the given text.
func (m *move) holdUp(side, text string, args ...string) heldUp {
	m.t.Helper()
	proxy := pgtest.NewProxy(m.t, map[string]string{source: m.sourceURI(), target: m.targetURI()}[side])
	reached, released := make(chan struct{}), make(chan struct{})
	var once sync.Once
	proxy.Rule(func(seen []byte) pgtest.Verdict {
		if bytes.Contains(seen, []byte(text)) {
			once.Do(func() { close(reached); <-released })
		}
		return pgtest.Forward
	})
	o := m.options(append(args, "--json")...)
	name, uri := "PGBATON_SOURCE=", m.sourceURI()
	if side == target {
		name, uri = "PGBATON_TARGET=", m.targetURI()
	}
	o.Env = append(o.Env, name+proxy.Through(m.t, uri)) // the last one counts
	h := heldUp{Process: pgtest.Spawn(m.t, o), args: args, release: sync.OnceFunc(func() { close(released) })}
	m.t.Cleanup(h.release)
	select {
	case <-reached:
	case <-h.Done():
		m.t.Fatalf("pgbaton %s has not asked %s: %s", strings.Join(args, " "), text, h.Wait(m.t))
	}
	return h
}

// What a command asks: as soon as it is connected, of the migration's record; while it
// connects, of its session; and what check asks.
const (
	asksRecord  = "to_regclass"
	asksSession = "pg_backend_pid()::text"
	asksCheck   = "pg_prepared_xacts"
)

// TestEndedBeforeTheLock: a fence ends the session of a command that has not asked for
// the lock yet. What only looks, looks again; what would work is refused.
func TestEndedBeforeTheLock(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 17)
	m.loadApp()
	m.result(0, "start")
	works := [][]string{{"start"}, {"pause"}, {"resume"}, {"rehearse"}, {"finish", "--yes"}, {"reset", "--yes"}, {"switchover", "--yes"}, {"rollback", "--yes"}}
	looks := [][]string{{"status"}, {"report"}}
	for _, winner := range []string{"switchover", "rollback"} {
		holder, to := source, target
		if winner == "rollback" {
			holder, to = target, source
		}
		var losers []heldUp
		for _, args := range append(works, looks...) {
			losers = append(losers, m.holdUp(holder, asksRecord, args...))
		}
		if winner == "switchover" {
			losers = append(losers, m.holdUp(holder, asksCheck, "start"))
		}
		if winner == "switchover" {
			losers = append(losers, m.holdUp(holder, asksCheck, "check"))
		}
		connecting := []heldUp{m.holdUp(holder, asksSession, "status"), m.holdUp(holder, asksSession, winner, "--yes")}
		if r := m.result(0, winner, "--yes"); r["baton"] != to {
			t.Fatalf("%v", r)
		}
		for _, l := range losers {
			l.release()
			r := l.Wait(t)
			switch l.args[0] {
			case "check": // it finds what is there by now
				if r.Code != 3 && r.Code != 0 || strings.Contains(r.Stdout, "57P01") {
					t.Errorf("%s beside a %s: %s", l.args, winner, r)
				}
				continue
			case "status", "report":
				if r.Code != 0 || l.args[0] == "status" && !strings.Contains(r.Stdout, `"baton":"`+to+`"`) || strings.Contains(r.Stdout, `"reachable":false`) {
					t.Errorf("%s beside a %s: %s", l.args, winner, r)
				}
				continue
			}
			if r.Code != 3 || !strings.Contains(r.Stdout, "another pgbaton") {
				t.Errorf("%s beside a %s: %s", l.args, winner, r)
			}
		}
		for _, l := range connecting { // begins again, and finds things as they are now
			l.release()
			if r := l.Wait(t); r.Code != 0 || strings.Contains(r.Stdout, `"reachable":false`) {
				t.Errorf("%s beside a %s, connecting: %s", l.args, winner, r)
			}
		}
		if s := m.result(0, "status"); s["baton"] != to {
			t.Fatalf("%v", s)
		}
	}
}

// TestEndedByOthers: a session that an outage, or somebody, has ended is no lost race,
// handover or not.
func TestEndedByOthers(t *testing.T) {
	t.Parallel()
	m := newMove(t, 12, 15)
	m.loadApp()
	m.result(0, "start")
	m.result(0, "switchover", "--yes")
	l := m.holdUp(source, asksRecord, "pause")
	pgtest.Exec(t, m.source.ConnString("postgres"), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'app' AND application_name = 'pgbaton'`)
	l.release()
	if r := l.Wait(t); r.Code != 1 || !strings.Contains(r.Stdout, "57P01") {
		t.Errorf("ended by somebody: %s", r)
	}
	for i, outage := range []func(){
		func() {
			if err := m.target.Restart(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		},
		func() { // one backend dies, and the server starts anew by itself
			const checkpointer = `SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'checkpointer'`
			conn := pgtest.Connect(t, m.source.ConnString("postgres"))
			before := pgtest.QueryValue[int32](t, conn, checkpointer)
			if err := syscall.Kill(int(pgtest.QueryValue[int32](t, conn, `SELECT pg_backend_pid()`)), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			pgtest.Until(t, 30*time.Second, "the server is there again", func() bool {
				again, err := pgx.Connect(t.Context(), m.sourceURI())
				if err != nil {
					return false
				}
				defer again.Close(t.Context())
				var now int32
				return again.QueryRow(t.Context(), checkpointer).Scan(&now) == nil && now != 0 && now != before
			})
		},
	} {
		holder, command := target, "rollback"
		if i == 1 {
			holder, command = source, "switchover"
		}
		l = m.holdUp(holder, asksRecord, "pause")
		m.result(0, command, "--yes")
		outage()
		l.release()
		if r := l.Wait(t); r.Code != 1 || strings.Contains(r.Stdout, "another pgbaton") {
			t.Errorf("beside a %s, and an outage: %s", command, r)
		}
	}
}

// TestOperatorsAtOnce: of several that hand over at the same moment one does, whatever
// the moment; the others are refused, or find it done.
func TestOperatorsAtOnce(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 17)
	m.loadApp()
	m.result(0, "start")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	w := pgtest.StartWriters(ctx, t, m.source.ConnStringAs("app", "", m.db), 2, pgtest.WritersOptions{Rate: 50})
	codes := map[string]int{}
	for round := range 12 {
		command, to, uri := "switchover", target, m.target.ConnStringAs("app", "", m.db)
		if round%2 == 1 {
			command, to, uri = "rollback", source, m.source.ConnStringAs("app", "", m.db)
		}
		if err := w.Await(ctx, 10); err != nil {
			t.Fatal(err)
		}
		var operators []*pgtest.Process
		for i := range 4 {
			operators = append(operators, pgtest.Spawn(t, m.options(command, "--yes", "--json", "--max-pause", "30s")))
			if i < 3 && round%4 >= 1 { // each of the others begins nearer to the fence of the first
				operators[0].AwaitStdout(t, []string{`"phase_ended","phase":"ready"`, `"guardian_started"`, `"phase_ended","phase":"pause"`}[i])
			}
		}
		onlooker := pgtest.Spawn(t, m.options("status", "--json"))
		won := 0
		for _, p := range operators {
			r := p.Wait(t)
			lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
			var result map[string]any
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &result); err != nil {
				t.Fatalf("%v: %s", err, r)
			}
			switch {
			case r.Code == 0 && result["already"] == true:
				codes["already"]++
			case r.Code == 0:
				codes["won"]++
				won++
			case r.Code == 3 && strings.Contains(fmt.Sprint(result["error"]), "another pgbaton"):
				codes["refused"]++
			default:
				t.Errorf("round %d, one of several: %s", round, r)
			}
		}
		if r := onlooker.Wait(t); r.Code != 0 || strings.Contains(r.Stdout, `"reachable":false`) {
			t.Errorf("round %d, status: %s", round, r)
		}
		if s := m.result(0, "status"); won != 1 || s["baton"] != to {
			t.Fatalf("round %d: %d have handed over, the %s has the baton", round, won, s["baton"])
		}
		w.Switch(uri)
	}
	t.Log(codes)
	if codes["refused"] == 0 {
		t.Error("nobody was refused")
	}
	if err := w.Await(ctx, 10); err != nil {
		t.Fatal(err)
	}
	w.Stop()
	m.result(0, "switchover", "--yes")
	m.same()
	if problems := w.Check(ctx, pgtest.Connect(t, m.targetURI())); len(problems) > 0 {
		t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
	}
}
