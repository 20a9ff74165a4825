package handover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
)

// This file walks along the table: a handover forwards, an abort or the leftovers of a
// dead handover backwards.

// again is the remedy of whatever an earlier handover, or this one behind the pass,
// could not bring to its end.
const again = "remove the cause, and run the same command again: it continues from here"

// undoTimeout bounds the undoing of all phases together: the holder must serve
// again. What could not be undone by then, the guardian goes on trying.
const undoTimeout = 20 * time.Second

// handOver goes through the phases up to the pass, then forward.
func (r *run) handOver(ctx context.Context) (Result, error) {
	defer r.closeWatch()
	for i, p := range table {
		if p.when == behind {
			break
		}
		if p.when == within && r.paused.IsZero() { // from here on someone waits: the budget runs
			var cancel context.CancelFunc
			ctx, cancel = r.startBudget(ctx)
			defer cancel()
		}
		err := r.timed(ctx, p)
		unknown := (*Unknown)(nil)
		switch {
		case err == nil:
		case errors.As(err, &unknown):
			r.guardEnds(false)
			return r.result, err
		case p.when == before && p.later == nil: // ready, which changes nothing
			return r.result, err
		case r.attempt == 0: // nothing was begun
			return r.result, &Aborted{Phase: p.name, Err: err}
		default:
			return r.result, r.abort(ctx, i, because(ctx, err))
		}
	}
	return r.forward(context.WithoutCancel(ctx))
}

func (r *run) startBudget(ctx context.Context) (context.Context, context.CancelFunc) {
	r.paused = time.Now()
	if r.Guard != nil {
		r.Guard.Pausing(r.MaxPause)
	}
	return context.WithDeadlineCause(ctx, r.paused.Add(r.MaxPause),
		fmt.Errorf("the budget of --max-pause %s is used up", r.MaxPause))
}

// because names the reason for which a context ended, in place of "context
// deadline exceeded".
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		if err == nil || errors.Is(err, ctx.Err()) {
			return cause
		}
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}

// timed runs a phase, unless its context has already ended, and reports it.
func (r *run) timed(ctx context.Context, p phase) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	began := time.Now()
	if err := p.do(r, ctx); err != nil {
		return err
	}
	ms := event.MS(time.Since(began))
	r.result.Phases = append(r.result.Phases, PhaseTime{Name: p.name, AtMS: event.MS(began.Sub(r.result.Began)), MS: ms})
	r.Observe(event.PhaseEnded{Phase: p.name, MS: ms})
	return nil
}

// forward completes a handover after the pass. What fails is collected; what
// does not depend on it is done all the same.
func (r *run) forward(ctx context.Context) (Result, error) {
	r.result.Baton = r.Taker.Side
	if r.Guard != nil {
		r.Guard.Passed()
	}
	began := time.Now()
	// Unless the taker is open nothing may point at it.
	if err := r.timed(ctx, row(PhaseOpen)); err != nil {
		r.guardEnds(false)
		return r.result, &AfterPass{Problems: []error{r.Taker.WrapHint("opening the side that has the baton", err, again)}}
	}
	if !r.fenced.IsZero() {
		r.result.DatabasePauseMS = event.MS(time.Since(r.fenced))
	}
	if r.moveTraffic(ctx, began) {
		_ = postgres.Pause(ctx, afterRush) // ctx has no end
	}
	if err := r.timed(ctx, row(PhaseSettle)); err != nil {
		r.problems = append(r.problems, err)
	}
	r.remember(ctx, r.taker)
	r.guardEnds(!r.taker.IsClosed()) // traffic that could not be moved is for a person, a session that was lost for the guardian
	if len(r.problems) > 0 {
		return r.result, &AfterPass{Problems: r.problems}
	}
	return r.result, nil
}

// afterRush is how long settle keeps out of the way of the clients that have just
// been let go: they log in, and work off what has piled up.
const afterRush = 100 * time.Millisecond

// stuck is a phase that could not be taken back, and why.
type stuck struct {
	phase string
	error
}

// takeBack takes phases back, in reverse order: first what must be gone before the
// holder serves, then what has time until nobody waits any more, each within a bound.
// begun says of which something may have been begun. Of a handover whose process is dead
// nothing more is done behind a holder that cannot be made to serve: whoever takes it
// back comes again, or is asked to. Its error is errTakenOver, or that of such a phase.
func (r *run) takeBack(ctx context.Context, begun func(phase) bool, dead bool, bound time.Duration) (left []stuck, err error) {
	var taken []phase
	for _, p := range slices.Backward(table) {
		if p.undo.do == nil && p.later == nil || !begun(p) {
			continue
		}
		taken = append(taken, p)
		if p.undo.do == nil {
			continue
		}
		err := p.undo.do(r, ctx)
		switch {
		case errors.Is(err, errTakenOver):
			return left, err
		case err == nil && p.later == nil && !dead:
			r.Observe(event.PhaseUndone{Phase: p.name})
		case err != nil && p.undo.fails != retried:
			left = append(left, stuck{p.name, err})
			if dead && p.undo.fails == closes && !serves(r.Holder, err) {
				return left, err
			}
		}
	}
	for _, p := range taken {
		if p.later == nil {
			continue
		}
		laterCtx, cancel := context.WithTimeout(ctx, bound)
		err := p.later(r, laterCtx)
		cancel()
		switch {
		case errors.Is(err, errTakenOver):
			return left, err
		case dead: // what is left, the next handover finds
		case err == nil:
			r.Observe(event.PhaseUndone{Phase: p.name})
		default:
			r.Observe(event.Warning{Side: r.Taker.Side, Text: "what was prepared for the way back could not be removed: " + postgres.Describe(err),
				Remedy: "the next handover, finish or reset removes it"})
		}
	}
	return left, nil
}

