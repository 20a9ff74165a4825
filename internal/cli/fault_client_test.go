package cli_test

import (
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// TestFaultClients: what clients may do to a handover, and a second operator.
func TestFaultClients(t *testing.T) {
	t.Parallel()
	b := newBed(t, 15, 18)
	for _, side := range []string{source, target} {
		holder := side
		ok := b.in(t, commandTo(other(holder))+", open transaction", func(b *bed) { b.openTransaction(holder) }) &&
			b.in(t, commandTo(other(holder))+", two operators", func(b *bed) {
				b.holds(holder)
				b.twoOperators(holder)
			})
		if !ok {
			return
		}
	}
	// The leak is kept for last: a row that no writer knows of is on one side then.
	for _, holder := range []string{source, target} {
		if !b.in(t, commandTo(other(holder))+", leak", func(b *bed) {
			b.holds(holder)
			b.leak(holder)
		}) {
			return
		}
	}
	b.account(source)
}

// openTransaction: a client holds a transaction open through the pause. It is
// ended, what it had not committed is nowhere, and the handover succeeds.
func (b *bed) openTransaction(holder string) {
	t := b.t
	client := pgtest.Connect(t, b.app(holder))
	mustExec(t, client, `BEGIN`)
	mustExec(t, client, `INSERT INTO app.filler VALUES (1000001, 'never committed')`)
	mustExec(t, client, `SELECT nextval('app.writer_slot_id_seq')`)
	d := b.begin("pause", holder)
	mustExec(t, client, `INSERT INTO app.filler VALUES (1000002, 'never committed')`)
	d.release()
	if r := d.p.Wait(t); r.Code != 0 {
		t.Fatalf("%s", r)
	}
	if _, err := client.Exec(t.Context(), `COMMIT`); err == nil {
		t.Error("the transaction that was open at the fence was committed")
	}
	b.arrived(d.taker, map[string]any{"baton": d.taker})
	for _, side := range []string{source, target} {
		conn := pgtest.Connect(t, b.super(side))
		if n := pgtest.QueryValue[int](t, conn, `SELECT count(*)::int FROM app.filler WHERE i > 1000000`); n != 0 {
			t.Errorf("%d rows of the open transaction are on the %s", n, side)
		}
	}
	b.done(holder)
}

// twoOperators: while a handover is at work every other command that would change
// something is refused, and changes nothing.
func (b *bed) twoOperators(holder string) {
	for _, gate := range []string{"drain", "settle"} {
		b.holds(holder)
		d := b.begin(gate, holder)
		before := b.records()
		var others []*pgtest.Process // side by side: each waits some seconds for the lock
		for _, command := range [][]string{{"switchover", "--yes"}, {"rollback", "--yes"}, {"finish", "--yes"}, {"reset", "--yes"}, {"resume"}} {
			others = append(others, pgtest.Spawn(b.t, b.options(command...)))
		}
		for _, p := range others {
			if r := p.Wait(b.t); r.Code != 3 || !strings.Contains(r.Stderr, "another pgbaton is at work") {
				b.t.Errorf("%s", r)
			}
		}
		if s := b.status(d.has(), ""); s["working"] != true {
			b.t.Errorf("status does not say that a command is at work: %v", s)
		}
		if after := b.records(); after != before {
			b.t.Errorf("the records were\n%s and are\n%s", before, after)
		}
		d.release()
		if r := d.p.Wait(b.t); r.Code != 0 {
			b.t.Fatalf("%s", r)
		}
		b.arrived(d.taker, map[string]any{"baton": d.taker})
	}
}

// records are both sides' records and fences.
func (b *bed) records() (s string) {
	b.t.Helper()
	for _, side := range []string{source, target} {
		conn := pgtest.Connect(b.t, b.super(side))
		s += side + pgtest.QueryValue[string](b.t, conn, `SELECT m::text || (SELECT datacl::text FROM pg_database WHERE datname = current_database())
			|| (SELECT string_agg(kind || key, ' ' ORDER BY kind, key) FROM pgbaton.journal) FROM pgbaton.migration m`) + "\n"
		conn.Close(b.t.Context())
	}
	return s
}

// leak: a superuser's session that overrides the read-only default writes after
// the fence: the handover is given up, and the row is on the holder, as it must be
// by then, and on its way to the taker.
func (b *bed) leak(holder string) {
	t := b.t
	d := b.begin("drain", holder)
	stranger := pgtest.Hold(t, b.super(holder), `INSERT INTO public.probe DEFAULT VALUES`, `COMMIT`)
	stranger.Release()
	d.release()
	r := d.p.Wait(t)
	if r.Code != 4 || !strings.Contains(r.Stdout, "after the fence") || !strings.Contains(r.Stdout, "public") {
		t.Fatalf("the leak was not noticed: %s", r)
	}
	b.only(holder)
	b.done(d.taker) // compares the row too
}
