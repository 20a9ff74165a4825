package handover

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// This file has the way back: a stream from the taker to the holder that misses
// not one write on the taker and returns none of the holder's. Its publication
// and its subscription, connected and disabled, are made before anyone waits; its
// slot inside the fence, when the stream to the taker has ended; and it is
// enabled behind the pass.

// prepareBack makes what can be made before anyone waits. What an earlier
// attempt left is made anew.
func (r *run) prepareBack(ctx context.Context) error {
	if err := r.undoPrepare(ctx); err != nil || r.NoRollback {
		return err
	}
	g := r.Back
	for _, side := range []struct {
		Party
		conn *postgres.Session
	}{{r.Holder, r.holder}, {r.Taker, r.taker}} {
		if _, err := side.conn.Exec(ctx, replication.MarkerTableSQL(g.MarkerTable())); err != nil {
			return side.Wrap("creating the marker table of the way back", err)
		}
	}
	tables, err := catalog.Shapes(ctx, r.taker, r.Selection)
	if err != nil {
		return r.Taker.Wrap("listing tables", err)
	}
	publication := replication.PublicationSQL(g.Name(), replication.Publishable(tables, g),
		replication.StreamsTruncate(r.Taker.Version(), r.Holder.Version()))
	err = pgx.BeginFunc(ctx, r.taker, func(tx pgx.Tx) error {
		// A vacuum that must not be interrupted can hold a table's lock for hours.
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", max(1000, r.MaxPause.Milliseconds()))); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, publication)
		return err
	})
	if err != nil {
		hint := ""
		switch postgres.Code(err) {
		case postgres.InsufficientPrivilege:
			hint = "the role must own every table" + orWithout
		case postgres.LockNotAvailable:
			hint = "wait for who holds the lock, or end it with pg_terminate_backend, and run the same command again" + orWithout
			err = r.orLockedBy(ctx, err)
		}
		return r.Taker.WrapHint("creating the publication of the way back", err, hint)
	}
	terms, err := replication.TermsFor(ctx, r.holder, r.Taker.Version(), r.Label, 1, false)
	if err != nil {
		return r.Holder.Wrap("looking for workers that can apply", err)
	}
	if err := replication.CreateSubscription(ctx, r.holder, g.Name(), r.Taker.Reach.For(r.Holder.Version()), terms); err != nil {
		_, hint := replication.SubscribeFailure(r.Holder.Side, r.Holder.Version(), err)
		return r.Holder.WrapHint("creating the subscription of the way back", err, hint+orWithout)
	}
	return r.Holder.Wrap("checking the subscription of the way back",
		replication.VerifySubscription(ctx, r.taker, r.holder, g.Name(), "r"))
}

// orLockedBy adds to an error that a lock was not to be had who has locks on tables that
// keep them from being published.
func (r *run) orLockedBy(ctx context.Context, err error) error {
	holders, readErr := replication.KeptFromPublishing(ctx, r.taker)
	if readErr != nil || len(holders) == 0 { // gone by now
		return err
	}
	return fmt.Errorf("%w; locked by %s", err, strings.Join(holders, "; "))
}

// undoPrepare removes the way back. Neither side is asked through the other.
func (r *run) undoPrepare(ctx context.Context) error {
	name := r.Back.Name()
	if err := r.mine(ctx); err != nil {
		return err
	}
	if _, err := replication.DropSubscription(ctx, r.holder, name); err != nil {
		return r.Holder.Wrap("dropping subscription "+name, err)
	}
	takerCtx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	if err := r.aliveTaker(takerCtx); err != nil {
		return err
	}
	if err := r.mine(ctx); err != nil { // once more, now with both locks
		return err
	}
	if _, err := replication.DropSlots(ctx, r.taker, replication.Exactly(name)); err != nil {
		return r.Taker.Wrap("dropping slot "+name, err)
	}
	exists, err := replication.PublicationExists(ctx, r.taker, name)
	if err == nil && exists {
		_, err = r.taker.Exec(ctx, replication.DropPublicationSQL(name))
	}
	return r.Taker.Wrap("dropping publication "+name, err)
}

// wayBack ends the stream to the taker: nothing may flow into it once it is
// open. At this very position the slot of the way back begins. Then one commit
// that writes WAL, with synchronous_commit on: what was applied, and the
// sequences, are durable before the pass.
func (r *run) wayBack(ctx context.Context) error {
	for _, g := range r.Groups {
		if err := replication.SetEnabled(ctx, r.taker, g.Name(), false); err != nil {
			return r.Taker.Wrap("disabling subscription "+g.Name(), err)
		}
	}
	if !r.NoRollback {
		var err error
		if r.backPoint, err = replication.CreateSlotHere(ctx, r.taker, r.Back.Name()); err != nil {
			return r.Taker.WrapHint("creating the slot of the way back", err, replication.SlotHint(err))
		}
		if err := replication.RememberFilenodes(ctx, r.taker, r.Holder.Version(), r.Back); err != nil {
			return r.Taker.Wrap("remembering the tables' files", err)
		}
	}
	if err := r.addWithheld(ctx); err != nil {
		return err
	}
	if err := r.durable(ctx); err != nil {
		return r.Taker.Wrap("making what was applied durable", err)
	}
	return nil
}

