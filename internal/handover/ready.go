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
	l := &look{run: r, refused: &refusal.Refusal{What: r.title}, forecast: event.Forecast{MaxPauseMS: event.MS(r.MaxPause)}}
	if err := NotStale(ctx, r.title, r.holder, r.taker); err != nil {
		return err
	}

	if err := l.journals(ctx); err != nil {
		return err
	}
	if len(l.refused.Reasons) > 0 {
		return l.refused // what follows rests on the journals
	}
	if none, err := l.noStream(ctx); err != nil || none {
		if err == nil {
			err = refusal.New(r.title, NoWayBack, "pgbaton finish")
		}
		return err
	}
	if whole, err := l.streams(ctx); err != nil {
		return err
	} else if !whole {
		return l.refused // nothing else of the stream is worth a word
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
		l.say(d.Text, d.Remedy+r.lost())
	}
	r.at("looking for what a handover would wait for")
	if err := l.transactions(ctx); err != nil {
		return err
	}
	if err := l.wayBackPossible(ctx); err != nil {
		return err
	}
	if err := l.trafficMoves(ctx); err != nil {
		return err
	}
	if len(l.refused.Reasons) > 0 {
		return l.refused
	}
	// Only a marker's way through the stream shows that the taker applies.
	for _, g := range r.Groups {
		took, behind, seen, gap, err := r.roundTrip(ctx, g)
		if err == nil && gap != "" {
			l.say(gap, l.lost())
			continue
		}
		if err == nil && !seen {
			var why, remedy string
			if why, remedy, err = r.behind(ctx, g); err == nil {
				l.say(why, remedy)
				continue
			}
		}
		if err != nil {
			return err
		}
		l.forecast.LagBytes = max(l.forecast.LagBytes, behind)
		if l.forecast.RoundTripMS < event.MS(took) {
			l.forecast.RoundTripMS = event.MS(took)
			l.forecast.ApplyBytesPerSec = float64(behind) / took.Seconds()
		}
	}
	if len(l.refused.Reasons) > 0 {
		return l.refused
	}
	r.Observe(l.forecast)
	return l.viewsDue(ctx)
}

// look is a look at whether a handover can begin: what speaks against it, and what it
// would probably cost.
type look struct {
	*run
	refused  *refusal.Refusal
	forecast event.Forecast
}

