package handover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/phrase"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
)

// LastWord is the last that a taker has applied of a holder that is lost.
type LastWord struct {
	Marker    time.Time `json:"marker"`      // when the last marker that arrived was written; zero: none did
	AgeAtMost float64   `json:"age_seconds"` // since then, by the taker's clock
}

// ReadLastWord reads it.
func ReadLastWord(ctx context.Context, c Config, taker *postgres.Session) (LastWord, error) {
	var w LastWord
	for _, g := range c.Groups {
		var at time.Time
		var age float64
		err := taker.QueryRow(ctx, fmt.Sprintf(`
			SELECT coalesce(max(written_at), 'epoch'), coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - max(written_at)), 0)::float8
			FROM %s`, g.MarkerTable())).Scan(&at, &age)
		if err != nil {
			return w, c.Taker.Wrap("reading the last marker", err)
		}
		if at.Unix() > 0 && (w.Marker.IsZero() || at.Before(w.Marker)) {
			w.Marker, w.AgeAtMost = at.UTC(), age
		}
	}
	return w, nil
}

// TakeByForce opens a taker whose holder is lost and never comes back. What the
// holder committed and had not sent is lost. Should the holder come back all the
// same, FenceStale keeps it out.
func TakeByForce(ctx context.Context, c Config, taker *postgres.Session) (Result, error) {
	r := newRun(c, nil, taker)
	r.result.Forced = true
	record, err := journal.Read(ctx, taker)
	if err != nil {
		return r.result, c.Taker.Wrap("reading the baton", err)
	}
	if record == nil {
		return r.result, refusal.New(c.Command, fmt.Sprintf("the %s has no record of the migration", c.Taker.Side), "")
	}
	r.id, r.generation = record.ID, record.Generation
	if record.Took {
		r.generation-- // by an earlier run of this command: only forward from here
	} else if err := r.prepareByForce(ctx); err != nil {
		return r.result, err
	}
	return r.forward(context.WithoutCancel(ctx))
}

// prepareByForce ends the streams and brings the sequences up to the rows: their
// values cannot be asked any more.
func (r *run) prepareByForce(ctx context.Context) error {
	for _, g := range r.Groups {
		sub, err := replication.ReadSubscription(ctx, r.taker, g.Name())
		if err == nil && sub != nil {
			err = replication.SetEnabled(ctx, r.taker, g.Name(), false)
		}
		if err != nil {
			return r.Taker.Wrap("disabling subscription "+g.Name(), err)
		}
	}
	// A handover may have died behind the way back's slot: nothing flows back to a
	// side that is lost.
	if _, err := replication.DropSlots(ctx, r.taker, replication.Exactly(r.Back.Name())); err != nil {
		return r.Taker.Wrap("dropping slot "+r.Back.Name(), err)
	}
	if err := r.addWithheld(ctx); err != nil {
		return err
	}
	if err := r.noteViewsByForce(ctx); err != nil {
		return err
	}
	raised, unknown, err := replication.RaiseSequences(ctx, r.taker, r.Selection)
	if err != nil {
		return r.Taker.Wrap("raising the sequences", err)
	}
	r.Observe(event.Warning{Side: r.Taker.Side, Text: "raised to the rows of their columns: " + phrase.Count(raised, "sequence")})
	for _, s := range unknown {
		r.Observe(event.Warning{Side: r.Taker.Side, Text: fmt.Sprintf("sequence %s belongs to no column: its value on the %s is not known", s, r.Holder.Side),
			Remedy: "set it by hand with setval"})
	}
	return nil
}

// ReadStale says when a side was fenced that came back stale, nil when it was not.
func ReadStale(ctx context.Context, conn *postgres.Session) (*time.Time, error) {
	if conn == nil {
		return nil, nil
	}
	at, ok, err := staleEntry.Get(ctx, conn)
	if err != nil || !ok {
		return nil, err
	}
	return &at, nil
}

// NotStale refuses what would let anything flow to or from a side that came back
// stale: the sides have parted for good.
func NotStale(ctx context.Context, what string, conns ...*postgres.Session) error {
	for _, conn := range conns {
		at, err := ReadStale(ctx, conn)
		if err != nil {
			return err
		}
		if at != nil {
			return refusal.New(what, "one side came back after the other had been given the baton by force: what it had not sent is only there, and nothing may flow between them",
				"look there for what is missing, then pgbaton finish")
		}
	}
	return nil
}

// fenceStaleTimeout bounds the fencing of a stale side.
const fenceStaleTimeout = 30 * time.Second

// FenceStale fences a side that believes to have the baton while the other has
// taken a later generation, by force: the higher generation wins. It says whether
// there was one. The sessions are those of the side that is looked at, and of the
// other.
func FenceStale(ctx context.Context, p Party, label string, conn, other *postgres.Session, observe event.Observer) (bool, error) {
	if conn == nil || other == nil {
		return false, nil
	}
	generation, err := stale(ctx, p, conn, other)
	if err != nil || generation == 0 {
		return false, err
	}
	ok, _, err := journal.Lock(ctx, conn)
	if err != nil {
		return true, p.Wrap("taking the operator's lock", err)
	}
	if !ok {
		return true, nil // whoever has it has seen the same
	}
	defer func() { _ = journal.Unlock(context.WithoutCancel(ctx), conn) }()          // the session's end would too
	if generation, err = stale(ctx, p, conn, other); err != nil || generation == 0 { // now that nobody moves it
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, fenceStaleTimeout)
	defer cancel()
	database := p.Database()
	_, err = fence.Raise(ctx, conn, database, p.Keeps, nil)
	if err == nil {
		err = fence.Barrier(ctx, conn, database, fenceStaleTimeout)
	}
	if err == nil {
		_, err = fence.Evict(ctx, conn, []int32{int32(conn.PgConn().PID())}, replication.AllOf(label))
	}
	if err == nil {
		err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			return errors.Join(journal.ExecOne(ctx, tx, journal.StaleSQL, generation),
				staleEntry.Put(ctx, tx, time.Now().UTC()))
		})
	}
	if err != nil {
		return true, p.WrapHint("fencing this side, which came back although the "+string(p.Side.Other())+" has the baton", err,
			"keep applications away from it until this command succeeds")
	}
	observe(event.Warning{Side: p.Side, Text: fmt.Sprintf("it came back although the %s was given the baton by force: it is fenced now, and what it had not sent is only there", p.Side.Other()),
		Remedy: "point no application at it; look there for what is missing, then pgbaton finish"})
	return true, nil
}

// stale returns the generation that the other side has taken although this one
// believes to have the baton; 0 when all is well.
func stale(ctx context.Context, p Party, conn, other *postgres.Session) (int64, error) {
	here, err := journal.Read(ctx, conn)
	if err != nil || here == nil {
		return 0, p.Wrap("reading the baton", err)
	}
	there, err := journal.Read(ctx, other)
	if err != nil || there == nil {
		return 0, postgres.Wrap(p.Side.Other(), "reading the baton", err)
	}
	if here.ID != there.ID || !here.Took || !there.Took || here.Generation >= there.Generation {
		return 0, nil
	}
	return there.Generation, nil
}
