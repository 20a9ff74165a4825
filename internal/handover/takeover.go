package handover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/routine"
)

// GuardianNote is what a guardian did, for status to show until the next handover.
type GuardianNote struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// ReadGuardianNote returns the note, nil when there is none.
func ReadGuardianNote(ctx context.Context, conn *postgres.Session) (*GuardianNote, error) {
	if conn == nil {
		return nil, nil
	}
	n, ok, err := guardianEntry.Get(ctx, conn)
	if err != nil || !ok {
		return nil, err
	}
	return &n, nil
}

// forget removes what an earlier handover noted for people.
func forget(ctx context.Context, conn *postgres.Session) error {
	return journal.Clear(ctx, conn, journal.Guardian, journal.Arrived)
}

// Superseded says that a guardian has nothing to do: the migration has moved on
// without it.
type Superseded struct{ Why string }

// Error implements error.
func (s *Superseded) Error() string { return s.Why }

// TrafficHeld says that a guardian has done what keeps the data right, but not all
// that follows: above all, it could not let traffic go, or not everybody in.
type TrafficHeld struct{ Err error }

// Error implements error.
func (t *TrafficHeld) Error() string { return "one side serves, but: " + t.Err.Error() }

// Unwrap implements errors.Unwrap.
func (t *TrafficHeld) Unwrap() error { return t.Err }

// TakeOver is the guardian's: it does for a handover whose process is gone,
// hangs, or is over its budget what that process should have done. In this order:
// the lock session is ended, the lock acquired (that proves it gone), the old
// process killed, the attempt raised, the baton read; then what came before the
// pass is undone, or what comes after it completed; then, for an order of the old
// process that comes late, traffic is looked at once more. When it cannot read the
// baton it returns an error, having changed nothing that a guess could get wrong:
// call it again with the same ward.
func TakeOver(ctx context.Context, c Config, w *Ward, kill func(), why string) (Result, error) {
	c.Groups, c.Selection = w.Groups, w.Selection
	c.Label, c.Back.Label = w.Label, w.Label
	r := newRun(c, nil, nil)
	r.result.Guardian = true
	r.id, r.generation = w.ID, w.Generation
	if w.by == "" {
		w.by = r.by
	}
	r.by = w.by
	err := r.takeOver(ctx, w, kill, why)
	if superseded := (*Superseded)(nil); err != nil && !errors.As(err, &superseded) {
		return r.result, err
	}
	lateErr := postgres.Pause(ctx, lateOrder)
	if lateErr == nil {
		lateErr = r.letGoLate(ctx)
	}
	if err == nil && lateErr != nil {
		err = &TrafficHeld{lateErr}
	}
	return r.result, err
}

func (r *run) takeOver(ctx context.Context, w *Ward, kill func(), why string) error {
	holderErr, takerErr := r.seizeBoth(ctx, w)
	defer func() { r.closeBoth(context.WithoutCancel(ctx)) }()
	if err := errors.Join(holderErr, takerErr); errors.Is(err, errBusy) {
		return err
	}
	kill()
	passed, err := r.readBaton(ctx, w, holderErr, takerErr)
	if err != nil {
		return err
	}
	if passed {
		if r.taker == nil {
			return fmt.Errorf("the baton has passed, and the %s cannot be opened: %w", r.Taker.Side, takerErr)
		}
		r.result.Resumed = true
		result, err := r.forward(ctx)
		if slices.ContainsFunc(result.Phases, func(p PhaseTime) bool { return p.Name == PhaseOpen }) {
			did := "; the guardian completed the handover"
			if err != nil {
				did = "; the guardian opened the " + string(r.Taker.Side) + ", but: " + postgres.Describe(err)
				err = &TrafficHeld{err}
			}
			r.note(ctx, r.taker, why+did)
		}
		return err
	}
	if err := r.undoDead(ctx); err != nil {
		return err
	}
	r.result.Aborted, r.result.Reason = "guardian", why
	r.remember(ctx, r.holder)
	r.note(ctx, r.holder, why+"; the guardian undid the handover: the "+string(r.Holder.Side)+" serves")
	return nil
}

// seizeBoth takes both locks. The taker may be out of reach: the holder does not
// wait for it for long.
func (g *grip) seizeBoth(ctx context.Context, w *Ward) (holderErr, takerErr error) {
	seizing := routine.Start(func() {
		ctx, cancel := context.WithTimeout(ctx, streamTimeout)
		defer cancel()
		g.taker, takerErr = seize(ctx, g.c.Taker.Server, w.TakerPID)
	})
	g.holder, holderErr = seize(ctx, g.c.Holder.Server, w.HolderPID)
	seizing.Wait()
	// Ours now, should this be tried again.
	if g.holder != nil {
		w.HolderPID = pid(g.holder)
	}
	if g.taker != nil {
		w.TakerPID = pid(g.taker)
	}
	return holderErr, takerErr
}

func (g *grip) closeBoth(ctx context.Context) {
	for _, conn := range []*postgres.Session{g.holder, g.taker} {
		if conn != nil {
			conn.Close(ctx)
		}
	}
}

// readBaton raises the attempt, so that no process of the old one can pass the
// baton, and says whether it has passed. It never guesses: without the holder only
// a taker that has taken the baton tells.
func (g *grip) readBaton(ctx context.Context, w *Ward, holderErr, takerErr error) (passed bool, err error) {
	took := false // by the taker, as far as it can be read
	if g.taker != nil {
		record, err := journal.Read(ctx, g.taker)
		switch {
		case err != nil:
			return false, g.c.Taker.Wrap("reading the baton", err)
		case record == nil || record.ID != w.ID || record.Generation > w.Generation+1:
			return false, &Superseded{"the migration has moved on"}
		}
		took = record.Took && record.Generation == w.Generation+1
	}
	switch {
	case g.holder == nil && took:
		return true, nil
	case g.holder == nil:
		w.blind = true
		return false, fmt.Errorf("the baton cannot be read: %w", errors.Join(holderErr, takerErr))
	case g.taker == nil && w.blind:
		// While the holder was away, the taker may have been given the baton by force.
		return false, fmt.Errorf("the baton cannot be read: %w", takerErr)
	}
	record, err := journal.Read(ctx, g.holder)
	if err != nil {
		return false, g.c.Holder.Wrap("reading the baton", err)
	}
	if record == nil || record.ID != w.ID {
		return false, &Superseded{"the migration has moved on"}
	}
	if record.Attempt != w.Attempt {
		if by, err := journal.AttemptBy(ctx, g.holder); err != nil || by != w.by {
			if err == nil {
				err = &Superseded{"the migration has moved on"}
			}
			return false, err
		}
	}
	if took && record.Took { // by force, and the holder has come back: not ours to open
		return false, &Superseded{"the " + string(g.c.Taker.Side) + " has been given the baton by force"}
	}
	if g.attempt, err = journal.RaiseAttempt(ctx, g.holder, g.by); err != nil {
		return false, g.c.Holder.Wrap("taking the handover over", err)
	}
	w.Attempt = g.attempt
	if record, err = journal.Read(ctx, g.holder); err != nil {
		return false, g.c.Holder.Wrap("reading the baton", err)
	}
	switch {
	case record.HandedOver && record.Generation == w.Generation+1:
		return true, nil
	case record.Took && record.Generation == w.Generation:
		return false, nil
	}
	return false, &Superseded{"the migration has moved on"}
}

func (r *run) note(ctx context.Context, conn *postgres.Session, text string) {
	// The work is done; a note that cannot be written is no reason to do it again.
	_ = guardianEntry.Put(ctx, conn, GuardianNote{time.Now().UTC(), text})
}
