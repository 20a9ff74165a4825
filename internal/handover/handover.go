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
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
	"pgbaton/internal/traffic"
)

// Traffic is what holds applications back and points them elsewhere.
type Traffic interface {
	Pause(context.Context, traffic.Route) error
	Switch(context.Context, traffic.Route) error
	Resume(context.Context, traffic.Route) error
	Abort(context.Context, traffic.Route) error
}

// Config is what a handover needs to know.
type Config struct {
	Migration     string
	Holder, Taker *postgres.Server
	Groups        []replication.Group // those that stream from holder to taker
	HolderKeeps   []string            // roles that keep CONNECT on a fenced holder
	MaxPause      time.Duration       // budget for pause to resume
	Traffic       Traffic
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

// Result tells how a handover went. Times are milliseconds.
type Result struct {
	Baton   postgres.Side `json:"baton"`
	PauseMS float64       `json:"pause_ms"` // from the beginning of pause to the end of resume
	Phases  []PhaseTime   `json:"phases"`
	Resumed bool          `json:"resumed,omitempty"` // an earlier handover was completed: the pause was longer than this run
}

// PhaseTime is how long a phase took.
type PhaseTime struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

// Aborted says that the handover was given up before the pass and undone: the
// holder serves again. Exit code 4.
type Aborted struct {
	Phase string
	Err   error
	Lost  []error // what could not be undone; then the holder may not serve yet
}

// Error implements error.
func (a *Aborted) Error() string {
	s := fmt.Sprintf("handover aborted in phase %s: %s", a.Phase, postgres.Describe(a.Err))
	if len(a.Lost) > 0 {
		s += "; and it could not be undone: " + errors.Join(a.Lost...).Error()
	}
	return s
}

// Unwrap implements errors.Unwrap.
func (a *Aborted) Unwrap() error { return a.Err }

// AfterPass says that the baton has passed, but something after it needs
// attention. Exit code 6.
type AfterPass struct {
	Problems []error
}

// Unwrap implements errors.Unwrap.
func (a *AfterPass) Unwrap() []error { return a.Problems }

// Error implements error.
func (a *AfterPass) Error() string {
	return "the baton has passed, but: " + errors.Join(a.Problems...).Error()
}

// Unknown says that the outcome of the pass could not be read. Both sides stay
// fenced. Exit code 7.
type Unknown struct{ Err error }

// Error implements error.
func (u *Unknown) Error() string {
	return "whether the baton has passed could not be read, both sides stay fenced: " + u.Err.Error()
}

// Unwrap implements errors.Unwrap.
func (u *Unknown) Unwrap() error { return u.Err }

// run is one handover in progress.
type run struct {
	Config
	holder, taker *pgx.Conn // the sessions that hold the lock on either side
	// Second sessions, for what runs beside the drain.
	watchHolder, watchTaker *pgx.Conn
	attempt                 int64
	generation              int64 // that the holder took
	sequences               []catalog.Sequence
	result                  Result
	paused                  time.Time
	problems                []error // after the pass
}

// phase is one step of the handover: data, with its own undo.
type phase struct {
	name string
	do   func(context.Context) error
	undo func(context.Context) error // nil: nothing to undo
}

// undoTimeout bounds the undoing of each phase: the holder must serve again.
const undoTimeout = 30 * time.Second

// Run hands over. It must hold the operator's lock on both sides through the
// sessions given, which it uses for fence, pass and unfence (DESIGN rule 2).
// Its error is a *refusal.Refusal, *Aborted, *AfterPass, *Unknown, or one from
// before anything was done.
func Run(ctx context.Context, c Config, holder, taker *pgx.Conn) (Result, error) {
	r := &run{Config: c, holder: holder, taker: taker, result: Result{Baton: c.Holder.Side, Phases: []PhaseTime{}}}
	holderRecord, err := journal.Read(ctx, holder)
	if err != nil {
		return r.result, postgres.Wrap(c.Holder.Side, "reading the baton", err)
	}
	takerRecord, err := journal.Read(ctx, taker)
	if err != nil {
		return r.result, postgres.Wrap(c.Taker.Side, "reading the baton", err)
	}
	if holderRecord == nil || takerRecord == nil {
		return r.result, errors.New("one side has no record of the migration")
	}
	r.generation = holderRecord.Generation
	if holderRecord.HandedOver {
		// An earlier run passed the baton: only forward from here.
		r.generation--
		r.result.Resumed = true
		return r.forward(context.WithoutCancel(ctx))
	}
	if err := r.undoLeftovers(ctx); err != nil {
		return r.result, err
	}
	return r.handOver(ctx)
}

// undoLeftovers takes back what a handover that died before the pass has left:
// the holder must serve, also if this run is refused.
func (r *run) undoLeftovers(ctx context.Context) error {
	saved, err := fence.Raised(ctx, r.holder)
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "looking for a fence", err)
	}
	paused, err := TrafficPaused(ctx, r.holder)
	if err != nil || saved == nil && !paused {
		return postgres.Wrap(r.Holder.Side, "reading the journal", err)
	}
	r.Observe(event.Warning{Side: string(r.Holder.Side),
		Text: "an earlier handover died before the pass; it is undone first: the fence is lifted and traffic resumed"})
	undos := []func(context.Context) error{r.undoPause}
	if saved != nil {
		undos = []func(context.Context) error{r.undoWayBack, r.undoFence, r.undoPause}
	}
	for _, undo := range undos {
		if err := undo(ctx); err != nil {
			return postgres.WrapHint(r.Holder.Side, "undoing an earlier handover", err, "mend this and run the same command again")
		}
	}
	return nil
}

