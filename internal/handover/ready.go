package handover

import (
	"context"
	"fmt"
	"time"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
)

// ready refuses, with all reasons, unless the handover can be expected to fit
// its budget. It makes nobody wait and ends with a forecast.
func (r *run) ready(ctx context.Context) error {
	defer r.tell(PhaseReady)()
	refused := &refusal.Refusal{What: r.title}
	say := func(why, remedy string) {
		refused.Reasons = append(refused.Reasons, refusal.Reason{Why: why, Remedy: remedy})
	}
	forecast := event.Forecast{MaxPauseMS: event.MS(r.MaxPause)}
	if err := NotStale(ctx, r.title, r.holder, r.taker); err != nil {
		return err
	}

	if err := r.readyJournals(ctx, say); err != nil {
		return err
	}
	if len(refused.Reasons) > 0 {
		return refused // what follows rests on the journals
	}
	if none, err := r.noStream(ctx); err != nil || none {
		if err == nil {
			err = refusal.New(r.title, NoWayBack, "pgbaton finish")
		}
		return err
	}
	if whole, err := r.readyStreams(ctx, say); err != nil {
		return err
	} else if !whole {
		return refused // nothing else of the stream is worth a word
	}
	r.at("comparing the tables of both sides")
	diff, err := replication.Streams(ctx, r.holder, r.taker, r.Groups, r.Selection)
	if err != nil {
		return r.Holder.Wrap("comparing the tables of both sides", err)
	}
	for _, d := range diff {
		if d.Remedy != "" {
			d.Remedy += "; or "
		}
		say(d.Text, d.Remedy+r.lost())
	}
	r.at("looking for what a handover would wait for")
	if err := r.readyTransactions(ctx, say, &forecast); err != nil {
		return err
	}
	if err := r.readyBack(ctx, say); err != nil {
		return err
	}
	if err := r.readyTraffic(ctx, refused); err != nil {
		return err
	}
	if len(refused.Reasons) > 0 {
		return refused
	}
	// Only a marker's way through the stream shows that the taker applies.
	for _, g := range r.Groups {
		took, behind, seen, gap, err := r.roundTrip(ctx, g)
		if err == nil && gap != "" {
			r.sayGap(say, gap)
			continue
		}
		if err == nil && !seen {
			var why, remedy string
			if why, remedy, err = r.behind(ctx, g); err == nil {
				say(why, remedy)
				continue
			}
		}
		if err != nil {
			return err
		}
		forecast.LagBytes = max(forecast.LagBytes, behind)
		if forecast.RoundTripMS < event.MS(took) {
			forecast.RoundTripMS = event.MS(took)
			forecast.ApplyBytesPerSec = float64(behind) / took.Seconds()
		}
	}
	if len(refused.Reasons) > 0 {
		return refused
	}
	r.Observe(forecast)
	return r.readyViews(ctx)
}

// behind says why a marker did not arrive: the apply worker fails, which no waiting
// mends, or else there is too much before it.
func (r *run) behind(ctx context.Context, g replication.Group) (why, remedy string, err error) {
	why = fmt.Sprintf("group %d is behind: a marker did not arrive on the %s within %s", g.Number, r.Taker.Side, r.MaxPause)
	return r.orFails(ctx, g, why, "wait until pgbaton status shows a small lag, or allow a longer --max-pause")
}

// orFails is the apply worker's failure with its remedy, or, when none shows, what is
// said instead.
func (r *run) orFails(ctx context.Context, g replication.Group, why, remedy string) (string, string, error) {
	sub, err := replication.ReadSubscription(ctx, r.taker, g.Name())
	if err != nil || sub == nil {
		return why, remedy, r.Taker.Wrap("reading the subscription", err)
	}
	message, err := replication.ApplyFailure(ctx, r.Holder.Server, r.holder, r.Taker.Server, r.taker, g.Name(), sub.OID)
	if message != "" {
		return fmt.Sprintf("the %s's apply worker fails: %s", r.Taker.Side, message), replication.MendApply(r.Taker.Side), nil
	}
	return why, remedy, err
}

func (r *run) lost() string { return lost(r.generation) }

// lost says what to do about a stream that is lost, from the side that has taken a
// generation of the baton.
func lost(generation int64) string {
	if generation == 0 {
		return "pgbaton reset, then start again"
	}
	return wayClosed
}

// wayClosed is the remedy where nothing can be handed over any more.
const wayClosed = "pgbaton finish: this way is closed"

// NoWayBack says that the side that has the baton has no stream to the other.
const NoWayBack = "there is no way back: the handover was made without one, or its subscription was dropped"

