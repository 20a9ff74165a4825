package migrate

import (
	"context"
	"fmt"
	"time"

	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/handover"
	"pgbaton/internal/journal"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/traffic"
)

// Handover is what a switchover or a rollback was told.
type Handover struct {
	To         postgres.Side
	MaxPause   time.Duration
	NoRollback bool
	Traffic    traffic.Mover
	Guard      handover.Guard
}

// command names it for people.
func (h Handover) command() string {
	if h.To == postgres.Source {
		return "rollback"
	}
	return "switchover"
}

// HandOver hands the baton to a side, or completes an earlier handover to it that
// died.
func (m *Migration) HandOver(ctx context.Context, h Handover) (handover.Result, error) {
	c, s := m.Config, m.Sessions
	if err := m.operate(ctx, h.command()); err != nil {
		return handover.Result{}, err
	}
	source, target, err := s.records(ctx, c)
	if err != nil {
		return handover.Result{}, err
	}
	if source == nil || target == nil {
		return handover.Result{}, refusal.New(h.command(), "there is no migration between these databases", "pgbaton start")
	}
	if err := copyComplete(ctx, s, h.To, source, h.command()); err != nil {
		return handover.Result{}, err
	}
	return handover.Run(ctx, c.handover(h), s.conn(h.To.Other()), s.conn(h.To))
}

// Look refuses a handover that could not begin, with all reasons, or shows its
// forecast. What an earlier handover has left is left to HandOver.
func (m *Migration) Look(ctx context.Context, h Handover) error {
	c, s := m.Config, m.Sessions
	if err := m.operate(ctx, h.command()); err != nil {
		return err
	}
	source, target, err := s.records(ctx, c)
	if err != nil {
		return err
	}
	if source == nil || target == nil {
		return refusal.New(h.command(), "there is no migration between these databases", "pgbaton start")
	}
	if err := copyComplete(ctx, s, h.To, source, h.command()); err != nil {
		return err
	}
	return handover.Look(ctx, c.handover(h), s.conn(h.To.Other()), s.conn(h.To))
}

// Copying is the refusal of what needs a complete copy.
type Copying struct{ *refusal.Refusal }

// Unwrap implements errors.Unwrap.
func (c *Copying) Unwrap() error { return c.Refusal }

// copyComplete refuses what needs a complete start: all else that is missing by then
// is no reason of its own.
func copyComplete(ctx context.Context, s *Sessions, to postgres.Side, source *journal.Record, command string) error {
	if to == postgres.Source || source.Generation > 0 || source.HandedOver {
		return nil
	}
	l, complete, err := loadedEntry.Get(ctx, s.TargetConn)
	for _, name := range l.Slots {
		if err != nil || !complete {
			break
		}
		var sub *replication.Subscription
		if sub, err = replication.ReadSubscription(ctx, s.TargetConn, name); err == nil && sub == nil {
			// One that was there and was dropped no start can complete: the stream is suspect.
			complete, err = replication.WasRead(ctx, s.SourceConn, name)
		}
	}
	if err == nil && !complete {
		err = &Copying{refusal.New(command, "the copy is not complete", "pgbaton start, run again, continues it")}
	}
	return postgres.Wrap(postgres.Target, "looking whether the copy is complete", err)
}

// TakeOver is the guardian's: see [handover.TakeOver].
func TakeOver(ctx context.Context, c Config, h Handover, w *handover.Ward, kill func(), why string) error {
	_, err := handover.TakeOver(ctx, c.handover(h), w, kill, why)
	return err
}

// lostHolder refuses to do without a holder that is there. The sessions must be
// locked.
func (s *Sessions) lostHolder(h Handover) error {
	if s.conn(h.To) == nil {
		return s.err(h.To)
	}
	if s.conn(h.To.Other()) != nil {
		return refusal.New(h.command(), fmt.Sprintf("the %s answers: it is not lost", h.To.Other()),
			"pgbaton "+h.command()+" without --holder-lost loses nothing")
	}
	return nil
}

// unfinished says whether a side that took the baton is still closed, or traffic
// has not been moved to it, or not been seen to arrive.
func (s *Sessions) unfinished(ctx context.Context, side postgres.Side) bool {
	saved, err := fence.Raised(ctx, s.conn(side))
	waiting, waitErr := handover.TrafficWaits(ctx, s.conn(side))
	arrival, arrivalErr := handover.ReadArrival(ctx, s.conn(side))
	return err != nil || waitErr != nil || arrivalErr != nil || saved != nil || waiting || arrival != nil
}