// handOver goes through the phases up to the pass, then forward.
func (r *run) handOver(ctx context.Context) (Result, error) {
	defer r.closeWatch()
	if err := r.timed(ctx, phase{name: PhaseReady, do: r.ready}); err != nil {
		return r.result, err
	}
	if err := r.timed(ctx, phase{name: PhasePrepare, do: r.prepare}); err != nil {
		return r.result, &Aborted{Phase: PhasePrepare, Err: err}
	}
	// From here on someone waits: the budget runs.
	r.paused = time.Now()
	budget, cancel := context.WithDeadlineCause(ctx, r.paused.Add(r.MaxPause),
		fmt.Errorf("the budget of --max-pause %s is used up", r.MaxPause))
	defer cancel()
	phases := []phase{
		{PhasePause, r.pause, r.undoPause},
		{PhaseFence, r.fence, r.undoFence},
		{PhaseDrain, r.drain, nil},
		{PhaseSequences, r.setSequences, nil},
		{PhaseWayBack, r.wayBack, r.undoWayBack},
	}
	for i, p := range phases {
		if err := r.timed(budget, p); err != nil {
			return r.result, r.abort(ctx, p.name, because(budget, err), phases[:i+1])
		}
	}
	if err := r.timed(budget, phase{name: PhasePass, do: r.pass}); err != nil {
		var unknown *Unknown
		if errors.As(err, &unknown) {
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
		return fmt.Errorf("%w (%s)", cause, err)
	}
	return err
}

// abort undoes, in reverse order, every phase that was begun. The contexts are
// its own: the budget may be the reason.
func (r *run) abort(ctx context.Context, name string, cause error, begun []phase) error {
	aborted := &Aborted{Phase: name, Err: cause}
	for i := len(begun) - 1; i >= 0; i-- {
		if begun[i].undo == nil {
			continue
		}
		undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		err := begun[i].undo(undoCtx)
		cancel()
		switch {
		case err != nil && begun[i].name == PhaseWayBack:
			// The holder serves all the same; the taker may be down.
			r.Observe(event.Warning{Side: string(r.Taker.Side), Text: "the subscription could not be enabled again: " + postgres.Describe(err),
				Remedy: "pgbaton resume, when the " + string(r.Taker.Side) + " is back"})
			continue
		case err != nil:
			aborted.Lost = append(aborted.Lost, fmt.Errorf("phase %s: %w", begun[i].name, err))
			continue
		}
		r.Observe(event.PhaseUndone{Phase: begun[i].name})
	}
	r.result.PauseMS = event.MS(time.Since(r.paused))
	return aborted
}

// forward completes a handover after the pass. What fails is collected; what
// does not depend on it is done all the same.
func (r *run) forward(ctx context.Context) (Result, error) {
	r.result.Baton = r.Taker.Side
	if r.paused.IsZero() {
		r.paused = time.Now() // when resumed, the pause so far is not known
	}
	// Unless the taker is open nothing may point at it.
	if err := r.timed(ctx, phase{name: PhaseOpen, do: r.open}); err != nil {
		return r.result, &AfterPass{Problems: []error{postgres.WrapHint(r.Taker.Side, "opening the side that has the baton", err,
			"mend this and run the same command again: it continues from here")}}
	}
	waiting, err := TrafficWaits(ctx, r.taker)
	if err != nil {
		r.problems = append(r.problems, postgres.Wrap(r.Taker.Side, "reading the journal", err))
	}
	if waiting {
		for _, p := range []phase{{name: PhaseSwitch, do: r.switchTraffic}, {name: PhaseResume, do: r.resume}} {
			if err := r.timed(ctx, p); err != nil {
				// Traffic that points at the fenced side must not be let go: the
				// applications would get errors instead of waiting.
				r.problems = append(r.problems, postgres.WrapHint(r.Taker.Side, "moving traffic", err,
					"mend the hook and run the same command again: it moves the traffic, and nothing else is repeated"))
				break
			}
		}
		r.result.PauseMS = event.MS(time.Since(r.paused))
	}
	if err := r.timed(ctx, phase{name: PhaseSettle, do: r.settle}); err != nil {
		r.problems = append(r.problems, err)
	}
	if len(r.problems) > 0 {
		return r.result, &AfterPass{Problems: r.problems}
	}
	return r.result, nil
}

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
	r.result.Phases = append(r.result.Phases, PhaseTime{p.name, ms})
	r.Observe(event.PhaseEnded{Phase: p.name, MS: ms})
	return nil
}

func (r *run) route() traffic.Route {
	return traffic.Route{Migration: r.Migration, From: endpoint(r.Holder), To: endpoint(r.Taker)}
}

func endpoint(s *postgres.Server) traffic.Endpoint {
	return traffic.Endpoint{Side: s.Side, Host: s.Host(), Port: s.Port(), Database: s.Database()}
}

func (r *run) closeWatch() {
	for _, conn := range []*pgx.Conn{r.watchHolder, r.watchTaker} {
		if conn != nil {
			conn.Close(context.Background())
		}
	}
}
