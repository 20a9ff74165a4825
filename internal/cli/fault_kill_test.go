package cli_test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
)

// onBeds disturbs a handover at each gate in both directions: what goes from
// source to target on the one pair of servers goes back on the other.
func onBeds(t *testing.T, pairs [2][2]int, disturb func(b *bed, gate, holder string)) {
	t.Parallel()
	for i, pair := range pairs {
		t.Run(fmt.Sprintf("%d and %d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			b := newBed(t, pair[0], pair[1])
			for n, gate := range gates {
				holder := []string{source, target}[(n+i)%2]
				if !b.in(t, commandTo(other(holder))+" in "+gate, func(b *bed) {
					b.holds(holder)
					disturb(b, gate, holder)
				}) {
					return // what comes after it would only fail too
				}
			}
			last := source
			if b.result(0, "status")["baton"] == source {
				last = target
			}
			b.w.Stop()
			if r := b.result(0, commandTo(last), "--yes"); r["baton"] != last {
				t.Fatalf("%v", r)
			}
			b.same()
			b.account(last)
		})
	}
}

// blocksAll are the gates at which whoever takes over must wait too: for the lock,
// or in the same command.
var blocksAll = []string{"fence", "pass", "open", "switch", "resume", "settle", "abort"}

// TestFaultKilled: the process dies inside a phase, and its guardian undoes or
// completes the handover without anybody's doing.
func TestFaultKilled(t *testing.T) {
	onBeds(t, [2][2]int{{12, 15}, {13, 17}}, func(b *bed, gate, holder string) {
		d := b.begin(gate, holder)
		d.p.Signal(b.t, syscall.SIGKILL)
		d.takenOver()
	})
}

// takenOver requires that the guardian makes an end, then hands over for good.
func (d *disturbed) takenOver() {
	d.t.Helper()
	if slices.Contains(blocksAll, d.gate) {
		d.release()
	}
	did := "the guardian undid the handover"
	if passed(d.gate) {
		did = "the guardian completed the handover"
	}
	d.only(d.has())
	d.noted(d.has(), did)
	d.release()
	s := d.status(d.has(), did)
	if fenced(s, d.has()) || !fenced(s, other(d.has())) {
		d.t.Errorf("fenced: %v", s)
	}
	d.done(d.taker)
	d.status(d.taker, "")
}

// TestFaultHostLost: the process dies inside a phase and its guardian with it, as
// when the operator's host is lost.
func TestFaultHostLost(t *testing.T) {
	onBeds(t, [2][2]int{{15, 18}, {12, 15}}, func(b *bed, gate, holder string) {
		d := b.begin(gate, holder)
		kill(b.t, d.guardian)
		d.p.Signal(b.t, syscall.SIGKILL)
		if gate != "switch" && gate != "resume" && gate != "abort" && gate != "pause" { // the command hangs on: nobody ends it
			d.release()
		}
		b.noOperator()
		says := map[string]string{"pause": "held traffic back", "abort": "held traffic back", "open": "has not taken it yet",
			"switch": "traffic has not been moved", "resume": "traffic has not been moved", "settle": ""}
		want, ok := says[gate]
		if !ok {
			want = "is fenced: a handover died before the pass"
		}
		s := b.status(d.has(), want)
		switch gate {
		case "fence", "drain", "sequences", "way back", "pass", "open":
			b.only("")
			if !fenced(s, source) || !fenced(s, target) {
				b.t.Errorf("fenced: %v", s)
			}
		default:
			b.only(d.has())
		}
		r := b.done(d.taker)
		if resumed := r["resumed"] == true; resumed != passed(gate) {
			b.t.Errorf("resumed: %v", r)
		}
		d.release()
	})
}

// TestFaultGuardianKilled: without its guardian a handover goes on.
func TestFaultGuardianKilled(t *testing.T) {
	onBeds(t, [2][2]int{{13, 17}, {15, 18}}, func(b *bed, gate, holder string) {
		d := b.begin(gate, holder)
		kill(b.t, d.guardian)
		d.release()
		want := 0
		if gate == "abort" {
			want = 4
		}
		if r := d.p.Wait(b.t); r.Code != want {
			b.t.Fatalf("%s", r)
		}
		b.status(map[int]string{0: d.taker, 4: d.holder}[want], "")
		b.done(d.taker)
	})
}

// TestFaultStopped: the process is stopped inside a phase. Its guardian takes
// over, and ends it: woken later, it could not change anything any more.
func TestFaultStopped(t *testing.T) {
	onBeds(t, [2][2]int{{12, 15}, {15, 18}}, func(b *bed, gate, holder string) {
		d := b.begin(gate, holder)
		d.p.Signal(b.t, syscall.SIGSTOP)
		d.p.AwaitStderr(b.t, "the guardian takes over")
		d.takenOver()
		if r := d.p.Wait(b.t); r.Code != -1 {
			b.t.Errorf("the stopped process was not ended: %s", r)
		}
	})
}