// noStream says whether a way back is missing: then nothing else of it is worth a word.
func (r *run) noStream(ctx context.Context) (bool, error) {
	if r.generation == 0 {
		return false, nil
	}
	sub, err := replication.ReadSubscription(ctx, r.taker, r.Groups[0].Name())
	return sub == nil && err == nil, r.Taker.Wrap("reading the subscription", err)
}

// readyTraffic looks whether traffic could be moved, and whether it is held back
// already by a handover that this command cannot undo.
func (r *run) readyTraffic(ctx context.Context, refused *refusal.Refusal) error {
	reasons, err := r.Traffic.Check(ctx, r.Route(), r.MaxPause)
	refused.Reasons = append(refused.Reasons, reasons...)
	if err != nil {
		return err
	}
	more, err := r.readyAddresses(ctx, len(reasons) == 0)
	refused.Reasons = append(refused.Reasons, more...)
	return err
}

// readyStreams looks at each group's slot, subscription and worker. whole says that
// nothing may be missing from the streams.
func (r *run) readyStreams(ctx context.Context, say func(why, remedy string)) (whole bool, err error) {
	whole = true
	for _, g := range r.Groups {
		gap, err := replication.Gap(ctx, r.holder, r.taker, g)
		if err != nil {
			return false, r.Holder.Wrap("looking for a gap in the stream", err)
		}
		if gap != "" {
			whole = false
			r.sayGap(say, gap)
		}
	}
	if !whole {
		return false, nil
	}
	left, err := StreamLeft(ctx, r.holder)
	if err == nil && left {
		if err = r.clearBack(ctx); err == nil {
			err = r.enableStream(ctx)
		}
	}
	if err != nil {
		return false, r.Taker.Wrap("enabling the subscription again", err)
	}
	for _, g := range r.Groups {
		slot, err := replication.ReadSlot(ctx, r.holder, g.Name())
		if err != nil {
			return false, r.Holder.Wrap("reading the slot", err)
		}
		switch {
		case slot == nil:
			say(fmt.Sprintf("replication slot %s does not exist on the %s", g.Name(), r.Holder.Side),
				"what was written since it was lost is not on the other side: "+r.lost())
			continue
		case slot.Lost:
			say(fmt.Sprintf("replication slot %s is lost: the %s has removed WAL it needs", g.Name(), r.Holder.Side),
				"raise max_slot_wal_keep_size, and "+r.lost())
			continue
		}
		sub, err := replication.ReadSubscription(ctx, r.taker, g.Name())
		if err != nil {
			return false, r.Taker.Wrap("reading the subscription", err)
		}
		switch {
		case sub == nil:
			say(fmt.Sprintf("subscription %s does not exist on the %s", g.Name(), r.Taker.Side), "pgbaton start completes an unfinished start")
		case !sub.Enabled:
			say(fmt.Sprintf("subscription %s is disabled", g.Name()), "pgbaton resume")
		case !slot.Active:
			// A worker that restarts is absent for up to wal_retrieve_retry_interval.
			waitCtx, cancel := context.WithTimeout(ctx, min(r.MaxPause, 6*time.Second))
			active := r.waitActive(waitCtx, g)
			cancel()
			if !active {
				why, remedy, err := r.orFails(ctx, g,
					fmt.Sprintf("subscription %s is enabled but nobody reads its slot: the apply worker does not run", g.Name()),
					"pgbaton status shows why; the log of the "+string(r.Taker.Side)+" has the server's message")
				if err != nil {
					return false, err
				}
				say(why, remedy)
			}
		}
	}
	return true, nil
}

// sayGap refuses to hand over what may not be all.
func (r *run) sayGap(say func(why, remedy string), gap string) {
	say(gap, r.lost())
}

func (r *run) waitActive(ctx context.Context, g replication.Group) bool {
	for {
		slot, err := replication.ReadSlot(ctx, r.holder, g.Name())
		if err != nil || slot == nil {
			return false
		}
		if slot.Active {
			return true
		}
		if postgres.Pause(ctx, 50*time.Millisecond) != nil {
			return false
		}
	}
}

