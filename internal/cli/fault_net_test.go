package cli_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
)

// TestFaultNetwork: the network between the servers fails in the drain, without
// either noticing, or by breaking their connections. The handover gives up within
// its budget, the holder serves, and when the network is back the stream flows on.
func TestFaultNetwork(t *testing.T) {
	t.Parallel()
	b := newBedWith(t, 13, 17, func(b *bed) {
		b.between = map[string]*pgtest.Proxy{source: pgtest.NewProxy(t, b.sourceURI()), target: pgtest.NewProxy(t, b.targetURI())}
		b.env = []string{"PGBATON_SOURCE=" + b.sourceURI(), "PGBATON_TARGET=" + b.targetURI(),
			"PGBATON_SOURCE_FROM_TARGET=" + b.between[source].Through(t, b.sourceURI()), "PGBATON_TARGET_FROM_SOURCE=" + b.between[target].Through(t, b.targetURI())}
	})
	side := source
	for _, half := range []bool{true, false} {
		for range 2 {
			holder := side
			if !b.in(t, fmt.Sprintf("%s, half open %t", commandTo(other(holder)), half), func(b *bed) {
				p := b.between[holder]
				d := b.begin("pause", holder, "--max-pause", "3s")
				if half {
					p.Stall()
				} else {
					p.Cut()
				}
				d.release()
				r := d.p.Wait(b.t)
				if r.Code != 4 || !strings.Contains(r.Stdout, "phase drain") || !strings.Contains(r.Stdout, "--max-pause 3s") {
					b.t.Fatalf("%s", r)
				}
				b.only(holder)
				b.writes(5)
				s := b.status(holder, "")
				if s["lag_seconds_at_least"] != true {
					b.t.Errorf("status does not say that nothing arrives: %v", s)
				}
				p.Mend()
				b.done(d.taker)
			}) {
				return
			}
			side = other(side)
		}
	}
	b.account(side)
}

// passing is a rule that breaks the connection at the commit of the pass, once.
func passing(v pgtest.Verdict) (rule func([]byte) pgtest.Verdict, met *atomic.Bool) {
	met = new(atomic.Bool)
	return func(seen []byte) pgtest.Verdict {
		if pgtest.LastQuery(seen, "commit") && bytes.Contains(seen, []byte("handed_over = true, took = false")) &&
			met.CompareAndSwap(false, true) {
			return v
		}
		return pgtest.Forward
	}, met
}

// TestFaultPassAnswer: the connection breaks in the commit of the pass: once the
// commit has not reached the holder, once its answer does not come back. The
// process finds out which; and where it dies in this moment, its guardian does.
func TestFaultPassAnswer(t *testing.T) {
	t.Parallel()
	b := newBed(t, 12, 15)
	proxies := map[string]*pgtest.Proxy{source: pgtest.NewProxy(t, b.sourceURI()), target: pgtest.NewProxy(t, b.targetURI())}
	b.env = []string{"PGBATON_SOURCE=" + proxies[source].Through(t, b.sourceURI()), "PGBATON_TARGET=" + proxies[target].Through(t, b.targetURI()),
		"PGBATON_SOURCE_FROM_TARGET=" + b.sourceURI(), "PGBATON_TARGET_FROM_SOURCE=" + b.targetURI()}
	side := source
	for _, verdict := range []pgtest.Verdict{pgtest.DropIt, pgtest.DropAnswer} {
		for range 2 {
			holder := side
			name := map[pgtest.Verdict]string{pgtest.DropIt: "not sent", pgtest.DropAnswer: "not answered"}[verdict]
			if !b.in(t, commandTo(other(holder))+", "+name, func(b *bed) {
				rule, met := passing(verdict)
				d := b.begin("pass", holder)
				proxies[holder].Rule(rule)
				d.release()
				want := map[pgtest.Verdict]int{pgtest.DropIt: 4, pgtest.DropAnswer: 0}[verdict]
				d.ended(want)
				if !met.Load() {
					b.t.Fatal("the commit of the pass was not seen")
				}
				b.done(d.taker)
			}) {
				return
			}
			side = other(side)
		}
	}
	b.account(side)
}

