package handover

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// This file looks, before anyone waits, at what the journals must hold for the phases
// to do their work, above all for the taker to be opened.

// reads are the entries that a handover relies on, on either side.
var reads = []func(context.Context, *postgres.Session) error{
	func(ctx context.Context, c *postgres.Session) error { _, err := ReadPaused(ctx, c); return err },
	func(ctx context.Context, c *postgres.Session) error { _, err := TrafficWaits(ctx, c); return err },
	func(ctx context.Context, c *postgres.Session) error { _, err := ReadArrival(ctx, c); return err },
	func(ctx context.Context, c *postgres.Session) error { _, err := StreamLeft(ctx, c); return err },
	func(ctx context.Context, c *postgres.Session) error { _, err := ReadGuardianNote(ctx, c); return err },
	func(ctx context.Context, c *postgres.Session) error { _, _, err := viewsEntry.Get(ctx, c); return err },
	func(ctx context.Context, c *postgres.Session) error { _, err := journal.AttemptBy(ctx, c); return err },
	func(ctx context.Context, c *postgres.Session) error { _, err := Results(ctx, c); return err },
	func(ctx context.Context, c *postgres.Session) error { _, err := schema.Quieted(ctx, c); return err },
	func(ctx context.Context, c *postgres.Session) error { _, err := schema.Failed(ctx, c); return err },
	func(ctx context.Context, c *postgres.Session) error {
		_, err := replication.Withheld(ctx, c)
		return err
	},
	func(ctx context.Context, c *postgres.Session) error {
		_, err := replication.Identities(ctx, c)
		return err
	},
	func(ctx context.Context, c *postgres.Session) error { return replication.ReadFilenodes(ctx, c) },
	func(ctx context.Context, c *postgres.Session) error { return replication.ReadSlotMemories(ctx, c) },
	func(ctx context.Context, c *postgres.Session) error { return schema.ReadChecks(ctx, c) },
	func(ctx context.Context, c *postgres.Session) error {
		_, err := schema.EventTriggersBefore(ctx, c)
		return err
	},
}

