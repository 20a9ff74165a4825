// Package handover passes the baton from the side that holds it to the other,
// direction-free. The contract it keeps:
//
//   - At no time can applications write on both sides.
//   - Every write that was acknowledged on the holder is on the taker before the
//     taker is opened.
//   - Before the pass, one commit on the holder, every failure leads back: the
//     holder serves again. After it, only forward.
package handover

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/traffic"
)

// Party is one side of a handover.
type Party struct {
	*postgres.Server
	Keeps []string       // roles that keep CONNECT while this side is fenced
	Reach postgres.Reach // how the other side's server reaches this one
}

// Config is what a handover needs to know.
type Config struct {
	Migration     string            // its name
	Label         string            // what names carry, see [journal.Label]
	Selection     catalog.Selection // what the migration includes
	Unselected    string            // why that is not known any more; "" when it is
	Command       string            // for people: switchover or rollback
	Holder, Taker Party
	Groups        []replication.Group // those that stream from holder to taker
	Back          replication.Group   // the way back, from taker to holder
	NoRollback    bool                // no way back is wanted
	MaxPause      time.Duration       // budget for pause to resume
	Traffic       traffic.Mover
	Guard         Guard // nil: nobody stands by
	Observe       event.Observer
}

// Phase names, in order; ready, prepare and settle are outside the pause.
const (
	PhaseReady     = "ready"
	PhasePrepare   = "prepare"
	PhasePause     = "pause"
	PhaseFence     = "fence"
	PhaseDrain     = "drain"
	PhaseSequences = "sequences"
	PhaseWayBack   = "way back"
	PhasePass      = "pass"
	PhaseOpen      = "open"
	PhaseSwitch    = "switch"
	PhaseResume    = "resume"
	PhaseSettle    = "settle"
)

// Phases lists the phases in order.
var Phases = []string{PhaseReady, PhasePrepare, PhasePause, PhaseFence, PhaseDrain, PhaseSequences, PhaseWayBack,
	PhasePass, PhaseOpen, PhaseSwitch, PhaseResume, PhaseSettle}

// run is one handover in progress.
type run struct {
	Config
	holder, taker         *postgres.Session // the sessions that hold the lock on either side
	holderSide, takerSide side              // for what runs beside the drain
	id                    string            // of the migration
	by                    string            // this process, as the journal names it
	title                 string            // of refusals: the command that a person ran
	attempt               int64
	blind                 bool  // the holder was out of reach once: others may have acted without it
	generation            int64 // that the holder took
	sequences             []catalog.Sequence
	preset                map[replication.SequenceValue]bool // what the taker's sequences are set to already
	values                []replication.SequenceValue        // of the holder's, behind the fence
	configs               []configRows                       // of extensions
	result                Result
	backPoint             postgres.LSN    // where the slot of the way back begins
	lookable              map[string]bool // what stands before the holder: whether it could be looked through
	took                  bool            // the baton was taken in this run
	without               without         // what the taker does without while it receives
	opening               *fence.Saved    // what the taker's fence saved, as ready has read it; nil before
	closed                *fence.Saved    // what the holder's fence saved, in this run; nil before
	paused                time.Time       // zero until someone waits
	fenced                time.Time       // zero until the fence is being raised
	problems              []error         // after the pass
	doing                 atomic.Value    // string: what the phase is at, for tell
}

// phase is one step of the handover: data, with its own undo.
type phase struct {
	name string
	do   func(context.Context) error
	undo func(context.Context) error // nil: nothing to undo
}

// again is the remedy of whatever an earlier handover, or this one behind the pass,
// could not bring to its end.
const again = "remove the cause, and run the same command again: it continues from here"

// undoTimeout bounds the undoing of all phases together: the holder must serve
// again. What could not be undone by then, the guardian goes on trying.
const undoTimeout = 20 * time.Second

func newRun(c Config, holder, taker *postgres.Session) *run {
	return &run{Config: c, holder: holder, taker: taker, by: rand.Text(), title: c.Command, result: Result{
		Command: c.Command, Baton: c.Holder.Side, From: c.Holder.Side, To: c.Taker.Side, Began: time.Now(), Phases: []PhaseTime{}}}
}

