package cli_test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
)

// restart ends a server at once, as a crash does, and starts it again.
func (b *bed) restart(side string) {
	b.t.Helper()
	b.down(side)
	b.up(side)
}

func (b *bed) down(side string) {
	b.t.Helper()
	if err := b.cluster(side).Kill(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) up(side string) {
	b.t.Helper()
	if err := b.cluster(side).Restart(b.t.Context(), nil); err != nil {
		b.t.Fatal(err)
	}
}

// ended waits for the end of a handover that was disturbed, and for what its exit
// code promises; the guardian may be what keeps the promise.
func (d *disturbed) ended(codes ...int) int {
	d.t.Helper()
	r := d.p.Wait(d.t)
	if !slices.Contains(codes, r.Code) {
		d.t.Fatalf("exit code %d, want one of %v\n%s", r.Code, codes, r)
	}
	switch r.Code {
	case 4:
		d.only(d.holder)
		d.status(d.holder, "")
	case 0, 6:
		d.only(d.taker)
		d.status(d.taker, "")
	}
	return r.Code
}

// TestFaultRestarted: a server is restarted, without warning, inside a phase.
func TestFaultRestarted(t *testing.T) {
	t.Parallel()
	phases := []string{"fence", "drain", "sequences", "way back", "pass", "open", "switch", "settle"}
	for i, pair := range [][2]int{{12, 15}, {15, 18}} {
		t.Run(fmt.Sprintf("%d and %d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			b := newBed(t, pair[0], pair[1])
			side := source // that has the baton
			if i == 1 {
				b.done(target)
				side = target
			}
			for _, victim := range []string{"holder", "taker"} {
				for _, gate := range phases {
					holder := side
					if !b.in(t, fmt.Sprintf("%s, %s in %s", commandTo(other(holder)), victim, gate), func(b *bed) {
						b.restarted(gate, holder, victim)
					}) {
						return
					}
					side = other(side)
				}
				// As many phases as there are go forth as back: once more, and each
				// phase has the other victim in the other direction too.
				b.done(other(side))
				side = other(side)
			}
			b.account(side)
		})
	}
}

func (b *bed) restarted(gate, holder, victim string) {
	d := b.begin(gate, holder)
	side := d.holder
	if victim == "taker" {
		side = d.taker
	}
	b.restart(side)
	d.release()
	// Nothing of the taker is needed to pass: it is opened when it is back.
	if passed(gate) || gate == "pass" && victim == "taker" {
		d.ended(0, 6)
		b.jumped = victim == "holder"
	} else {
		d.ended(4)
	}
	b.done(d.taker)
}

// TestFaultPassLost: the holder is lost in the very moment of the pass, so that the
// answer to its commit may not arrive. Whatever became of it, one side serves in
// the end.
func TestFaultPassLost(t *testing.T) {
	t.Parallel()
	b := newBed(t, 13, 18)
	side := source
	// From the opening of the gate to the blow: the commit comes within a millisecond.
	for n := range 8 {
		wait := time.Duration(n) * 100 * time.Microsecond
		holder := side
		if !b.in(t, fmt.Sprintf("%d: %s", n, commandTo(other(holder))), func(b *bed) {
			d := b.begin("pass", holder)
			d.release()
			<-time.After(wait) // the moment of the fault, not a wait for something
			b.restart(holder)
			code := d.ended(0, 4, 6, 7)
			b.t.Logf("exit code %d", code)
			b.jumped = code != 4
			b.done(d.taker)
		}) {
			return
		}
		side = other(side)
	}
	b.account(side)
}

// TestFaultTakerDown: the taker goes down before the pass and comes back only when
// the command has ended, or, where the process dies too, when its guardian has:
// the holder does not wait for it, and the same command ends well.
func TestFaultTakerDown(t *testing.T) {
	t.Parallel()
	b := newBed(t, 12, 17)
	side := source
	for _, round := range []struct {
		gate   string
		killed bool
	}{{"way back", false}, {"way back", false}, {"drain", true}, {"way back", true}} {
		holder := side
		if !b.in(t, fmt.Sprintf("%s, %s, killed %t", commandTo(other(holder)), round.gate, round.killed), func(b *bed) {
			d := b.begin(round.gate, holder, "--max-pause", "8s")
			if round.killed {
				d.p.Signal(b.t, syscall.SIGKILL)
			}
			b.down(d.taker)
			down := time.Now()
			b.only(holder)
			b.t.Logf("the %s serves again after %v", holder, time.Since(down).Round(100*time.Millisecond))
			d.release()
			if round.killed {
				b.noted(holder, "the guardian undid the handover")
			} else {
				d.ended(4)
			}
			b.writes(5)
			b.up(d.taker)
			b.done(d.taker)
		}) {
			return
		}
		side = other(side)
	}
	b.account(side)
}

// TestFaultGuardianToo: the process dies in the drain, and its guardian inside the
// hook that lets traffic go: the same command ends well.
func TestFaultGuardianToo(t *testing.T) {
	t.Parallel()
	b := newBed(t, 13, 15)
	side := source
	for range 2 {
		holder := side
		if !b.in(t, commandTo(other(holder)), func(b *bed) {
			abort := pgtest.NewFifo(b.t)
			d := b.begin("drain", holder, "--on-abort", abort.Command("in abort"))
			d.p.Signal(b.t, syscall.SIGKILL)
			d.p.AwaitStderr(b.t, "in abort") // the guardian's
			b.only(holder)                   // the fence is lifted first
			kill(b.t, d.guardian)
			d.release()
			b.noOperator()
			b.status(holder, "held traffic back")
			b.done(d.taker)
		}) {
			return
		}
		side = other(side)
	}
	b.account(side)
}
