package cli_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"pgbaton/internal/pgtest"
)

// TestFaultHolderDown: the holder goes down in the drain and stays down until the
// command has given up. The guardian goes on trying, and brings it to a good end
// when the server is back; without a guardian the same command does.
func TestFaultHolderDown(t *testing.T) {
	t.Parallel()
	var waiting []*disturbed // side by side: it takes its time to give up
	for _, side := range []string{target, source} {
		b := newBed(t, 13, 18)
		b.holds(side)
		d := b.begin("drain", side, "--max-pause", "5s")
		if side == source {
			kill(t, d.guardian)
		}
		b.down(side)
		waiting = append(waiting, d)
	}
	for _, d := range waiting {
		r := d.p.Wait(t)
		if r.Code != 1 { // it may not say 4: the holder does not serve
			t.Fatalf("%s", r)
		}
		d.release()
		d.only("")
		d.status(d.holder, "one side could not be asked")
		d.up(d.holder)
		if d.holder == target {
			d.noted(d.holder, "the guardian undid the handover")
			d.only(d.holder)
			if remedy := remedyOf(t, d.status(d.holder, "")["findings"], "the guardian undid"); remedy != "the next handover removes this note" {
				t.Error(remedy)
			}
		} else {
			d.only("")
			d.status(d.holder, "is fenced: a handover died before the pass")
		}
		d.done(d.taker)
		if s := d.status(d.taker, ""); strings.Contains(texts(s["findings"]), "the guardian undid") {
			t.Errorf("after the next handover: %v", s["findings"])
		}
		d.done(d.holder)
		d.account(d.holder)
	}
}

// byForce runs a handover to a side with --holder-lost, and types a name.
func (b *bed) byForce(to, typed string) pgtest.Result {
	b.t.Helper()
	o := b.options(commandTo(to), "--holder-lost", "--json")
	o.Stdin = typed + "\n"
	return pgtest.Run(b.t, o)
}

// TestFaultHolderLost: the holder is lost for good, and the other side is opened
// without it; then it comes back all the same.
func TestFaultHolderLost(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{source, target} {
		t.Run(lost, func(t *testing.T) {
			t.Parallel()
			b := newBedWith(t, 12, 15, func(b *bed) {
				// More values given out than there are rows, so that only the rows can be meant.
				pgtest.Exec(t, b.app(source), `CREATE TABLE app.numbered (id serial PRIMARY KEY, back int NOT NULL DEFAULT 0)`,
					`INSERT INTO app.numbered (back) SELECT 0 FROM generate_series(1, 50)`)
			})
			if lost == target {
				b.done(target)
			}
			b.holderLost(lost)
		})
	}
}

func (b *bed) holderLost(lost string) {
	t, left := b.t, other(lost)
	refused := func(why, typed string) {
		t.Helper()
		r := b.byForce(left, typed)
		if r.Code != 3 || !strings.Contains(r.Stdout, why) {
			t.Fatalf("want a refusal that says %q: %s", why, r)
		}
		if b.accepts(t.Context(), left) {
			t.Fatalf("the %s was opened", left)
		}
	}
	refused("it is not lost", b.db)

	// It dies in the drain, with whoever was handing over.
	d := b.begin("drain", lost)
	kill(t, d.guardian)
	d.p.Signal(t, syscall.SIGKILL)
	b.w.Stop()
	b.down(lost)
	d.release()
	b.noOperatorOn(left)
	refused("was to be typed", "")
	refused("was to be typed", "yes")
	b.only("")

	r := b.byForce(left, b.db)
	if r.Code != 0 {
		t.Errorf("%s", r)
	}
	b.only(left)
	b.status(left, "")
	conn := pgtest.Connect(t, b.app(left))
	for _, sequence := range []string{"numbered", "writer_slot"} {
		if !pgtest.QueryValue[bool](t, conn, fmt.Sprintf(`SELECT nextval('app.%[1]s_id_seq') > (SELECT max(id) FROM app.%[1]s)`, sequence)) {
			t.Errorf("the sequence of %s is not beyond its rows", sequence)
		}
	}
	mustExec(t, conn, `INSERT INTO app.numbered DEFAULT VALUES`)
	b.account(left) // all that was acknowledged came before the drain's marker, and was applied

	// It comes back: until the first command has seen it, nothing can keep it out.
	b.stopSampling()
	b.up(lost)
	const closed, apart = "came back although the %s was given the baton by force: it is fenced now", "point no application at it; look there for what is missing, then pgbaton finish"
	if r := b.run(0, "status"); !strings.Contains(r.Stderr, fmt.Sprintf(closed, left)) || !strings.Contains(r.Stderr, apart) {
		t.Errorf("%s", r)
	}
	s := b.status(left, "came back after the "+left+" had been given the baton by force")
	if !fenced(s, lost) || fenced(s, left) {
		t.Errorf("fenced: %v", s)
	}
	b.only(left)
	r = pgtest.Run(t, b.options(commandTo(lost), "--yes", "--json"))
	if r.Code != 3 {
		t.Errorf("a handover to the side that came back: %s", r)
	}
	b.only(left)
	// Whatever had reached the side that is left before is there, once.
	b.run(0, "finish", "--yes")
	b.only(left)
	for _, side := range []string{source, target} {
		conn := pgtest.Connect(t, b.super(side))
		if n := pgtest.QueryValue[int](t, conn, `SELECT count(*)::int FROM pg_replication_slots`); n != 0 {
			t.Errorf("%d slots are left on the %s", n, side)
		}
		if pgtest.QueryValue[bool](t, conn, `SELECT to_regnamespace('pgbaton') IS NOT NULL`) {
			t.Errorf("schema pgbaton is left on the %s", side)
		}
	}
}