// readyTransactions looks for what the fence, and the slots that are made inside
// it, would have to wait for: prepared transactions, and old transactions that
// have written, in any database of a cluster in which a slot is made. Those in
// the holder's database are ended by the fence.
func (r *run) readyTransactions(ctx context.Context, say func(why, remedy string), f *event.Forecast) error {
	for _, side := range []struct {
		Party
		conn    *postgres.Session
		evicted bool
	}{{r.Holder, r.holder, true}, {r.Taker, r.taker, false}} {
		if !side.evicted && r.NoRollback {
			continue // nothing on the taker waits for anyone
		}
		prepared, err := replication.PreparedInCluster(ctx, side.conn)
		if err != nil {
			return side.Wrap("looking for prepared transactions", err)
		}
		for _, p := range prepared {
			say(fmt.Sprintf("%s on the %s could be committed after the fence, or would hold up a slot", p, side.Side),
				"COMMIT PREPARED or ROLLBACK PREPARED it")
		}
		open, err := replication.OldTransactions(ctx, side.conn, replication.AllOf(r.Label))
		if err != nil {
			return side.Wrap("looking for old transactions", err)
		}
		for _, t := range open {
			f.OpenTransactions = append(f.OpenTransactions, string(side.Side)+": "+t.Who)
			if t.Writes && t.Age > r.MaxPause/2 && !(t.Here && side.evicted) {
				say(fmt.Sprintf("an old writing transaction in the %s's cluster: %s", side.Side, t.Who), "wait for it, or end it with pg_terminate_backend")
			}
		}
	}
	if err := r.readyIntruders(ctx, say); err != nil {
		return err
	}
	var err error
	if f.Sessions, err = replication.ClientSessions(ctx, r.holder); err != nil {
		return r.Holder.Wrap("counting sessions", err)
	}
	r.sequences, err = catalog.Sequences(ctx, r.holder, r.Selection)
	f.Sequences = len(r.sequences)
	if err != nil {
		return r.Holder.Wrap("listing sequences", err)
	}
	for _, g := range r.Groups {
		tables, err := replication.PublicationTables(ctx, r.holder, g.Name())
		if err != nil {
			return r.Holder.Wrap("reading the publication", err)
		}
		f.Tables += max(0, len(tables)-1) // without the marker
	}
	return nil
}

// readyIntruders looks for subscriptions of others that write into the holder's
// database: the fence does not stop their workers.
func (r *run) readyIntruders(ctx context.Context, say func(why, remedy string)) error {
	names, err := replication.OtherSubscriptions(ctx, r.holder, replication.AllOf(r.Label))
	for _, name := range names {
		q := postgres.QuoteIdent(name)
		say(fmt.Sprintf("subscription %s writes into the %s's database, and would go on behind the fence", q, r.Holder.Side),
			"ALTER SUBSCRIPTION "+q+" DISABLE, there, until after the handover")
	}
	return r.Holder.Wrap("looking for subscriptions", err)
}

// roundTrip sends a marker through a group's stream and waits for it no longer
// than the budget. behind is the WAL, in bytes, written meanwhile: at most that
// much is still to be applied. gap says that an earlier marker has not arrived.
func (r *run) roundTrip(ctx context.Context, g replication.Group) (took time.Duration, behind int64, seen bool, gap string, err error) {
	before, err := replication.Position(ctx, r.holder)
	if err != nil {
		return 0, 0, false, "", r.Holder.Wrap("reading the WAL position", err)
	}
	trip, err := replication.SendMarker(ctx, r.holder, g)
	if err != nil {
		return 0, 0, false, "", r.Holder.Wrap("writing a marker", err)
	}
	began := time.Now()
	if seen, err = replication.SawMarker(ctx, r.taker, g.MarkerTable(), trip.Token, r.MaxPause); err != nil {
		return 0, 0, false, "", r.Taker.Wrap("waiting for a marker", err)
	}
	took = time.Since(began)
	if seen {
		if _, gap, err = trip.Arrived(ctx, r.holder, r.taker, 0); err != nil {
			return 0, 0, false, "", r.Taker.Wrap("looking for earlier markers", err)
		}
	}
	after, err := replication.Position(ctx, r.holder)
	return took, int64(after - before), seen, gap, r.Holder.Wrap("reading the WAL position", err)
}

// prepare does all that can be done before anyone waits.
func (r *run) prepare(ctx context.Context) (err error) {
	defer r.tell(PhasePrepare)()
	if r.attempt, err = journal.RaiseAttempt(ctx, r.holder, r.by); err != nil {
		return r.Holder.Wrap("beginning the handover", err)
	}
	err = forget(ctx, r.holder)
	if err == nil {
		err = streamEntry.Put(ctx, r.holder, r.attempt)
	}
	if err != nil {
		return r.Holder.Wrap("writing the journal", err)
	}
	if err := r.openWatch(ctx); err != nil {
		return err
	}
	r.at("making publication and subscription of the way back")
	if err := r.prepareBack(ctx); err != nil {
		return err
	}
	if err := r.noteViews(ctx); err != nil {
		return err
	}
	r.at("comparing the tables once more, and trying what the pause will do")
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	if r.Guard != nil {
		pid, err := r.Guard.Start(ctx, r.ward())
		if err != nil {
			return fmt.Errorf("starting the guardian: %w", err)
		}
		r.Observe(event.GuardianStarted{PID: pid})
	}
	return r.notePause(ctx)
}
