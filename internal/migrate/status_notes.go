package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"pgbaton/internal/fence"
	"pgbaton/internal/handover"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// This file has the part of status that tells what the journals say, and what is wrong
// with them.

// noteClosed says how a side is opened, or made ready to be opened, whose journal does
// not tell any more how it was open.
func (r *reader) noteClosed() {
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		closed := r.sideStatus(side).closed
		switch {
		case closed == nil:
		case side == r.baton.Side && !r.baton.Passed: // applications wait
			r.note(closed.Error(), closed.Remedy())
		case side == r.baton.Side:
			r.note(closed.Error(), "pgbaton "+Handover{To: side}.command()+", run again, says with which statements it is opened")
		default:
			r.note(closed.Error(), "it stays closed as it should; pgbaton rehearse says with which statement it can be opened by a handover")
		}
	}
}

// readDamaged says which entries of the journals somebody has damaged: handovers refuse
// them, and status goes on without what they would tell.
func (r *reader) readDamaged(ctx context.Context) error {
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		conn := r.conn(side)
		if conn == nil {
			continue
		}
		found, err := handover.FindDamaged(ctx, conn)
		if err != nil {
			return r.Config.Server(side).Wrap("reading the journal", err)
		}
		for _, d := range found {
			if !d.Of(journal.Slot) || !r.suspect[d.Key] { // then it has been said
				r.isDamaged(side, d)
			}
		}
	}
	return nil
}

// isDamaged says whether an error is that of a damaged entry, and notes it once.
func (r *reader) isDamaged(side postgres.Side, err error) bool {
	var d *journal.Damaged
	if !errors.As(err, &d) {
		return false
	}
	text := fmt.Sprintf("%s: %s", side, d)
	if !r.damaged[text] {
		if r.damaged == nil {
			r.damaged = map[string]bool{}
		}
		r.damaged[text] = true
		r.note(text, handover.MendDamaged(d, r.baton.Side, r.baton.Generation))
	}
	return true
}

// unlessDamaged is an error, but for that of a damaged entry, which is noted.
func (r *reader) unlessDamaged(side postgres.Side, err error) error {
	if r.isDamaged(side, err) {
		return nil
	}
	return err
}

// readNotes says what handovers left for a person to know.
func (r *reader) readNotes(ctx context.Context) error {
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		conn := r.conn(side)
		note, err := handover.ReadGuardianNote(ctx, conn)
		if err = r.unlessDamaged(side, err); err != nil {
			return r.Config.Server(side).Wrap("reading the journal", err)
		}
		if note != nil {
			r.note(fmt.Sprintf("%s: %s", note.At.Format(time.RFC3339), note.Text), "the next handover removes this note")
		}
		stale, err := handover.ReadStale(ctx, conn)
		if err = r.unlessDamaged(side, err); err != nil {
			return r.Config.Server(side).Wrap("reading the journal", err)
		}
		if stale != nil {
			r.note(fmt.Sprintf("the %s came back after the %s had been given the baton by force: it was fenced at %s, and what it had not sent is only there",
				side, side.Other(), stale.Format(time.RFC3339)), "there is no way back; look there for what is missing, then pgbaton finish")
		}
		if err := r.noteViews(ctx, side); err != nil {
			return err
		}
	}
	return nil
}

// readTraffic says what a handover that died has left in the way of traffic.
func (r *reader) readTraffic(ctx context.Context) error {
	conn, side := r.publisher(), r.baton.Side
	if conn == nil || r.Working {
		return nil
	}
	next := Handover{To: side.Other()}.command() // the one that side can begin
	paused, err := handover.ReadPaused(ctx, conn)
	if err = r.unlessDamaged(side, err); err != nil {
		return r.Config.Server(side).Wrap("reading the journal", err)
	}
	waiting, err := handover.TrafficWaits(ctx, conn)
	if err = r.unlessDamaged(side, err); err != nil {
		return r.Config.Server(side).Wrap("reading the journal", err)
	}
	arrival, err := handover.ReadArrival(ctx, conn)
	if err = r.unlessDamaged(side, err); err != nil {
		return r.Config.Server(side).Wrap("reading the journal", err)
	}
	now, err := fence.Read(ctx, conn)
	if err != nil {
		return r.Config.Server(side).Wrap("reading the database's grants", err)
	}
	switch {
	case r.sideStatus(side).closed != nil:
		r.Unfinished = next
	case r.sideStatus(side).Fenced && !now.Shut(r.holderKeeps(side)):
		r.died(fmt.Sprintf("a handover was aborted, and the %s could not be opened to all as before", side), next, ", says with which statements it is opened")
	case r.sideStatus(side).Fenced:
		r.died(fmt.Sprintf("the %s is fenced: a handover died before the pass, and applications cannot write", side), next, ", undoes or completes it")
	case paused != nil:
		text := "a handover died while it held traffic back"
		if len(paused.By) > 0 {
			text += ": " + strings.Join(paused.By, ", ")
		}
		r.died(text, next, " with the same traffic options, lets it go and hands over")
	case waiting:
		r.died(fmt.Sprintf("the %s is open, but traffic has not been moved to it", side), Handover{To: side}.command(), ", moves it")
	case arrival != nil:
		text := fmt.Sprintf("traffic was let go to the %s, and has not been seen to arrive there", side)
		if arrival.Why != "" {
			text += ": " + arrival.Why
		}
		r.died(text, Handover{To: side}.command(), " with the same traffic options, looks once more, and moves what leads elsewhere")
	}
	return nil
}
