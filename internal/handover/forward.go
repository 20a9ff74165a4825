package handover

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// open lets applications into the taker. First the stream into it is checked to
// be gone, then the taker records that it took the baton, then the fence falls.
func (r *run) open(ctx context.Context) error {
	for _, g := range r.Groups {
		sub, err := replication.ReadSubscription(ctx, r.taker, g.Name())
		if err != nil {
			return err
		}
		if sub == nil {
			continue // an earlier run got as far as settle
		}
		if sub.Enabled {
			err = replication.SetEnabled(ctx, r.taker, g.Name(), false)
		} else {
			err = replication.WaitNoWorker(ctx, r.taker, g.Name())
		}
		if err != nil {
			return err
		}
	}
	err := postgres.Durably(ctx, r.taker, func(tx pgx.Tx) error {
		record, err := journal.Read(ctx, tx)
		if err != nil || record == nil || record.Took && record.Generation > r.generation {
			return err // an earlier run has taken it
		}
		if err := journal.ExecOne(ctx, tx, journal.TakeSQL, r.generation+1); err != nil {
			return err
		}
		r.took = true
		// One of the handover before, in which this side was the holder.
		if err := pausedEntry.Delete(ctx, tx); err != nil {
			return err
		}
		return trafficEntry.Put(ctx, tx, Held{r.attempt, r.Traffic.Names()})
	})
	if err != nil {
		return fmt.Errorf("recording that the baton was taken: %w", err)
	}
	// What the application changes from now on, its event triggers see.
	if !r.without.noEvents {
		if err := schema.OpenEventTriggers(ctx, r.taker); err != nil {
			hint := again
			if damaged := (*journal.Damaged)(nil); errors.As(err, &damaged) {
				hint = r.mend(damaged) + "; then run the same command again"
			}
			r.problems = append(r.problems, r.Taker.WrapHint("restoring event triggers", err, hint))
		}
	}
	return r.openTaker(ctx)
}

// settle tidies up behind the pass: nobody waits any more. Everything is tried;
// a second run does what is left.
func (r *run) settle(ctx context.Context) error {
	// Our session alive: nobody has had the lock since, and moved on.
	if err := r.taker.Ping(ctx); err != nil {
		return r.Taker.WrapHint("tidying up", err, again)
	}
	var errs []error
	try := func(side postgres.Side, doing string, err error) {
		errs = append(errs, postgres.WrapHint(side, doing, err, again))
	}
	if !r.result.Forced { // the holder is lost
		err := r.enableBack(ctx)
		if errors.Is(err, errTakenOver) {
			return err // what we would tidy up is in use again
		}
		try(r.Holder.Side, "opening the way back", err)
	}
	if r.holder != nil && !r.holder.IsClosed() {
		try(r.Holder.Side, "writing the journal", errors.Join(pausedEntry.Delete(ctx, r.holder), ForgetStream(ctx, r.holder)))
		try(r.Holder.Side, "dropping the slot of the leak check", fence.CloseLeakCheck(ctx, r.holder, r.leakSlot()))
	}
	for _, g := range r.Groups {
		_, err := replication.DropSubscription(ctx, r.taker, g.Name())
		try(r.Taker.Side, "dropping subscription "+g.Name(), err)
		if r.holder != nil {
			_, err = replication.DropSlots(ctx, r.holder, replication.Exactly(g.Name()))
			try(r.Holder.Side, "dropping slot "+g.Name(), err)
			if !r.holder.IsClosed() {
				try(r.Holder.Side, "writing the journal", replication.ForgetSlot(ctx, r.holder, g))
			}
			if g.Number > 1 && !r.holder.IsClosed() { // from now on there is one
				_, err = r.holder.Exec(ctx, replication.DropPublicationSQL(g.Name()))
				try(r.Holder.Side, "dropping publication "+g.Name(), err)
			}
		}
	}
	left, err := replication.ValidateWithheld(ctx, r.taker)
	for _, l := range left {
		errs = append(errs, r.Taker.WrapHint("completing the foreign keys between groups", errors.New(l.Why), again))
	}
	try(r.Taker.Side, "validating the foreign keys between groups", err)
	not, err := schema.ValidateChecks(ctx, r.taker)
	try(r.Taker.Side, "validating constraints that call functions", err)
	for _, u := range not {
		r.Observe(event.Warning{Side: r.Taker.Side, Text: u.Text(), Remedy: u.Remedy()})
	}
	_, left, err = schema.RestoreTriggers(ctx, r.taker)
	for _, l := range left {
		r.Observe(event.Warning{Side: r.Taker.Side, Text: l.Why, Remedy: l.Remedy})
	}
	try(r.Taker.Side, "restoring triggers", err)
	try(r.Taker.Side, "refreshing materialized views", r.populate(ctx))
	return errors.Join(errs...)
}
