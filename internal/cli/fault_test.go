package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// The fault matrix: a handover is brought to an exact place, something is broken
// there, and whatever comes of it, never do both sides accept writes, no
// acknowledged write is lost or doubled, status tells the truth, and the same
// command, run again, ends well.

// bed is a migration on which one handover after the other is disturbed, forth
// and back, while writers write.
type bed struct {
	*move
	w *pgtest.Writers
	// The sequences of the side without the baton are ahead: after a crash a server
	// goes on behind the values that it had logged in advance.
	jumped bool
	// What the other side's server reaches a side through, where a test breaks it.
	between      map[string]*pgtest.Proxy
	stopSampling func()
}

const (
	source = "source"
	target = "target"
)

func other(side string) string {
	if side == source {
		return target
	}
	return source
}

// commandTo is the command that hands over to a side.
func commandTo(side string) string {
	if side == source {
		return "rollback"
	}
	return "switchover"
}

// A worker that has ended starts again at once, as on 16 and newer: on older
// servers each round would take five seconds more.
var faultSettings = map[string]string{"wal_retrieve_retry_interval": "100ms"}

func newBed(t *testing.T, from, to int) *bed {
	t.Helper()
	return newBedWith(t, from, to, func(*bed) {})
}

// newBedWith lets a test prepare the servers and the options before the start.
func newBedWith(t *testing.T, from, to int, prepare func(*bed)) *bed {
	t.Helper()
	b := &bed{move: &move{t: t, source: pgtest.Start(t, from, faultSettings), target: pgtest.Start(t, to, faultSettings), db: "app"}}
	b.loadApp()
	// Without a unique index it is refreshed under a lock that a reader holds up.
	pgtest.Exec(t, b.app(source), `CREATE MATERIALIZED VIEW app.total AS SELECT count(*) AS n FROM app.filler`)
	for _, side := range []string{source, target} {
		pgtest.Exec(t, b.admin(side), `CREATE DATABASE neighbour`)
	}
	prepare(b)
	b.w = pgtest.StartWriters(t.Context(), t, b.app(source), 2, pgtest.WritersOptions{Rate: 20})
	if r := b.result(0, "start"); r["phase"] != "streaming" {
		t.Fatalf("start: %v", r)
	}
	b.stopSampling = b.sample()
	return b
}

func (b *bed) cluster(side string) *cluster.Cluster {
	if side == source {
		return b.source
	}
	return b.target
}

// The three ways into a side: as the application, as superuser, and as superuser
// beside the database, where no fence and no barrier is in the way.
func (b *bed) app(side string) string   { return b.cluster(side).ConnStringAs("app", "", b.db) }
func (b *bed) super(side string) string { return b.cluster(side).ConnString(b.db) }
func (b *bed) admin(side string) string { return b.cluster(side).ConnString("postgres") }

// accepts says whether the application can write to a side right now.
func (b *bed) accepts(ctx context.Context, side string) bool {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, b.app(side))
	if err != nil {
		return false
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, `CREATE TEMPORARY TABLE could_write ()`)
	return err == nil
}