// Run hands over. It must hold the operator's lock on both sides through the
// sessions given, which it uses for fence, pass and unfence (DESIGN rule 2).
// What an earlier handover left, of either direction, is undone or completed
// first. Its error is a *refusal.Refusal, *Aborted, *AfterPass, *Unknown, or one
// from before anything was done.
func Run(ctx context.Context, c Config, holder, taker *postgres.Session) (Result, error) {
	r := newRun(c, holder, taker)
	passed, err := r.begin(ctx)
	var damaged *journal.Damaged
	var closed *Closed
	switch {
	case errors.As(err, &closed):
		err = refusal.New(c.Command, closed.Error(), closed.Remedy())
	case errors.As(err, &damaged):
		err = refusal.New(c.Command, err.Error(), r.mend(damaged))
	}
	if err != nil {
		return r.result, err
	}
	if passed {
		return r.forward(context.WithoutCancel(ctx))
	}
	return r.handOver(ctx)
}

// begin reads the baton, after making sure that no earlier process can move it,
// and undoes what a handover that died before the pass has left. passed says that
// the taker has the baton already: only forward from here.
func (r *run) begin(ctx context.Context) (passed bool, err error) {
	here, there, err := r.judge(ctx)
	switch {
	case err != nil:
		return false, err
	case here.Took:
		return false, r.undoLeftovers(ctx)
	}
	r.generation-- // the one that the holder took
	r.result.Resumed = true
	if !there.Took {
		return true, nil
	}
	// A handover in the other direction may have died: its holder is our taker.
	other := newRun(r.Config.reversed(), r.taker, r.holder)
	other.id, other.generation = there.ID, there.Generation
	err = other.undoLeftovers(ctx)
	// Of a taker that stays closed open tells: the baton has passed.
	if closed := (*Closed)(nil); !errors.As(err, &closed) && err != nil {
		return false, err
	}
	r.taker = other.holder // it may have been replaced
	return true, nil
}

// judge reads both sides' records, and refuses unless one of them says that a
// handover from holder to taker can begin, or has passed.
func (r *run) judge(ctx context.Context) (here, there *journal.Record, err error) {
	if here, err = r.readRecord(ctx, r.Holder, r.holder); err != nil {
		return nil, nil, err
	}
	if there, err = r.readRecord(ctx, r.Taker, r.taker); err != nil {
		return nil, nil, err
	}
	r.id, r.generation = here.ID, here.Generation
	switch {
	case here.Took && there.Took:
		err = fmt.Errorf("both sides believe to have the baton, in generations %d and %d; run the same command again: the first thing it does is to fence the lower one", here.Generation, there.Generation)
	case here.Took:
	case here.HandedOver && there.Generation > here.Generation:
		err = refusal.New(r.Command, fmt.Sprintf("the %s has handed the baton over and the %s has not taken it yet", r.Taker.Side, r.Holder.Side),
			"run the command of that handover again: it completes it")
	case !here.HandedOver:
		err = refusal.New(r.Command, fmt.Sprintf("the %s never had the baton", r.Holder.Side), "pgbaton status shows where it is")
	}
	return here, there, err
}

// Look refuses a handover that could not begin, with all reasons, or shows its
// forecast. It makes nobody wait. Where an earlier handover is to be undone or
// completed first nothing can be said of the next.
func Look(ctx context.Context, c Config, holder, taker *postgres.Session) error {
	r := newRun(c, holder, taker)
	here, _, err := r.judge(ctx)
	if err != nil || !here.Took {
		return err
	}
	closed, err := FindClosed(ctx, r.Holder, r.holder, r.taker)
	if err != nil {
		return err
	}
	if closed != nil {
		return refusal.New(r.Command, closed.Error(), closed.Remedy())
	}
	saved, err := fence.Raised(ctx, r.holder)
	damaged := (*journal.Damaged)(nil)
	if errors.As(err, &damaged) {
		return r.ready(ctx) // it says what
	}
	if err != nil || saved != nil {
		return postgres.Wrap(r.Holder.Side, "looking for a fence", err)
	}
	paused, err := ReadPaused(ctx, r.holder)
	if errors.As(err, &damaged) {
		return r.ready(ctx)
	}
	if err != nil || paused != nil {
		return postgres.Wrap(r.Holder.Side, "reading the journal", err)
	}
	return r.ready(ctx)
}

func (r *run) readRecord(ctx context.Context, p Party, conn *postgres.Session) (*journal.Record, error) {
	record, err := journal.Read(ctx, conn)
	if err == nil && record == nil {
		err = errors.New("it has no record of the migration")
	}
	return record, p.Wrap("reading the baton", err)
}

