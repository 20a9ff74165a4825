package migrate

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/handover"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// This file has the part of status that looks at the stream to the side without
// the baton.

// readStream looks at the stream to the side without the baton.
func (r *reader) readStream(ctx context.Context) error {
	switched := r.baton.Side == postgres.Target
	switch {
	case switched:
		r.Phase = PhaseSwitched
	case r.baton.Generation > 0: // back again
		r.Phase = PhaseHeld
	}
	if r.subscriber() == nil {
		return nil
	}
	from, to := r.baton.Side, r.baton.Side.Other()
	// What one group lacks all lack: they go on together.
	var sub *replication.Subscription
	for i, g := range r.groups() {
		one, err := replication.ReadSubscription(ctx, r.subscriber(), g.Name())
		if err != nil {
			return r.Config.Server(to).Wrap("reading the subscription", err)
		}
		if err := r.readGroup(ctx, g, one); err != nil {
			return err
		}
		if i == 0 || one == nil || sub != nil && !one.Enabled {
			sub = one
		}
	}
	switch {
	case r.Phase == PhaseCopying:
		return nil
	case sub == nil && r.baton.Generation > 0:
		r.note(handover.NoWayBack, "pgbaton finish, when it is not needed")
		return nil
	case sub == nil && len(r.suspect) > 0: // it was there; that has been said
		r.Phase = PhaseHeld
		return nil
	case sub == nil:
		r.Phase = PhaseCopying
		r.unfinished()
		return nil
	}
	gone := false
	for _, g := range r.groups() {
		if r.slot(g) == nil && r.publisher() != nil {
			gone = true
			r.lost(fmt.Sprintf("replication slot %s is gone from the %s", g.Name(), from), lostRemedy(r.baton))
		}
	}
	switch {
	case !sub.Enabled && switched && gone: // it has been said
		return nil
	case !sub.Enabled && switched:
		r.note("the way back is disabled: the target keeps WAL for it", "pgbaton resume; or complete an unfinished handover: pgbaton switchover")
		return nil
	case !sub.Enabled:
		r.Phase = PhaseHeld
		left, err := handover.StreamLeft(ctx, r.publisher())
		if left && !r.Working {
			r.note(fmt.Sprintf("the subscription was left disabled by an aborted handover that could not reach the %s", to), "pgbaton resume; the next handover does it by itself")
		}
		return r.Config.Server(from).Wrap("reading the journal", r.unlessDamaged(from, err))
	}
	if !switched {
		r.Phase = PhaseCatchingUp
	}
	if r.publisher() == nil {
		return nil
	}
	if !switched && r.baton.Generation == 0 && Method(r.Status.Method) == Native && r.TablesCopied < r.TablesTotal {
		r.Phase = PhaseCopying
		return r.readTrouble(ctx)
	}
	return r.readLag(ctx)
}

// readGaps looks whether something was left out of the stream, and when nothing
// reads a slot, remembers where it stands: nobody else may read from it meanwhile.
func (r *reader) readGaps(ctx context.Context) error {
	from, publisher := r.baton.Side, r.publisher()
	if publisher == nil || r.baton.Passed {
		return nil
	}
	atWork := r.Working || r.sideStatus(from).Fenced // whoever is at work looks too, and moves slots
	for _, g := range r.publishing {
		slot := r.slot(g)
		if slot == nil {
			continue
		}
		var gap string
		var err error
		if atWork {
			gap, err = replication.Suspect(ctx, publisher, g)
		} else {
			gap, err = replication.Gap(ctx, publisher, r.subscriber(), g)
		}
		if err != nil {
			return r.Config.Server(from).Wrap("looking for a gap in the stream", err)
		}
		r.noteGap(g, gap)
		if gap == "" && !slot.Active && !atWork {
			if err := r.leave(ctx, g); err != nil {
				return r.Config.Server(from).Wrap("noting where the slot stands", err)
			}
		}
	}
	return nil
}