// LastWord is the last that the side to be opened knows of a holder that is lost.
func (m *Migration) LastWord(ctx context.Context, h Handover) (handover.LastWord, error) {
	c, s := m.Config, m.Sessions
	if err := s.lostHolder(h); err != nil {
		return handover.LastWord{}, err
	}
	if _, _, err := s.records(ctx, c); err != nil {
		return handover.LastWord{}, err
	}
	record, err := journal.Read(ctx, s.conn(h.To))
	switch {
	case err == nil && record == nil:
		err = refusal.New(h.command(), "there is no migration here", "pgbaton start")
	case err == nil && record.Took && !s.unfinished(ctx, h.To):
		err = refusal.New(h.command(), fmt.Sprintf("the %s has the baton already", h.To), "pgbaton status; pgbaton finish, run again when the other side is back, cleans it")
	}
	if err != nil {
		return handover.LastWord{}, err
	}
	if h.To == postgres.Target && record.Generation == 0 {
		// A copy that never was complete must not become the only one.
		if _, ok, err := loadedEntry.Get(ctx, s.TargetConn); err != nil || !ok {
			if err == nil {
				err = refusal.New(h.command(), "the copy was never complete: the target is not a database to go on with", "restore a backup of the source")
			}
			return handover.LastWord{}, err
		}
	}
	return handover.ReadLastWord(ctx, c.handover(h), s.conn(h.To))
}

// TakeByForce opens a side whose holder is lost, if all is still as LastWord said.
func (m *Migration) TakeByForce(ctx context.Context, h Handover) (handover.Result, error) {
	c, s := m.Config, m.Sessions
	if _, err := m.LastWord(ctx, h); err != nil {
		return handover.Result{}, err
	}
	if err := m.lock(ctx); err != nil {
		return handover.Result{}, err
	}
	if err := s.lostHolder(h); err != nil {
		return handover.Result{}, err
	}
	return handover.TakeByForce(ctx, c.handover(h), s.conn(h.To))
}

// fenceStale keeps out a side that came back although the other was given the
// baton by force: the first command that sees it does.
func fenceStale(ctx context.Context, c Config, s *Sessions) error {
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		party := c.handover(Handover{To: side}).Taker
		if _, err := handover.FenceStale(ctx, party, c.label, s.conn(side), s.conn(side.Other()), c.Observe); err != nil {
			return err
		}
	}
	return nil
}

// Rehearse measures the handover that the side with the baton would begin.
func (m *Migration) Rehearse(ctx context.Context, h Handover) (handover.Rehearsal, error) {
	c, s := m.Config, m.Sessions
	if err := m.operate(ctx, "rehearse"); err != nil {
		return handover.Rehearsal{}, err
	}
	source, target, err := s.records(ctx, c)
	if err != nil {
		return handover.Rehearsal{}, err
	}
	if source == nil || target == nil {
		return handover.Rehearsal{}, refusal.New("rehearse", "there is no migration between these databases", "pgbaton start")
	}
	b, _ := journal.Decide(source, target)
	h.To = b.Side.Other()
	if err := copyComplete(ctx, s, h.To, source, "rehearse"); err != nil {
		return handover.Rehearsal{}, err
	}
	return handover.Rehearse(ctx, c.handover(h), s.conn(b.Side), s.conn(h.To))
}

// handover is the configuration of a handover to a side.
func (c Config) handover(h Handover) handover.Config {
	party := func(side postgres.Side) handover.Party {
		return handover.Party{Server: c.Server(side), Keeps: c.holderKeeps(side), Reach: c.reach(side)}
	}
	return handover.Config{
		Migration: c.Name, Label: c.label, Selection: c.Selection, Unselected: c.unselected, Command: h.command(), Holder: party(h.To.Other()), Taker: party(h.To),
		Groups: c.streams(h.To.Other()), Back: c.stream(h.To), NoRollback: h.NoRollback,
		MaxPause: h.MaxPause, Traffic: h.Traffic, Guard: h.Guard, Observe: c.Observe,
	}
}

// Running is the stream that pause or resume was about.
type Running struct {
	Publisher  postgres.Side // keeps WAL for it while it is disabled
	Generation int64         // of the baton; 0: it never passed
	Gone       []string      // its slots that are lost or not there any more: nothing is kept for those
	Lost       string        // the remedy for that
}