// addWithheld adds the foreign keys between groups, which are at one position now
// (rule 13), and the constraints that may look into tables of several. Their rows are
// looked at when nobody waits any more.
func (r *run) addWithheld(ctx context.Context) error {
	var goneKeys []replication.WithheldKey
	if !r.without.noKeys {
		keys, err := replication.Withheld(ctx, r.taker)
		if err != nil {
			return r.Taker.Wrap("reading the journal", err)
		}
		if goneKeys, err = replication.AddWithheld(ctx, r.taker, keys); err != nil {
			return r.Taker.Wrap("adding the foreign keys between groups", err)
		}
	}
	var goneChecks []schema.HeldCheck
	if !r.without.noChecks {
		var err error
		if goneChecks, err = schema.AddChecks(ctx, r.taker); err != nil {
			return r.Taker.Wrap("adding constraints that call functions", err)
		}
	}
	for _, k := range goneKeys {
		r.tellGone(k)
	}
	for _, h := range goneChecks {
		r.tellGone(h)
	}
	return nil
}

// tellGone says of a constraint that was held back that it is not added any more.
func (r *run) tellGone(constraint fmt.Stringer) {
	r.Observe(event.Warning{Side: r.Taker.Side, Text: fmt.Sprintf("%s is not added: what it belongs to, or rests on, was dropped or renamed since", constraint),
		Remedy: "if it was renamed, add the constraint as it is on the " + string(r.Holder.Side)})
}

// without is what the taker is known not to do without while it receives: inside the
// pause nobody looks for it again. Whoever has the lock is the only one who writes the
// journal.
type without struct{ noKeys, noChecks, noEvents bool }

// readWithout reads it before anyone waits.
func (r *run) readWithout(ctx context.Context) error {
	keys, err := replication.Withheld(ctx, r.taker)
	if err != nil {
		return r.Taker.Wrap("reading the journal", err)
	}
	checks, err := schema.HeldChecks(ctx, r.taker)
	if err != nil {
		return r.Taker.Wrap("reading the journal", err)
	}
	events, err := schema.EventTriggersHeld(ctx, r.taker)
	r.without = without{len(keys) == 0, len(checks) == 0, !events}
	return r.Taker.Wrap("reading the journal", err)
}

func (r *run) durable(ctx context.Context) error {
	return postgres.Durably(ctx, r.taker, func(tx pgx.Tx) error { return r.writeDrained(ctx, tx) })
}

func (r *run) writeDrained(ctx context.Context, tx pgx.Tx) error {
	if !r.NoRollback { // nothing reads it before it is enabled, behind the pass
		if err := replication.LeaveNewSlot(ctx, tx, r.Back, r.backPoint); err != nil {
			return err
		}
	}
	return drainedEntry.Put(ctx, tx, drained{Generation: r.generation + 1, Attempt: r.attempt})
}

// drained is the handover that has got as far as the pass.
type drained struct {
	Generation int64 `json:"generation"` // that the taker takes
	Attempt    int64 `json:"attempt"`
}

// Drained says whether a handover to this taker has ever got as far as the pass.
func Drained(ctx context.Context, taker *postgres.Session) (bool, error) {
	_, ok, err := drainedEntry.Get(ctx, taker)
	return ok, err
}

// streamTimeout bounds what an abort does on the taker, which may be down: the
// holder is unfenced after it.
const streamTimeout = 3 * time.Second

// undoWayBack takes back what must be gone from the taker before the stream flows
// again: the slot of the way back, through which what it applies would come back, and
// the constraints that were added behind the drain. It is all that is done there
// before the holder serves again.
func (r *run) undoWayBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	return r.clearTaker(ctx)
}

// letFlow lets the stream to the taker flow again, when nobody waits any more: the
// holder's slot keeps what applications write meanwhile, and its journal that the
// stream is to be enabled (keyStream). What undoWayBack could not take back is gone
// first.
func (r *run) letFlow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	if err := r.clearTaker(ctx); err != nil {
		return err
	}
	return r.enableStream(ctx)
}

// flowAgain does so, and warns when it cannot be done: the taker may be down. Its
// error is errTakenOver.
func (r *run) flowAgain(ctx context.Context) error {
	err := r.letFlow(ctx)
	if err != nil && !errors.Is(err, errTakenOver) {
		r.warnStream(err)
		r.leaveStream(ctx) // what is not sent is kept for when the taker is back
		return nil
	}
	return err
}

func (r *run) clearTaker(ctx context.Context) error {
	// In this order: with both locks nobody else moves the baton any more.
	if err := r.aliveTaker(ctx); err != nil {
		return err
	}
	if err := r.mine(ctx); err != nil {
		return err
	}
	return r.clearBack(ctx)
}