// leave notes where a slot stands that nothing reads.
func (r *reader) leave(ctx context.Context, g replication.Group) error {
	var sub *replication.Subscription
	if r.subscriber() != nil {
		var err error
		if sub, err = replication.ReadSubscription(ctx, r.subscriber(), g.Name()); err != nil {
			return err
		}
	}
	if sub != nil && !sub.Enabled {
		return replication.LeaveSlot(ctx, r.publisher(), g)
	}
	return replication.LeaveMarker(ctx, r.publisher(), g)
}

// noteGap says what is to be feared of a stream.
func (r *reader) noteGap(g replication.Group, gap string) {
	if gap == "" || r.suspect[g.Name()] {
		return
	}
	if r.suspect == nil {
		r.suspect = map[string]bool{}
	}
	r.suspect[g.Name()] = true
	r.lost(fmt.Sprintf("the stream of group %d is suspect, %s", g.Number, gap), lostRemedy(r.baton))
}

func (r *reader) unfinished() {
	if !r.Working {
		r.note("start is not complete and no pgbaton is at work on it", "pgbaton start, run again, continues; pgbaton reset removes what is there")
	}
}

func (r *reader) readGroup(ctx context.Context, group replication.Group, sub *replication.Subscription) error {
	to := r.baton.Side.Other()
	g := GroupStatus{Direction: string(group.Direction), Number: group.Number, Subscription: "missing"}
	if sub != nil {
		tables, err := replication.SubscriptionTables(ctx, r.subscriber(), sub.Name)
		if err != nil {
			return r.Config.Server(to).Wrap("reading the subscription", err)
		}
		for _, t := range tables {
			if t.Ident == group.MarkerTable() {
				continue
			}
			g.Tables++
			if t.State == "r" {
				g.TablesReady++
			}
		}
		runs, err := replication.Applies(ctx, r.subscriber(), sub.Name)
		if err != nil {
			return r.Config.Server(to).Wrap("looking for the apply worker", err)
		}
		switch {
		case !sub.Enabled:
			g.Subscription = "disabled"
		case runs:
			g.Subscription = "running"
		default:
			g.Subscription = "not running"
		}
	}
	g.Suspect = r.suspect[group.Name()]
	r.Status.Groups = append(r.Status.Groups, g)
	return nil
}

// readLag measures the lag of each group: the migration's is that of the worst. A
// handover writes its own markers: none is measured while one is at work or the
// publishing side is fenced.
func (r *reader) readLag(ctx context.Context) error {
	from, to, publisher := r.baton.Side, r.baton.Side.Other(), r.publisher()
	for _, g := range r.groups() {
		rewritten, err := replication.Rewritten(ctx, publisher, r.Server(to).Version(), g)
		if err = r.unlessDamaged(from, err); err != nil {
			return r.Config.Server(from).Wrap("comparing the tables' files", err)
		}
		for _, text := range rewritten {
			r.lost(fmt.Sprintf("%s: if it was a TRUNCATE, the %s still has the rows", text, to), lostRemedy(r.baton))
		}
		if slot := r.slot(g); slot != nil && (r.LagBytes == nil || *r.LagBytes < slot.BehindBytes) {
			r.LagBytes = &slot.BehindBytes
		}
	}
	if r.sideStatus(from).Fenced {
		return nil
	}
	all := true
	var bytes *int64
	for _, g := range r.groups() {
		seen, behind, err := r.heartbeat(ctx, g)
		if err != nil {
			return err
		}
		if all = all && seen; seen && (bytes == nil || *bytes < behind) {
			bytes = &behind
		}
	}
	if !all {
		return r.readTrouble(ctx)
	}
	r.LagBytes = bytes
	if r.Phase == PhaseCatchingUp {
		r.Phase = PhaseStreaming
	}
	return nil
}