// inCommit brings a handover into the commit of its pass and holds it there: it is
// durable, and is not acknowledged as long as a standby is missing.
func (b *bed) inCommit(holder string) *disturbed {
	b.t.Helper()
	d := b.begin("pass", holder)
	if err := b.cluster(holder).Reload(b.t.Context(), map[string]string{"synchronous_standby_names": "nobody"}); err != nil {
		b.t.Fatal(err)
	}
	// It is the checkpointer's word that counts, which it gives some time after.
	pgtest.UntilTrue(b.t, b.admin(holder), 20*time.Second, "commits that wait for a standby",
		`SELECT current_setting('synchronous_standby_names') = 'nobody'`)
	d.release()
	pgtest.UntilTrue(b.t, b.admin(holder), 20*time.Second, "the commit of the pass",
		`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND `+ours+`)`)
	return d
}

func (b *bed) noStandby(holder string) {
	b.t.Helper()
	if err := b.cluster(holder).Reload(b.t.Context(), map[string]string{"synchronous_standby_names": ""}); err != nil {
		b.t.Fatal(err)
	}
}

// TestFaultInCommit: inside the commit of the pass the process is killed, or is
// stopped, or the holder is restarted: the baton has passed.
func TestFaultInCommit(t *testing.T) {
	t.Parallel()
	b := newBed(t, 15, 18)
	side := source
	for _, fault := range []string{"killed", "host lost", "stopped", "holder restarted"} {
		for range 2 {
			holder := side
			if !b.in(t, commandTo(other(holder))+", "+fault, func(b *bed) {
				d := b.inCommit(holder)
				switch fault {
				case "killed":
					d.p.Signal(b.t, syscall.SIGKILL)
				case "host lost":
					kill(b.t, d.guardian)
					d.p.Signal(b.t, syscall.SIGKILL)
				case "stopped":
					d.p.Signal(b.t, syscall.SIGSTOP)
					d.p.AwaitStderr(b.t, "the guardian takes over")
				case "holder restarted":
					b.down(holder)
				}
				if fault == "holder restarted" {
					if err := b.cluster(holder).Restart(b.t.Context(), map[string]string{"synchronous_standby_names": ""}); err != nil {
						b.t.Fatal(err)
					}
					d.ended(0, 6)
					b.jumped = true
				} else {
					b.noStandby(holder)
				}
				if fault == "host lost" {
					b.noOperator()
					b.only("")
					b.status(d.taker, "has not taken it yet")
				} else {
					b.only(d.taker)
				}
				b.done(d.taker)
			}) {
				return
			}
			side = other(side)
		}
	}
	b.account(side)
}

// TestFaultUnknown: the holder is lost inside the commit of the pass and does not
// come back while the command waits: nobody can know, and nobody is let in. When it
// is back the guardian, or without it the same command, goes on.
func TestFaultUnknown(t *testing.T) {
	t.Parallel()
	var waiting []*disturbed // side by side: it takes half a minute to give up
	for _, guarded := range []bool{true, false} {
		d := newBed(t, 12, 17).inCommit(source)
		if !guarded {
			kill(t, d.guardian)
		}
		d.down(source)
		waiting = append(waiting, d)
	}
	for i, d := range waiting {
		r := d.p.Wait(t)
		if r.Code != 7 {
			t.Fatalf("%s", r)
		}
		d.only("")
		d.status(source, "one side could not be asked")
		if err := d.source.Restart(t.Context(), map[string]string{"synchronous_standby_names": ""}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			d.noted(target, "the guardian completed the handover")
		}
		d.jumped = true
		d.done(target)
		d.jumped = false
		d.done(source)
		d.account(source)
	}
}