// SetRunning is `pgbaton pause` and `pgbaton resume`: it disables or enables the
// subscription of the side without the baton (rule 14).
func (m *Migration) SetRunning(ctx context.Context, run bool) (stream Running, err error) {
	c, s := m.Config, m.Sessions
	command := "pause"
	if run {
		command = "resume"
	}
	if err := m.operate(ctx, command); err != nil {
		return stream, err
	}
	source, target, err := s.records(ctx, c)
	if err != nil {
		return stream, err
	}
	b, known := journal.Decide(source, target)
	if !known || target == nil {
		return stream, refusal.New(command, "there is no subscription yet", "pgbaton start")
	}
	stream.Publisher, stream.Generation, stream.Lost = b.Side, b.Generation, lostRemedy(b)
	if err := handover.NotStale(ctx, command, s.SourceConn, s.TargetConn); err != nil {
		return stream, err
	}
	if b.Passed {
		return stream, refusal.New(command, "the baton has passed, and the "+string(b.Side)+" has not taken it yet", "run the handover's command again: it completes it")
	}
	if err := copyComplete(ctx, s, b.Side.Other(), source, command); err != nil {
		return stream, err
	}
	if run {
		if err := c.whole(ctx, s, b, c.streams(b.Side), command); err != nil {
			return stream, err
		}
		to := b.Side.Other()
		if err := handover.ClearLeft(ctx, c.handover(Handover{To: to}), s.conn(b.Side), s.conn(to)); err != nil {
			return stream, m.Server(to).Wrap("removing what an aborted handover has left", err)
		}
	}
	for _, g := range c.streams(b.Side) {
		gone, err := setRunning(ctx, c, s, b, g, command, run)
		if err != nil {
			return stream, err
		}
		if gone {
			stream.Gone = append(stream.Gone, g.Name())
		}
	}
	if err := handover.ForgetStream(ctx, s.conn(b.Side)); err != nil || !run {
		return stream, m.Server(b.Side).Wrap("writing the journal", err)
	}
	return stream, refresh(ctx, c, s)
}

// setRunning disables or enables one group's subscription. gone says that nothing
// keeps WAL for it.
func setRunning(ctx context.Context, c Config, s *Sessions, b journal.Baton, g replication.Group, command string, run bool) (gone bool, err error) {
	publisher, subscriber, name := b.Side, b.Side.Other(), g.Name()
	sub, err := replication.ReadSubscription(ctx, s.conn(subscriber), name)
	switch {
	case err != nil:
		return false, c.Server(subscriber).Wrap("reading the subscription", err)
	case sub == nil && b.Generation > 0:
		return false, refusal.New(command, handover.NoWayBack, "pgbaton finish, when it is not needed")
	case sub == nil:
		return false, refusal.New(command, "there is no subscription yet", "pgbaton start")
	}
	slot, err := replication.ReadSlot(ctx, s.conn(publisher), name)
	if err != nil {
		return false, c.Server(publisher).Wrap("reading the slot", err)
	}
	if run && (slot == nil || slot.Lost) {
		return false, refusal.New(command, fmt.Sprintf("replication slot %s is lost or gone from the %s: what was written since then cannot reach the %s", name, publisher, subscriber),
			lostRemedy(b))
	}
	if run {
		return false, c.Server(subscriber).Wrap(command, replication.LetOn(ctx, s.conn(publisher), s.conn(subscriber), g))
	}
	if sub.Enabled {
		if err := replication.SetEnabled(ctx, s.conn(subscriber), name, false); err != nil {
			return false, c.Server(subscriber).Wrap(command, err)
		}
	} else if gap, err := replication.Gap(ctx, s.conn(publisher), s.conn(subscriber), g); err != nil {
		return false, c.Server(publisher).Wrap("looking for a gap in the stream", err)
	} else if gap != "" {
		c.Observe(event.Warning{Side: publisher, Text: gap, Remedy: lostRemedy(b)})
	}
	return slot == nil || slot.Lost, c.Server(publisher).Wrap("noting where the slot stands", replication.LeaveSlot(ctx, s.conn(publisher), g))
}

// whole refuses to let streams on out of one of which something was left meanwhile.
func (c Config) whole(ctx context.Context, s *Sessions, b journal.Baton, groups []replication.Group, what string) error {
	publisher, subscriber := b.Side, b.Side.Other()
	for _, g := range groups {
		gap, err := replication.Gap(ctx, s.conn(publisher), s.conn(subscriber), g)
		if err != nil {
			return c.Server(publisher).Wrap("looking for a gap in the stream", err)
		}
		if gap != "" {
			return refusal.New(what, gap, lostRemedy(b))
		}
	}
	return nil
}

// lostRemedy says what to do when the stream to the side without the baton is lost.
func lostRemedy(b journal.Baton) string {
	if b.Generation == 0 {
		return "pgbaton reset, then start again; if the server removed the WAL, raise max_slot_wal_keep_size first"
	}
	return "the handover cannot be taken back any more: pgbaton finish"
}

// PlanSwitchover lists what a handover to the target would do, phase by phase.
func (m *Migration) PlanSwitchover(ctx context.Context) ([]plan.Step, error) {
	return handover.Plan(ctx, m.handover(Handover{To: postgres.Target}), m.SourceConn)
}
