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

// Names of the phases; ready, prepare and settle are outside the pause.
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

// run is one handover in progress: what it was told, its grip on the two sides, and
// what its phases keep for later ones.
type run struct {
	Config
	grip
	readied
	carried
	shut
	turned
	watched
	title    string       // of refusals: the command that a person ran
	paused   time.Time    // zero until someone waits
	took     bool         // the baton was taken in this run
	problems []error      // after the pass
	doing    atomic.Value // string: what the phase is at, for tell
	result   Result
}

// readied is what ready and prepare have looked at, so that nobody waits for it later.
type readied struct {
	opening  *fence.Saved    // what the taker's fence saved; nil before
	without  without         // what the taker does without while it receives
	lookable map[string]bool // what stands before the holder: whether it could be looked through
}

// carried is what is carried over beside the stream.
type carried struct {
	sequences []catalog.Sequence
	preset    map[replication.SequenceValue]bool // what the taker's sequences are set to already
	values    []replication.SequenceValue        // of the holder's, behind the fence
	configs   []configRows                       // of extensions
}

// shut is what the fence keeps.
type shut struct {
	closed *fence.Saved // what it saved on the holder; nil before
	fenced time.Time    // when it began to rise; zero before
}

// turned is what the way back keeps.
type turned struct {
	backPoint postgres.LSN // where its slot begins
}

// watched are the second sessions, for what runs beside the drain.
type watched struct{ holderSide, takerSide side }

func newRun(c Config, holder, taker *postgres.Session) *run {
	r := &run{Config: c, grip: grip{holder: holder, taker: taker, by: rand.Text()}, title: c.Command, result: Result{
		Command: c.Command, Baton: c.Holder.Side, From: c.Holder.Side, To: c.Taker.Side, Began: time.Now(), Phases: []PhaseTime{}}}
	r.c = &r.Config
	return r
}

// Run hands over. It must hold the operator's lock on both sides through the
// sessions given, which it uses for fence, pass and unfence (rule 2).
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

func (r *run) warnStream(err error) {
	remedy := "pgbaton resume, when the " + string(r.Taker.Side) + " is back"
	if gap := (*gapError)(nil); errors.As(err, &gap) {
		remedy = r.lost()
	}
	r.Observe(event.Warning{Side: r.Taker.Side, Text: "the subscription could not be enabled again: " + postgres.Describe(err), Remedy: remedy})
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
