package cli_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/pgtest"
)

// kill starts the program, waits for a text on its standard output, and kills
// it at once.
func (m *move) kill(until string, args ...string) {
	m.t.Helper()
	p := pgtest.Spawn(m.t, m.options(append(args, "--json")...))
	p.AwaitStdout(m.t, until)
	p.Signal(m.t, syscall.SIGKILL)
	p.Wait(m.t)
}

// loadApp makes a database owned by a role of its own, as applications have it,
// on both clusters; the target's database is made by start.
func (m *move) loadApp() {
	m.t.Helper()
	for _, c := range []string{m.source.ConnString("postgres"), m.target.ConnString("postgres")} {
		pgtest.Exec(m.t, c, `CREATE ROLE app LOGIN`)
	}
	pgtest.Exec(m.t, m.source.ConnString("postgres"), `CREATE DATABASE app OWNER app`)
	pgtest.Exec(m.t, m.source.ConnStringAs("app", "", m.db), pgtest.WriterSchema,
		`CREATE TABLE public.probe (at timestamptz DEFAULT now())`,
		`CREATE TABLE app.filler AS SELECT i, repeat('x', 100) AS t FROM generate_series(1, 20000) i`,
		`ALTER TABLE app.filler ADD PRIMARY KEY (i)`)
}

// writable lists the sides on which the application can write right now.
func (m *move) writable(ctx context.Context) (sides []string) {
	for side, uri := range map[string]string{
		"source": m.source.ConnStringAs("app", "", m.db), "target": m.target.ConnStringAs("app", "", m.db),
	} {
		conn, err := pgx.Connect(ctx, uri)
		if err != nil {
			continue
		}
		if _, err := conn.Exec(ctx, `CREATE TEMPORARY TABLE could_write ()`); err == nil {
			sides = append(sides, side)
		}
		conn.Close(ctx)
	}
	return sides
}

// TestStartKilled kills start in each of its steps; the same command again must
// end well, leave one slot, and lose no row.
func TestStartKilled(t *testing.T) {
	t.Parallel()
	steps := map[string][]string{
		"stream": {"target database", "record the migration on the target", "fence the target", "publication", "replication slot and snapshot",
			"schema archive", "tables without keys", "rows, indexes, keys", "other definitions", "statistics and materialized views", "subscription", "catch up"},
		"native": {"schema", "subscription", "copy rows", "catch up"},
		"dump":   {"dump", "restore", "subscription"},
	}
	for method, names := range steps {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			m := newMove(t, 13, 17)
			m.loadApp()
			w := pgtest.StartWriters(t.Context(), t, m.source.ConnStringAs("app", "", m.db), 2, pgtest.WritersOptions{Rate: 40})
			for _, step := range names {
				m.kill(fmt.Sprintf(`"step_began","step":"%s"`, step), "start", "--method", method)
				if s := m.result(0, "status"); s["phase"] != "copying" && step != "catch up" && !(step == "copy rows" && method == "native") &&
					s["phase"] != "held" && s["phase"] != "streaming" && s["phase"] != "catching-up" {
					t.Errorf("killed in %q: phase %v", step, s["phase"])
				}
				if r := m.result(0, "start", "--method", method); r["phase"] != "streaming" {
					t.Fatalf("after a kill in %q: %v", step, r)
				}
				source := pgtest.Connect(t, m.sourceURI())
				if n := pgtest.QueryValue[int](t, source, `SELECT count(*)::int FROM pg_replication_slots`); n != 1 {
					t.Errorf("killed in %q: %d slots", step, n)
				}
				if step == names[len(names)-1] {
					break
				}
				m.run(0, "reset", "--yes", "--drop-database")
			}
			w.Stop()
			m.run(0, "switchover", "--yes")
			m.same()
		})
	}
}

// TestSwitchoverKilled kills the handover at the end of each of its phases, and
// inside some. At no time may both sides accept writes; the same command again
// must complete the handover; no acknowledged write may be missing or doubled.
func TestSwitchoverKilled(t *testing.T) {
	t.Parallel()
	for _, phase := range []string{"ready", "prepare", "pause", "fence", "drain", "sequences", "way back", "pass", "open", "switch", "resume"} {
		t.Run("after "+phase, func(t *testing.T) {
			t.Parallel()
			switchoverKilled(t, fmt.Sprintf(`"phase_ended","phase":"%s"`, phase))
		})
	}
	for _, hook := range []string{"pause", "switch", "resume"} {
		t.Run("in "+hook, func(t *testing.T) {
			t.Parallel()
			switchoverKilled(t, "hook began", "--on-"+hook, "echo hook began; exec sleep 5")
		})
	}
}

func switchoverKilled(t *testing.T, until string, args ...string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m := newMove(t, 12, 15)
	m.loadApp()
	w := pgtest.StartWriters(ctx, t, m.source.ConnStringAs("app", "", m.db), 3, pgtest.WritersOptions{Rate: 60})
	m.result(0, "start")
	if err := w.Await(ctx, 10); err != nil {
		t.Fatal(err)
	}
	if until == "hook began" { // hooks print on standard error
		p := pgtest.Spawn(t, m.options(append([]string{"switchover", "--yes", "--json"}, args...)...))
		p.AwaitStderr(t, until)
		p.Signal(t, syscall.SIGKILL)
		p.Wait(t)
	} else {
		m.kill(until, "switchover", "--yes")
	}
	if sides := m.writable(ctx); len(sides) > 1 {
		t.Fatal("both sides accept writes")
	}
	status := m.result(0, "status")
	passed := status["baton"] == "target"
	t.Logf("baton %v, phase %v, writable %v", status["baton"], status["phase"], m.writable(ctx))

	log := t.TempDir() + "/aborted"
	again := m.result(0, "switchover", "--yes", "--on-abort", "echo $PGBATON_PHASE >>"+log)
	// Traffic that the first run held back is let go before the second holds it
	// back again; after the pass it must not go back.
	_, err := os.Stat(log)
	called, fenced := err == nil, status["source"].(map[string]any)["fenced"] == true
	if called && passed || !called && fenced && !passed {
		t.Errorf("--on-abort was called: %t", called)
	}
	if again["baton"] != "target" {
		t.Fatalf("the second run: %v", again)
	}
	if passed && again["resumed"] != true {
		t.Errorf("the second run did not say that it completed the first: %v", again)
	}
	if sides := m.writable(ctx); len(sides) != 1 || sides[0] != "target" {
		t.Fatalf("writable after the second run: %v", sides)
	}
	m.same()
	w.Switch(m.target.ConnStringAs("app", "", m.db))
	if err := w.Await(ctx, 10); err != nil {
		t.Fatal(err)
	}
	w.Stop()
	if problems := w.Check(ctx, pgtest.Connect(t, m.targetURI())); len(problems) > 0 {
		t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
	}
	m.run(0, "finish", "--yes", "--unfence")
	if slots := pgtest.QueryValue[int](t, pgtest.Connect(t, m.sourceURI()), `SELECT count(*)::int FROM pg_replication_slots`); slots != 0 {
		t.Errorf("%d slots are left", slots)
	}
}
