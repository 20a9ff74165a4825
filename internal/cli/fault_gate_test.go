package cli_test

import (
	"context"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/pgtest"
)

// gates are the places at which a handover can be held up: inside each of the
// phases that someone waits for, in settle behind them, and in the undoing.
var gates = []string{"pause", "fence", "drain", "sequences", "way back", "pass", "open", "switch", "resume", "settle", "abort"}

// passed says whether the baton has passed at a gate.
func passed(gate string) bool {
	return slices.Contains([]string{"open", "switch", "resume", "settle"}, gate)
}

// disturbed is a handover that is held up at a gate.
type disturbed struct {
	*bed
	gate          string
	holder, taker string
	p             *pgtest.Process
	guardian      int
	open          []func()
}

// has is the side that has the baton while the handover is at its gate.
func (d *disturbed) has() string {
	if passed(d.gate) {
		return d.taker
	}
	return d.holder
}

// release opens the gate.
func (d *disturbed) release() {
	for _, open := range d.open {
		open()
	}
	d.open = nil
}

// hold makes a session on a side hold something until the gate opens.
func (d *disturbed) hold(connString string, sql ...string) *pgtest.Held {
	d.t.Helper()
	h := pgtest.Hold(d.t, connString, sql...)
	d.open = append(d.open, h.Release)
	return h
}

const ours = `application_name = 'pgbaton'`

// begin begins a handover and returns when it is inside the phase that the gate is
// in. The locks are taken while the command that holds traffic back waits: later
// than all that is looked at beforehand.
func (b *bed) begin(gate, holder string, args ...string) *disturbed {
	t := b.t
	t.Helper()
	d := &disturbed{bed: b, gate: gate, holder: holder, taker: other(holder)}
	pause, later := pgtest.NewFifo(t), pgtest.NewFifo(t)
	command := []string{commandTo(d.taker), "--yes", "--json"}
	switch gate {
	case "abort":
		command = append(command, "--on-pause", "exit 1", "--on-abort", later.Command("in abort"))
	case "switch", "resume":
		command = append(command, "--on-pause", pause.Command("paused"), "--on-"+gate, later.Command("in "+gate))
	default:
		command = append(command, "--on-pause", pause.Command("paused"))
	}
	if !slices.Contains(args, "--max-pause") {
		args = append(args, "--max-pause", "30s") // a busy machine is not the fault meant here
	}
	d.p = pgtest.Spawn(t, b.options(append(command, args...)...))
	if gate == "abort" {
		d.p.AwaitStderr(t, "in abort")
		d.open = append(d.open, func() { later.Open(t, 2) }) // the guardian runs it again
	} else {
		d.p.AwaitStderr(t, "paused")
	}
	d.p.AwaitStdout(t, `"guardian_started"`)
	d.guardian = guardianOf(t, d.p.Stdout())
	t.Cleanup(func() {
		if t.Failed() { // it may try for ever
			_ = syscall.Kill(d.guardian, syscall.SIGKILL)
		}
	})
	marker := map[string]string{source: "pgbaton.marker_forward_1", target: "pgbaton.marker_reverse_1"}[holder]
	drain := []string{`LOCK TABLE ` + marker + ` IN EXCLUSIVE MODE`}
	switch gate {
	case "pause":
		d.open = append(d.open, func() { pause.Open(t, 1) })
	case "fence":
		d.startingSession()
		pause.Open(t, 1)
		pgtest.AwaitWaiting(t, b.admin(holder), ours)
	case "drain":
		d.hold(b.super(d.taker), drain...)
		pause.Open(t, 1)
		d.inDrain()
	case "sequences":
		// It may have been set beforehand: it has moved on since.
		pgtest.Exec(t, b.app(holder), `SELECT nextval('app.writer_slot_id_seq')`)
		d.hold(b.super(d.taker), `ALTER SEQUENCE app.writer_slot_id_seq CACHE 1`)
		pause.Open(t, 1)
		pgtest.AwaitWaiting(t, b.admin(d.taker), ours)
	case "way back": // creating a slot waits for who has written, in any database
		d.hold(b.cluster(d.taker).ConnString("neighbour"), `SELECT txid_current()`)
		pause.Open(t, 1)
		pgtest.AwaitWaiting(t, b.admin(d.taker), ours)
	case "pass":
		// The fence ends whoever was there before it: come after it, while the drain waits.
		h := pgtest.Hold(t, b.super(d.taker), drain...)
		pause.Open(t, 1)
		d.inDrain()
		d.hold(b.super(holder), `SELECT FROM pgbaton.migration FOR UPDATE`)
		h.Release()
		pgtest.AwaitWaiting(t, b.admin(holder), ours)
	case "open":
		// A lock on the row would make this a transaction that has written, and hold up the way back.
		d.hold(b.super(d.taker), `LOCK TABLE pgbaton.migration IN EXCLUSIVE MODE`)
		pause.Open(t, 1)
		d.p.AwaitStdout(t, `"phase":"pass"`)
		pgtest.AwaitWaiting(t, b.admin(d.taker), ours)
	case "switch", "resume":
		pause.Open(t, 1)
		d.p.AwaitStderr(t, "in "+gate)
		d.open = append(d.open, func() { later.Open(t, 2) })
	case "settle":
		d.hold(b.super(d.taker), `SELECT n FROM app.total`)
		pause.Open(t, 1)
		d.p.AwaitStdout(t, `"phase":"resume"`)
		pgtest.AwaitWaiting(t, b.admin(d.taker), ours)
	}
	return d
}

// inDrain waits until the taker cannot apply the drain's marker.
func (d *disturbed) inDrain() {
	d.t.Helper()
	d.p.AwaitStdout(d.t, `"phase":"fence"`)
	pgtest.AwaitWaiting(d.t, d.admin(d.taker), `backend_type LIKE 'logical replication%worker'`)
}

// startingSession begins a session that takes its time to start up, which the
// fence's barrier waits for. No view of sessions shows it: its lock does.
func (d *disturbed) startingSession() {
	t := d.t
	t.Helper()
	config, err := pgx.ParseConfig(d.app(d.holder))
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["options"] = "-c post_auth_delay=25"
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if conn, err := pgx.ConnectConfig(t.Context(), config); err == nil {
			conn.Close(context.WithoutCancel(t.Context()))
		}
	}()
	t.Cleanup(func() { <-ended })
	// Others start up for a moment only: it is the one that stays.
	const starting = `SELECT l.pid FROM pg_locks l WHERE l.classid = 'pg_database'::regclass AND l.granted AND l.mode = 'RowExclusiveLock'
		AND l.objid = (SELECT oid FROM pg_database WHERE datname = $1)`
	conn := pgtest.Connect(t, d.admin(d.holder))
	seen := map[int32]int{}
	var pid int32
	pgtest.Until(t, 20*time.Second, "the session that starts up", func() bool {
		for _, p := range pgtest.QueryValue[[]int32](t, conn, `SELECT array(`+starting+`)`, d.db) {
			if seen[p]++; seen[p] > 20 {
				pid = p
			}
		}
		return pid != 0
	})
	d.open = append(d.open, func() { _ = syscall.Kill(int(pid), syscall.SIGTERM) })
	t.Cleanup(func() { _ = syscall.Kill(int(pid), syscall.SIGTERM) })
}