// FindDamaged lists those of them that somebody has damaged.
func FindDamaged(ctx context.Context, conn *postgres.Session) (found []*journal.Damaged, err error) {
	for _, read := range reads {
		err := read(ctx, conn)
		if damaged := (*journal.Damaged)(nil); errors.As(err, &damaged) {
			found = append(found, damaged)
		} else if err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (r *run) mend(d *journal.Damaged) string {
	return MendDamaged(d, r.Holder.Side, r.generation)
}

// MendDamaged says how a damaged entry is put right, where a side has the baton, and has
// taken a generation of it.
func MendDamaged(d *journal.Damaged, holder postgres.Side, generation int64) string {
	switch {
	case d.Of(journal.Slot): // what was left out of the stream can be told by nothing else
		return lost(generation)
	case d.Of(journal.ForeignKey), d.Of(journal.Check):
		return d.DeleteSQL() + "; -- after the handover add that constraint as it was on the " + string(holder)
	case d.Of(journal.EventTrigger):
		return d.SetSQL(`"O"`) + "; -- an event trigger that fires as usual; D for one that was disabled, R or A for ENABLE REPLICA or ALWAYS"
	}
	return d.DeleteSQL()
}

// journals refuses when a journal has been emptied, or holds what pgbaton has not
// written: inside the pause it would be too late to find out.
func (l *look) journals(ctx context.Context) error {
	for _, side := range []struct {
		Party
		conn *postgres.Session
	}{{l.Holder, l.holder}, {l.Taker, l.taker}} {
		record, err := journal.Read(ctx, side.conn)
		if err != nil {
			return side.Wrap("reading the baton", err)
		}
		lost, err := journal.Lost(ctx, side.conn, record)
		if err != nil {
			return side.Wrap("reading the journal", err)
		}
		if lost {
			l.say(LostText(side.Side), l.lost())
			continue
		}
		found, err := FindDamaged(ctx, side.conn)
		if err != nil {
			return side.Wrap("reading the journal", err)
		}
		for _, d := range found {
			l.say(fmt.Sprintf("%s: %s", side.Side, d), l.mend(d))
		}
	}
	if l.Unselected != "" {
		l.say(UnselectedText(l.Unselected), l.lost())
	}
	closed, err := FindClosed(ctx, l.Holder, l.holder, l.taker)
	if err != nil {
		return err
	}
	if closed != nil { // the fence would save what there is now as what is to come back
		l.say(closed.Error(), closed.Remedy())
		return l.takerOpens(ctx)
	}
	// Of a side that is open nothing is lost with the entry, which would be in the way.
	_, err = fence.Raised(ctx, l.holder)
	if damaged := (*journal.Damaged)(nil); errors.As(err, &damaged) {
		l.say(fmt.Sprintf("%s: %s", l.Holder.Side, damaged), damaged.DeleteSQL())
	} else if err != nil {
		return l.Holder.Wrap("looking for a fence", err)
	}
	if err := l.holderShuts(ctx); err != nil {
		return err
	}
	return l.takerOpens(ctx)
}

// holderShuts tries the holder's fence.
func (l *look) holderShuts(ctx context.Context) error {
	err := fence.Rehearse(ctx, l.holder, l.Holder.Database(), l.Holder.Keeps)
	if postgres.Refused(err) {
		l.say(fmt.Sprintf("the %s could not be fenced: %s", l.Holder.Side, postgres.Describe(err)), mayGrant)
		return nil
	}
	return l.Holder.Wrap("trying the fence", err)
}

// UnselectedText says that no side knows any more what a migration includes.
func UnselectedText(why string) string {
	return "which tables the migration includes is not known any more: " + why
}

// LostText says that a side's journal has been emptied.
func LostText(side postgres.Side) string {
	return fmt.Sprintf("%s: the journal of pgbaton is gone, or was emptied by somebody: what the migration has changed there for its time (replica identities, triggers, grants on the database) is not known any more", side)
}

// takerOpens reads what the taker's fence saved, and tries to lift it. The taker does
// not have the baton, so it is fenced.
func (l *look) takerOpens(ctx context.Context) error {
	saved, err := fence.Raised(ctx, l.taker)
	damaged := (*journal.Damaged)(nil)
	if err != nil && !errors.As(err, &damaged) {
		return l.Taker.Wrap("reading what the fence saved", err)
	}
	here, err := fence.Read(ctx, l.holder)
	if err != nil {
		return l.Holder.Wrap("reading the database's grants", err)
	}
	switch {
	case damaged == nil && saved != nil && (letsIn(saved.Grants) || !letsIn(here.Grants)):
		l.opening = saved
		if err := fence.RehearseLift(ctx, l.taker, l.Taker.Database()); postgres.Refused(err) {
			l.say(fmt.Sprintf("the %s could not be opened: %s", l.Taker.Side, postgres.Describe(err)), mayGrant)
		} else if err != nil {
			return l.Taker.Wrap("trying to lift the fence", err)
		}
		return nil
	}
	now, err := fence.Read(ctx, l.taker)
	if err != nil {
		return l.Taker.Wrap("reading the database's grants", err)
	}
	known, _, err := here.Effective(ctx, l.taker, now.Owner)
	if err != nil {
		return l.Taker.Wrap("listing roles", err)
	}
	why := "what the fence saved is gone from the journal"
	switch {
	case damaged != nil:
		why = damaged.Error()
	case saved != nil:
		why = "what the fence saved lets nobody connect"
	}
	known.ReadOnly = "" // of the taker's own nothing is known
	sql, err := known.SaveSQL()
	l.say(fmt.Sprintf("the %s could not be opened: %s", l.Taker.Side, why), sql)
	return err
}

// letsIn says whether a list lets anybody connect.
func letsIn(grants []fence.Grant) bool {
	return slices.ContainsFunc(grants, func(g fence.Grant) bool { return slices.Contains(g.Privileges, "CONNECT") })
}