// heartbeat writes a marker, waits for it within a bound, and reads the age of the
// oldest one that has not arrived. behind is what was written meanwhile.
func (r *reader) heartbeat(ctx context.Context, g replication.Group) (seen bool, behind int64, err error) {
	from, to, table := r.baton.Side, r.baton.Side.Other(), g.MarkerTable()
	publisher, subscriber := r.publisher(), r.subscriber()
	// What is before this position has been applied once the marker is seen: the
	// position that the subscriber confirms is up to a few seconds behind that.
	before, err := replication.Position(ctx, publisher)
	if err != nil {
		return false, 0, r.Config.Server(from).Wrap("reading the WAL position", err)
	}
	began := time.Now()
	trip, err := replication.SendMarker(ctx, publisher, g)
	if err != nil {
		return false, 0, r.Config.Server(from).Wrap("writing a heartbeat", err)
	}
	if seen, err = replication.SawMarker(ctx, subscriber, table, trip.Token, heartbeatWait); err != nil {
		return false, 0, r.Config.Server(to).Wrap("waiting for the heartbeat", err)
	}
	lag := 0.0
	if seen {
		if trip := event.MS(time.Since(began)); r.RoundTripMS == nil || *r.RoundTripMS < trip {
			r.RoundTripMS = &trip
		}
		_, gap, err := trip.Arrived(ctx, publisher, subscriber, 0)
		if err != nil {
			return true, 0, r.Config.Server(from).Wrap("looking for earlier heartbeats", err)
		}
		r.noteGap(g, gap)
	} else {
		age, err := replication.OldestUnapplied(ctx, publisher, subscriber, table)
		if err != nil {
			return false, 0, r.Config.Server(from).Wrap("reading the oldest heartbeat", err)
		}
		lag, r.LagSecondsAtLeast = age.Seconds(), true
	}
	if r.LagSeconds == nil || *r.LagSeconds < lag {
		r.LagSeconds = &lag
	}
	after, err := replication.Position(ctx, publisher)
	return seen, int64(after - before), r.Config.Server(from).Wrap("reading the WAL position", err)
}

// readTrouble says why a stream does not flow.
func (r *reader) readTrouble(ctx context.Context) error {
	t, err := diagnose(ctx, r.Config, r.Sessions, r.baton, false)
	if t != nil {
		r.note(t.Text, t.Remedy)
	}
	return err
}

// nativeProgress reads how far a subscription with copy_data is: a table counts
// when it is synchronized, bytes are what its relation has on disk.
func nativeProgress(ctx context.Context, source, target *postgres.Session, g replication.Group, sel catalog.Selection) (p event.Progress, err error) {
	states, err := replication.SubscriptionTables(ctx, target, g.Name())
	if err != nil {
		return p, postgres.Wrap(postgres.Target, "reading the subscription", err)
	}
	tables, err := catalog.Tables(ctx, source, sel)
	if err != nil {
		return p, postgres.Wrap(postgres.Source, "listing tables", err)
	}
	onSource := map[postgres.Ident]int64{}
	for _, t := range tables {
		onSource[t.Ident] = t.Bytes
		if len(states) == 0 { // the subscription is still to be made
			p.TablesTotal++
			p.BytesTotal += t.Bytes
		}
	}
	rows, err := target.Query(ctx, `SELECT n.nspname, c.relname, pg_catalog.pg_table_size(c.oid)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'`)
	if err != nil {
		return p, postgres.Wrap(postgres.Target, "reading table sizes", err)
	}
	onTarget := map[postgres.Ident]int64{}
	var t postgres.Ident
	var size int64
	if _, err := pgx.ForEachRow(rows, []any{&t.Schema, &t.Name, &size}, func() error {
		onTarget[t] = size
		return nil
	}); err != nil {
		return p, postgres.Wrap(postgres.Target, "reading table sizes", err)
	}
	for _, s := range states {
		if s.Ident == g.MarkerTable() {
			continue
		}
		p.TablesTotal++
		switch s.State {
		case "r", "s": // what the source has on disk by now may be more
			p.TablesCopied++
			p.BytesTotal += onTarget[s.Ident]
			p.BytesCopied += onTarget[s.Ident]
		default:
			p.BytesTotal += max(onSource[s.Ident], onTarget[s.Ident])
			p.BytesCopied += onTarget[s.Ident]
		}
	}
	return p, nil
}