// abort takes back every phase up to the one that failed. The contexts are its own: the
// budget may be the reason.
func (r *run) abort(ctx context.Context, failed int, cause error) error {
	aborted := &Aborted{Phase: table[failed].name, Err: cause}
	if r.Guard != nil {
		r.Guard.Aborting()
	}
	ctx = context.WithoutCancel(ctx)
	undoCtx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	reached := Phases()[:failed+1]
	left, err := r.takeBack(undoCtx, func(p phase) bool { return slices.Contains(reached, p.name) }, false, undoTimeout)
	for _, s := range left {
		aborted.Lost = append(aborted.Lost, fmt.Errorf("phase %s: %w", s.phase, s.error))
	}
	if err != nil {
		// Whoever took over has undone it, or has gone forward: not our business.
		aborted.Lost = append(aborted.Lost, err)
		if !r.paused.IsZero() {
			_ = r.letGoLate(ctx) // who took over is responsible; this only helps
		}
		r.guardEnds(true)
		return aborted
	}
	r.result.Aborted, r.result.Reason = aborted.Phase, postgres.Describe(cause)
	if len(aborted.Lost) == 0 {
		r.remember(ctx, r.holder)
	}
	r.guardEnds(len(aborted.Lost) == 0)
	return aborted
}

// undoLeftovers takes back what a handover that died before the pass has left:
// the holder must serve, also if this run is refused.
func (r *run) undoLeftovers(ctx context.Context) error {
	found := map[string]bool{}
	for _, p := range rows(within) {
		if p.left == nil {
			continue
		}
		var err error
		if found[p.name], err = p.left(r, ctx); err != nil {
			return err
		}
	}
	if !found[PhasePause] { // which comes first, and goes last
		return nil
	}
	closed, err := FindClosed(ctx, r.Holder, r.holder, r.taker)
	if err != nil {
		return err
	}
	if r.attempt, err = journal.RaiseAttempt(ctx, r.holder, r.by); err != nil {
		return r.Holder.Wrap("taking over an earlier handover", err)
	}
	if closed == nil {
		r.Observe(event.Warning{Side: r.Holder.Side,
			Text: "an earlier handover died before the pass; it is undone first: the fence is lifted and traffic resumed"})
	}
	left, err := r.takeBack(ctx, func(p phase) bool { return found[p.name] }, true, undoTimeout)
	if errors.Is(err, errTakenOver) {
		return err
	}
	var errs []error
	for _, s := range left {
		if refused := (*refusal.Refusal)(nil); len(left) == 1 && errors.As(s.error, &refused) {
			return s.error // a refusal stays one
		}
		errs = append(errs, r.Holder.WrapHint("undoing an earlier handover", s.error, again))
	}
	return errors.Join(errs...)
}

// undoDead is the guardian's: it takes back every phase before the pass of which a
// process that is gone may have begun something.
func (r *run) undoDead(ctx context.Context) error {
	left, err := r.takeBack(ctx, func(p phase) bool {
		if p.left == nil {
			return true
		}
		begun, err := p.left(r, ctx)
		return begun || err != nil // what is wrong, taking it back tells
	}, true, streamTimeout)
	if errors.Is(err, errTakenOver) {
		return err
	}
	var errs []error
	for _, s := range left {
		errs = append(errs, r.Holder.Wrap("taking back phase "+s.phase, s.error))
	}
	if err == nil && len(errs) > 0 {
		return &TrafficHeld{errors.Join(errs...)}
	}
	return errors.Join(errs...)
}

// leftFenced says whether the holder is fenced, also by a fence that cannot be lifted.
func (r *run) leftFenced(ctx context.Context) (bool, error) {
	closed, err := FindClosed(ctx, r.Holder, r.holder, r.taker)
	if err != nil || closed != nil {
		return closed != nil, err
	}
	saved, err := fence.Raised(ctx, r.holder)
	return saved != nil, r.Holder.Wrap("looking for a fence", err)
}

// leftPaused says whether traffic is held back, or was about to be.
func (r *run) leftPaused(ctx context.Context) (bool, error) {
	if fenced, err := r.leftFenced(ctx); err != nil || fenced {
		return fenced, err
	}
	paused, err := ReadPaused(ctx, r.holder)
	return paused != nil, r.Holder.Wrap("reading the journal", err)
}

// leftStream says whether the stream may have been ended.
func (r *run) leftStream(ctx context.Context) (bool, error) {
	if fenced, err := r.leftFenced(ctx); err != nil || fenced {
		return fenced, err
	}
	left, err := StreamLeft(ctx, r.holder)
	return left, r.Holder.Wrap("reading the journal", err)
}

// guardEnds dismisses the guardian, or leaves to it what is not finished.
func (r *run) guardEnds(finished bool) {
	if r.Guard != nil {
		r.Guard.End(finished)
		r.Guard = nil
	}
}