// reversed is the handover in the other direction.
func (c Config) reversed() Config {
	c.Holder, c.Taker = c.Taker, c.Holder
	back := c.Groups[0]
	back.Number = 1 // a way back is one group
	c.Groups, c.Back = []replication.Group{c.Back}, back
	return c
}

// undoLeftovers takes back what a handover that died before the pass has left:
// the holder must serve, also if this run is refused.
func (r *run) undoLeftovers(ctx context.Context) error {
	closed, err := FindClosed(ctx, r.Holder, r.holder, r.taker)
	if err != nil {
		return err
	}
	fenced := closed != nil
	if closed == nil {
		saved, err := fence.Raised(ctx, r.holder)
		if err != nil {
			return r.Holder.Wrap("looking for a fence", err)
		}
		fenced = saved != nil
	}
	paused, err := ReadPaused(ctx, r.holder)
	if err != nil || !fenced && paused == nil {
		return r.Holder.Wrap("reading the journal", err)
	}
	if r.attempt, err = journal.RaiseAttempt(ctx, r.holder, r.by); err != nil {
		return r.Holder.Wrap("taking over an earlier handover", err)
	}
	if closed == nil {
		r.Observe(event.Warning{Side: string(r.Holder.Side),
			Text: "an earlier handover died before the pass; it is undone first: the fence is lifted and traffic resumed"})
	}
	if fenced {
		if err := r.undoWayBack(ctx); errors.Is(err, errTakenOver) {
			return err // what else it may be, flowAgain tells
		}
	}
	var ajar error
	if fenced {
		if ajar = r.Holder.WrapHint("undoing an earlier handover", r.undoFence(ctx), again); ajar != nil && !serves(r.Holder, ajar) {
			return ajar
		}
	}
	held := r.canLetGo(paused)
	if held == nil {
		held = r.Holder.WrapHint("undoing an earlier handover", r.undoPause(ctx), again)
	}
	if fenced {
		if err := r.flowAgain(ctx); err != nil {
			return err
		}
	}
	if ajar == nil {
		return held // a refusal stays one
	}
	return errors.Join(ajar, held)
}