// sample looks, as long as the test runs, whether both sides accept writes. A
// side that did before and did after the other one, while no handover could have
// gone forth and back between, did all the time. It returns a function that ends
// it.
func (b *bed) sample() (stop func()) {
	t := b.t // of the whole test
	ctx, cancel := context.WithCancel(t.Context())
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(40 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			began := time.Now()
			if b.accepts(ctx, source) && b.accepts(ctx, target) && b.accepts(ctx, source) {
				t.Errorf("both sides accepted writes between %s and %s", began.Format("15:04:05.000"), time.Now().Format("15:04:05.000"))
				return
			}
		}
	})
	stop = func() {
		cancel()
		looking.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// only waits until the application can write to this side, and to it alone; to
// none when it is empty.
func (b *bed) only(side string) {
	b.t.Helper()
	var want, have []string
	if side != "" {
		want = []string{side}
	}
	pgtest.Until(b.t, 20*time.Second, fmt.Sprintf("writable: only %q", side), func() bool {
		have = b.writable(b.t.Context())
		return slices.Equal(have, want)
	})
}

// holds brings the baton to a side, undisturbed.
func (b *bed) holds(side string) {
	b.t.Helper()
	if s := b.result(0, "status"); s["baton"] != side {
		b.done(side)
	}
}

// done runs a handover to its end and lets the writers go on there; before they
// do, both sides are compared, the next value of each sequence included.
func (b *bed) done(to string) map[string]any {
	b.t.Helper()
	r := b.result(0, commandTo(to), "--yes")
	b.arrived(to, r)
	return r
}

func (b *bed) arrived(to string, r map[string]any) {
	b.t.Helper()
	if r["baton"] != to {
		b.t.Fatalf("after the %s: %v", commandTo(to), r)
	}
	b.only(to)
	if b.jumped {
		b.sameRows()
	} else {
		b.same()
	}
	// The stream to the other side is all that is left: no slot keeps WAL for nobody.
	for side, want := range map[string]int{to: 1, other(to): 0} {
		conn := pgtest.Connect(b.t, b.admin(side))
		if n := pgtest.QueryValue[int](b.t, conn, `SELECT count(*)::int FROM pg_replication_slots`); n != want {
			b.t.Errorf("%d slots on the %s, want %d", n, side, want)
		}
		conn.Close(b.t.Context())
	}
	b.w.Switch(b.app(to))
	b.writes(5)
}

// sameRows compares every row of both databases.
func (b *bed) sameRows() {
	b.t.Helper()
	diff, err := pgtest.Compare(b.t.Context(), b.sourceURI(), b.targetURI(), pgtest.CompareOptions{NoSequences: true})
	if err != nil {
		b.t.Fatal(err)
	}
	if len(diff) > 0 {
		b.t.Fatalf("the databases differ:\n%s", strings.Join(diff, "\n"))
	}
}

// writes waits until the writers are served.
func (b *bed) writes(n int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	if err := b.w.Await(ctx, n); err != nil {
		b.t.Fatal(err)
	}
}

// account ends the writers and accounts for every write on the side that has the
// baton.
func (b *bed) account(side string) {
	b.t.Helper()
	b.w.Stop()
	if problems := b.w.Check(b.t.Context(), pgtest.Connect(b.t, b.super(side))); len(problems) > 0 {
		b.t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
	}
}

// status reads the status and requires the side that has the baton, and a text in
// the findings; "" for none at all.
func (b *bed) status(baton, finding string) map[string]any {
	b.t.Helper()
	s := b.result(0, "status")
	findings, err := json.Marshal(s["findings"])
	if err != nil {
		b.t.Fatal(err)
	}
	if s["baton"] != baton || !strings.Contains(string(findings), finding) {
		b.t.Fatalf("status: baton %v, findings %s; want baton %s and %q", s["baton"], findings, baton, finding)
	}
	return s
}

func fenced(status map[string]any, side string) bool {
	return status[side].(map[string]any)["fenced"] == true
}

// noOperator waits until the sessions of a command that was killed are gone: a
// server notices when it answers.
func (b *bed) noOperator() {
	b.t.Helper()
	for _, side := range []string{source, target} {
		b.noOperatorOn(side)
	}
}

func (b *bed) noOperatorOn(side string) {
	b.t.Helper()
	pgtest.UntilTrue(b.t, b.admin(side), 20*time.Second, "the operator's lock of the "+side+" to be free",
		`SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = $1))`, b.db)
}

// noted waits for the note that a guardian leaves on the side that has the baton.
func (b *bed) noted(side, text string) {
	b.t.Helper()
	pgtest.UntilTrue(b.t, b.super(side), 20*time.Second, "the guardian's note: "+text,
		`SELECT EXISTS (SELECT FROM pgbaton.journal WHERE kind = 'handover' AND key = 'guardian' AND value ->> 'text' LIKE '%' || $1 || '%')`, text)
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("kill %d: %v", pid, err)
	}
}

// in runs a part of the test with the bed; whether what follows can go on.
func (b *bed) in(t *testing.T, name string, do func(*bed)) bool {
	return t.Run(name, func(t *testing.T) {
		m := *b.move
		m.t = t
		do(&bed{move: &m, w: b.w, between: b.between})
	})
}