// say adds what speaks against it.
func (l *look) say(why, remedy string) {
	l.refused.Reasons = append(l.refused.Reasons, refusal.Reason{Why: why, Remedy: remedy})
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
func (l *look) noStream(ctx context.Context) (bool, error) {
	if l.generation == 0 {
		return false, nil
	}
	sub, err := replication.ReadSubscription(ctx, l.taker, l.Groups[0].Name())
	return sub == nil && err == nil, l.Taker.Wrap("reading the subscription", err)
}

// trafficMoves looks whether traffic could be moved, and whether it is held back
// already by a handover that this command cannot undo.
func (l *look) trafficMoves(ctx context.Context) error {
	reasons, err := l.Traffic.Check(ctx, l.Route(), l.MaxPause)
	l.refused.Reasons = append(l.refused.Reasons, reasons...)
	if err != nil {
		return err
	}
	return l.addresses(ctx, len(reasons) == 0)
}

// streams looks at each group's slot, subscription and worker. whole says that
// nothing may be missing from the streams.
func (l *look) streams(ctx context.Context) (whole bool, err error) {
	whole = true
	for _, g := range l.Groups {
		gap, err := replication.Gap(ctx, l.holder, l.taker, g)
		if err != nil {
			return false, l.Holder.Wrap("looking for a gap in the stream", err)
		}
		if gap != "" {
			whole = false
			l.say(gap, l.lost())
		}
	}
	if !whole {
		return false, nil
	}
	left, err := StreamLeft(ctx, l.holder)
	if err == nil && left {
		if err = l.clearBack(ctx); err == nil {
			err = l.enableStream(ctx)
		}
	}
	if err != nil {
		return false, l.Taker.Wrap("enabling the subscription again", err)
	}
	for _, g := range l.Groups {
		slot, err := replication.ReadSlot(ctx, l.holder, g.Name())
		if err != nil {
			return false, l.Holder.Wrap("reading the slot", err)
		}
		switch {
		case slot == nil:
			l.say(fmt.Sprintf("replication slot %s does not exist on the %s", g.Name(), l.Holder.Side),
				"what was written since it was lost is not on the other side: "+l.lost())
			continue
		case slot.Lost:
			l.say(fmt.Sprintf("replication slot %s is lost: the %s has removed WAL it needs", g.Name(), l.Holder.Side),
				"raise max_slot_wal_keep_size, and "+l.lost())
			continue
		}
		sub, err := replication.ReadSubscription(ctx, l.taker, g.Name())
		if err != nil {
			return false, l.Taker.Wrap("reading the subscription", err)
		}
		switch {
		case sub == nil:
			l.say(fmt.Sprintf("subscription %s does not exist on the %s", g.Name(), l.Taker.Side), "pgbaton start completes an unfinished start")
		case !sub.Enabled:
			l.say(fmt.Sprintf("subscription %s is disabled", g.Name()), "pgbaton resume")
		case !slot.Active:
			// A worker that restarts is absent for up to wal_retrieve_retry_interval.
			waitCtx, cancel := context.WithTimeout(ctx, min(l.MaxPause, 6*time.Second))
			active := l.waitActive(waitCtx, g)
			cancel()
			if !active {
				why, remedy, err := l.orFails(ctx, g,
					fmt.Sprintf("subscription %s is enabled but nobody reads its slot: the apply worker does not run", g.Name()),
					"pgbaton status shows why; the log of the "+string(l.Taker.Side)+" has the server's message")
				if err != nil {
					return false, err
				}
				l.say(why, remedy)
			}
		}
	}
	return true, nil
}

func (l *look) waitActive(ctx context.Context, g replication.Group) bool {
	for {
		slot, err := replication.ReadSlot(ctx, l.holder, g.Name())
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

// transactions looks for what the fence, and the slots that are made inside
// it, would have to wait for: prepared transactions, and old transactions that
// have written, in any database of a cluster in which a slot is made. Those in
// the holder's database are ended by the fence.
func (l *look) transactions(ctx context.Context) error {
	for _, side := range []struct {
		Party
		conn    *postgres.Session
		evicted bool
	}{{l.Holder, l.holder, true}, {l.Taker, l.taker, false}} {
		if !side.evicted && l.NoRollback {
			continue // nothing on the taker waits for anyone
		}
		prepared, err := replication.PreparedInCluster(ctx, side.conn)
		if err != nil {
			return side.Wrap("looking for prepared transactions", err)
		}
		for _, p := range prepared {
			l.say(fmt.Sprintf("%s on the %s could be committed after the fence, or would hold up a slot", p, side.Side),
				"COMMIT PREPARED or ROLLBACK PREPARED it")
		}
		open, err := replication.OldTransactions(ctx, side.conn, replication.AllOf(l.Label))
		if err != nil {
			return side.Wrap("looking for old transactions", err)
		}
		for _, t := range open {
			l.forecast.OpenTransactions = append(l.forecast.OpenTransactions, string(side.Side)+": "+t.Who)
			if t.Writes && t.Age > l.MaxPause/2 && !(t.Here && side.evicted) {
				l.say(fmt.Sprintf("an old writing transaction in the %s's cluster: %s", side.Side, t.Who), "wait for it, or end it with pg_terminate_backend")
			}
		}
	}
	if err := l.intruders(ctx); err != nil {
		return err
	}
	var err error
	if l.forecast.Sessions, err = replication.ClientSessions(ctx, l.holder); err != nil {
		return l.Holder.Wrap("counting sessions", err)
	}
	l.sequences, err = catalog.Sequences(ctx, l.holder, l.Selection)
	l.forecast.Sequences = len(l.sequences)
	if err != nil {
		return l.Holder.Wrap("listing sequences", err)
	}
	for _, g := range l.Groups {
		tables, err := replication.PublicationTables(ctx, l.holder, g.Name())
		if err != nil {
			return l.Holder.Wrap("reading the publication", err)
		}
		l.forecast.Tables += max(0, len(tables)-1) // without the marker
	}
	return nil
}

// intruders looks for subscriptions of others that write into the holder's
// database: the fence does not stop their workers.
func (l *look) intruders(ctx context.Context) error {
	names, err := replication.OtherSubscriptions(ctx, l.holder, replication.AllOf(l.Label))
	for _, name := range names {
		q := postgres.QuoteIdent(name)
		l.say(fmt.Sprintf("subscription %s writes into the %s's database, and would go on behind the fence", q, l.Holder.Side),
			"ALTER SUBSCRIPTION "+q+" DISABLE, there, until after the handover")
	}
	return l.Holder.Wrap("looking for subscriptions", err)
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