// handOver goes through the phases up to the pass, then forward.
func (r *run) handOver(ctx context.Context) (Result, error) {
	defer r.closeWatch()
	if err := r.timed(ctx, phase{name: PhaseReady, do: r.ready}); err != nil {
		return r.result, err
	}
	prepare := phase{PhasePrepare, r.prepare, r.undoPrepare}
	if err := r.timed(ctx, prepare); err != nil {
		if r.attempt == 0 { // nothing was begun
			return r.result, &Aborted{Phase: PhasePrepare, Err: err}
		}
		return r.result, r.abort(ctx, PhasePrepare, err, []phase{prepare})
	}
	// From here on someone waits: the budget runs.
	r.paused = time.Now()
	if r.Guard != nil {
		r.Guard.Pausing(r.MaxPause)
	}
	budget, cancel := context.WithDeadlineCause(ctx, r.paused.Add(r.MaxPause),
		fmt.Errorf("the budget of --max-pause %s is used up", r.MaxPause))
	defer cancel()
	phases := []phase{
		prepare,
		{PhasePause, r.pause, r.undoPause},
		{PhaseFence, r.fence, r.undoFence},
		{PhaseDrain, r.drain, nil},
		{PhaseSequences, r.setSequences, nil},
		{PhaseWayBack, r.wayBack, r.undoWayBack},
	}
	for i, p := range phases[1:] {
		if err := r.timed(budget, p); err != nil {
			return r.result, r.abort(ctx, p.name, because(budget, err), phases[:i+2])
		}
	}
	if err := r.timed(budget, phase{name: PhasePass, do: r.pass}); err != nil {
		var unknown *Unknown
		if errors.As(err, &unknown) {
			r.guardEnds(false)
			return r.result, err
		}
		return r.result, r.abort(ctx, PhasePass, because(budget, err), phases)
	}
	return r.forward(context.WithoutCancel(ctx))
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

// abort undoes, in reverse order, every phase that was begun. The contexts are
// its own: the budget may be the reason.
func (r *run) abort(ctx context.Context, name string, cause error, begun []phase) error {
	aborted := &Aborted{Phase: name, Err: cause}
	begun = slices.Clone(begun)
	if begun[len(begun)-1].name == PhaseWayBack { // the stream was ended: it flows again when nobody waits any more
		begun = slices.Insert(begun, 1, phase{name: PhaseWayBack, undo: r.flowAgain})
	}
	if r.Guard != nil {
		r.Guard.Aborting()
	}
	undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for i := len(begun) - 1; i >= 0; i-- {
		if begun[i].undo == nil {
			continue
		}
		err := begun[i].undo(undoCtx)
		switch {
		case errors.Is(err, errTakenOver):
			// Whoever took over has undone it, or has gone forward: not our business.
			aborted.Lost = append(aborted.Lost, err)
			if !r.paused.IsZero() {
				_ = r.letGoLate(context.WithoutCancel(ctx)) // who took over is responsible; this only helps
			}
			r.guardEnds(true)
			return aborted
		case err != nil && begun[i].name == PhaseWayBack:
			continue // the holder serves all the same; flowAgain tries once more, and tells
		case begun[i].name == PhaseWayBack && i > 1:
			continue // half of it
		case err != nil && begun[i].name == PhasePrepare:
			r.Observe(event.Warning{Side: string(r.Taker.Side), Text: "what was prepared for the way back could not be removed: " + postgres.Describe(err),
				Remedy: "the next handover, finish or reset removes it"})
			continue
		case err != nil:
			aborted.Lost = append(aborted.Lost, fmt.Errorf("phase %s: %w", begun[i].name, err))
			continue
		}
		r.Observe(event.PhaseUndone{Phase: begun[i].name})
		if begun[i].name == PhasePause {
			r.result.PauseMS = event.MS(time.Since(r.paused))
		}
	}
	r.result.Aborted, r.result.Reason = name, postgres.Describe(cause)
	if len(aborted.Lost) == 0 {
		r.remember(ctx, r.holder)
	}
	r.guardEnds(len(aborted.Lost) == 0)
	return aborted
}

func (r *run) warnStream(err error) {
	remedy := "pgbaton resume, when the " + string(r.Taker.Side) + " is back"
	if gap := (*gapError)(nil); errors.As(err, &gap) {
		remedy = r.lost()
	}
	r.Observe(event.Warning{Side: string(r.Taker.Side), Text: "the subscription could not be enabled again: " + postgres.Describe(err), Remedy: remedy})
}

// guardEnds dismisses the guardian, or leaves to it what is not finished.
func (r *run) guardEnds(finished bool) {
	if r.Guard != nil {
		r.Guard.End(finished)
		r.Guard = nil
	}
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
	if err := r.timed(ctx, phase{name: PhaseOpen, do: r.open}); err != nil {
		r.guardEnds(false)
		return r.result, &AfterPass{Problems: []error{r.Taker.WrapHint("opening the side that has the baton", err, again)}}
	}
	if !r.fenced.IsZero() {
		r.result.DatabasePauseMS = event.MS(time.Since(r.fenced))
	}
	if r.moveTraffic(ctx, began) {
		_ = postgres.Pause(ctx, afterRush) // ctx has no end
	}
	if err := r.timed(ctx, phase{name: PhaseSettle, do: r.settle}); err != nil {
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

// timed runs a phase, unless its context has already ended, and reports it.
func (r *run) timed(ctx context.Context, p phase) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	began := time.Now()
	if err := p.do(ctx); err != nil {
		return err
	}
	ms := event.MS(time.Since(began))
	r.result.Phases = append(r.result.Phases, PhaseTime{Name: p.name, AtMS: event.MS(began.Sub(r.result.Began)), MS: ms})
	r.Observe(event.PhaseEnded{Phase: p.name, MS: ms})
	return nil
}

// Route is where the handover moves traffic.
func (c Config) Route() traffic.Route {
	return traffic.Route{Migration: c.Migration, From: endpoint(c.Holder), To: endpoint(c.Taker)}
}

func endpoint(p Party) traffic.Endpoint {
	return traffic.Endpoint{Side: p.Side, Host: p.Host(), Port: p.Port(), Database: p.Database(), Major: p.Version().Major()}
}

func (r *run) closeWatch() {
	for _, s := range r.sides() {
		if s.watch != nil {
			s.watch.Close(context.Background())
		}
	}
}