// clearBack is for a run that has both locks.
func (r *run) clearBack(ctx context.Context) error {
	if _, err := replication.DropSlots(ctx, r.taker, replication.Exactly(r.Back.Name())); err != nil {
		return err
	}
	keys, err := replication.Withheld(ctx, r.taker)
	if err == nil {
		err = replication.DropWithheld(ctx, r.taker, keys)
	}
	if err == nil {
		err = schema.DropChecks(ctx, r.taker)
	}
	return err
}

// gapError says that a stream must not be let on: no waiting helps.
type gapError struct{ why string }

// Error implements error.
func (g *gapError) Error() string { return g.why }

// enableStream enables what a handover has disabled, unless something was left out
// of it meanwhile.
func (r *run) enableStream(ctx context.Context) error {
	for _, g := range r.Groups {
		gap, err := replication.Gap(ctx, r.holder, r.taker, g)
		if err == nil && gap != "" {
			err = &gapError{gap}
		}
		if err != nil {
			return err
		}
		if err := replication.LetOn(ctx, r.holder, r.taker, g); err != nil {
			return err
		}
	}
	return ForgetStream(ctx, r.holder)
}

// leaveStream remembers where the slots stand whose subscriptions could not be
// enabled again.
func (r *run) leaveStream(ctx context.Context) {
	for _, g := range r.Groups {
		if err := replication.LeaveSlot(ctx, r.holder, g); err != nil {
			r.Observe(event.Warning{Side: r.Holder.Side, Text: "noting where slot " + g.Name() + " stands: " + postgres.Describe(err)})
		}
	}
}

// StreamLeft says whether the stream from this holder may have been left disabled
// by a handover that could not reach the taker when it was undone.
func StreamLeft(ctx context.Context, holder *postgres.Session) (bool, error) {
	if holder == nil {
		return false, nil
	}
	_, left, err := streamEntry.Get(ctx, holder)
	return left, err
}

// ClearLeft takes back from the taker what an aborted handover has left there because
// it was out of reach: before anybody lets the stream flow again. It is for whoever has
// both locks.
func ClearLeft(ctx context.Context, c Config, holder, taker *postgres.Session) error {
	left, err := StreamLeft(ctx, holder)
	if err != nil || !left {
		return err
	}
	return newRun(c, holder, taker).clearBack(ctx)
}

// ForgetStream is for whoever enables or disables the stream.
func ForgetStream(ctx context.Context, holder *postgres.Session) error {
	return streamEntry.Delete(ctx, holder)
}

// backTimeout is how long the way back may take to begin: servers up to 15 start a
// worker only wal_retrieve_retry_interval (5 s) after the one before.
const backTimeout = 7 * time.Second

// enableBack lets the way back flow, and looks whether it does.
func (r *run) enableBack(ctx context.Context) error {
	if err := r.aliveOldHolder(ctx); err != nil {
		return err
	}
	if stale, err := ReadStale(ctx, r.holder); err != nil || stale != nil {
		return r.Holder.Wrap("reading the journal", err)
	}
	name := r.Back.Name()
	sub, err := replication.ReadSubscription(ctx, r.holder, name)
	if err != nil {
		return r.Holder.Wrap("reading the subscription of the way back", err)
	}
	if sub == nil {
		return nil // it was passed without one
	}
	gap, err := replication.Gap(ctx, r.taker, r.holder, r.Back)
	if err != nil {
		return r.Taker.Wrap("looking for a gap in the way back", err)
	}
	if gap != "" {
		r.Observe(event.Warning{Side: r.Taker.Side, Text: "the way back is not opened: " + gap, Remedy: wayClosed})
		return nil
	}
	// What its triggers did on the taker comes with the rows.
	if err := schema.QuietTriggers(ctx, r.holder, nil); err != nil {
		return r.Holder.Wrap("keeping triggers quiet", err)
	}
	if err := replication.LetOn(ctx, r.taker, r.holder, r.Back); err != nil {
		return r.Holder.Wrap("enabling the subscription of the way back", err)
	}
	trip, err := replication.SendMarker(ctx, r.taker, r.Back)
	if err != nil {
		return r.Taker.Wrap("writing a marker", err)
	}
	seen, gap, err := trip.Arrived(ctx, r.taker, r.holder, backTimeout)
	if err == nil && gap != "" {
		r.Observe(event.Warning{Side: r.Taker.Side, Text: "the way back is suspect: " + gap, Remedy: wayClosed})
	}
	if err == nil && !seen {
		r.Observe(event.Warning{Side: r.Holder.Side, Text: "the way back does not flow yet: a marker did not arrive within " + backTimeout.String(),
			Remedy: "pgbaton status shows whether it does, and why not"})
	}
	return r.Holder.Wrap("waiting for a marker", err)
}
