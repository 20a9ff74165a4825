package handover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/phrase"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/routine"
)

// Rehearsal is what a handover would probably cost. Times are milliseconds.
type Rehearsal struct {
	Command    string        `json:"command"`
	From       postgres.Side `json:"from"`
	To         postgres.Side `json:"to"`
	ForecastMS float64       `json:"forecast_ms"` // of the pause: the sum of the parts
	MaxPauseMS float64       `json:"max_pause_ms"`
	Parts      []Part        `json:"parts"`
	event.Forecast
}

// Part is one phase of the pause, measured on the real servers.
type Part struct {
	Phase string  `json:"phase"`
	MS    float64 `json:"ms"`
	How   string  `json:"how"` // what was measured, and what could not be
}

// Rehearse measures everything up to and including the drain, and what else can
// be measured, without making anyone wait and without changing who may write: what
// it tries on the databases' grants is rolled back, the slots it makes are
// temporary. Its error is a *refusal.Refusal when a real handover would be refused.
func Rehearse(ctx context.Context, c Config, holder, taker *postgres.Session) (Rehearsal, error) {
	r := newRun(c, holder, taker)
	r.title = "rehearse"
	defer r.closeWatch()
	result := Rehearsal{Command: c.Command, From: c.Holder.Side, To: c.Taker.Side, MaxPauseMS: event.MS(c.MaxPause), Parts: []Part{}}
	record, err := journal.Read(ctx, holder)
	if err != nil {
		return result, c.Holder.Wrap("reading the baton", err)
	}
	if record == nil || !record.Took {
		return result, refusal.New(r.title, fmt.Sprintf("the %s does not have the baton", c.Holder.Side), "pgbaton status shows where it is")
	}
	r.id, r.generation = record.ID, record.Generation
	saved, err := fence.Raised(ctx, holder)
	if err == nil && saved != nil {
		err = refusal.New(r.title, fmt.Sprintf("the %s is fenced: a handover died", c.Holder.Side), "pgbaton "+c.Command+", run again, undoes or completes it")
	}
	if damaged := (*journal.Damaged)(nil); err != nil && !errors.As(err, &damaged) { // of that ready tells
		return result, err
	}
	r.Observe = func(e event.Event) {
		if f, ok := e.(event.Forecast); ok {
			result.Forecast = f
		}
		c.Observe(e)
	}
	if err := r.ready(ctx); err != nil {
		return result, err
	}
	if err := r.openWatch(ctx); err != nil {
		return result, err
	}
	for _, phase := range table {
		if phase.rehearse == nil {
			continue
		}
		p, err := phase.rehearse(r, ctx)
		if err != nil {
			return result, err
		}
		result.Parts = append(result.Parts, p)
		result.ForecastMS += p.MS
	}
	if result.ForecastMS > result.MaxPauseMS {
		longest := slices.MaxFunc(result.Parts, func(a, b Part) int { return cmp.Compare(a.MS, b.MS) })
		return result, refusal.New(r.title, fmt.Sprintf("the pause would take about %.0f ms, --max-pause allows %.0f ms; the longest part is the phase %s: %.0f ms (%s)",
			result.ForecastMS, result.MaxPauseMS, longest.Phase, longest.MS, longest.How), "allow a longer --max-pause")
	}
	return result, nil
}

// measure times f.
func measure(phase, how string, f func() error) (Part, error) {
	began := time.Now()
	err := f()
	return Part{Phase: phase, MS: event.MS(time.Since(began)), How: how}, err
}

// rehearsePause has what stands between say what it will take to hold traffic back.
func (r *run) rehearsePause(ctx context.Context) (Part, error) {
	return r.rehearseTraffic(ctx, PhasePause)
}

func (r *run) rehearseTraffic(ctx context.Context, phase string) (Part, error) {
	cost, err := r.Traffic.Rehearse(ctx, r.Route(), r.MaxPause)
	return Part{Phase: phase, MS: event.MS(cost.Took), How: cost.How}, err
}

func (r *run) rehearseFence(ctx context.Context) (Part, error) {
	return measure(PhaseFence, "its statements, rolled back; ending sessions comes on top", func() error {
		return r.Holder.WrapRights("trying the fence", fence.Rehearse(ctx, r.holder, r.Holder.Database(), r.Holder.Keeps),
			mayGrant)
	})
}

// trySlot makes a temporary slot and drops it.
func (r *run) trySlot(ctx context.Context, phase string, p Party, conn *postgres.Session, publications []string) (Part, error) {
	busy := false
	part, err := measure(phase, "a temporary slot on the "+string(p.Side), func() (err error) {
		busy, err = fence.TryLeakCheck(ctx, conn, r.leakSlot(), publications)
		return p.WrapHint("making a temporary slot", err, replication.SlotHint(err))
	})
	if busy {
		part.MS = 0
		part.How += ": given up, a transaction that has written is open; those in the database that is fenced are ended, others are waited for"
	}
	return part, err
}

func (r *run) rehearseDrain(ctx context.Context) (Part, error) {
	if _, err := r.compareTables(ctx); err != nil { // a session's first look is its slowest
		return Part{}, err
	}
	slot, err := r.trySlot(ctx, PhaseDrain, r.Holder, r.holder, r.publications())
	if err != nil {
		return slot, err
	}
	part, err := measure(PhaseDrain, "a marker's round trip under the load of now, a look at the tables, and "+slot.How, func() error {
		both, ctx := routine.WithContext(ctx)
		both.Go(func() error { return r.unchanged(ctx) })
		both.Go(func() error {
			for _, g := range r.Groups {
				_, _, seen, _, err := r.roundTrip(ctx, g) // ready has looked for a gap
				if err == nil && !seen {
					var why, remedy string
					if why, remedy, err = r.behind(ctx, g); err == nil {
						err = refusal.New(r.title, why, remedy)
					}
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		return both.Wait()
	})
	part.MS += slot.MS
	return part, err
}

func (r *run) rehearseSequences(ctx context.Context) (Part, error) {
	return measure(PhaseSequences, phrase.Count(len(r.sequences), "sequence")+" read; those that move until then are set too", func() error {
		_, err := replication.ReadSequences(ctx, r.holder, r.sequences)
		return r.Holder.Wrap("reading the sequences", err)
	})
}

func (r *run) rehearseWayBack(ctx context.Context) (Part, error) {
	if r.NoRollback {
		return Part{Phase: PhaseWayBack, How: "none is wanted"}, nil
	}
	return r.trySlot(ctx, PhaseWayBack, r.Taker, r.taker, nil)
}

// rehearsePass commits as durably as the pass does.
func (r *run) rehearsePass(ctx context.Context) (Part, error) {
	return measure(PhasePass, "a durable commit on the "+string(r.Holder.Side), func() error {
		_, err := replication.WriteMarker(ctx, r.holder, r.Groups[0].MarkerTable(), replication.Heartbeat)
		return r.Holder.Wrap("writing a marker", err)
	})
}

func (r *run) rehearseOpen(ctx context.Context) (Part, error) {
	return measure(PhaseOpen, "lifting the fence of the "+string(r.Taker.Side)+", rolled back", func() error {
		return r.Taker.WrapRights("trying to lift the fence", fence.RehearseLift(ctx, r.taker, r.Taker.Database()),
			mayGrant)
	})
}

func (r *run) rehearseMove(ctx context.Context) (Part, error) {
	return r.rehearseTraffic(ctx, PhaseSwitch+", "+PhaseResume)
}

// warmUp does once, before anyone waits, what the pause will do, as far as it can
// be taken back: a session's first look at a catalog, its first use of a statement
// or of the output plugin is its slowest. What cannot be done is found out here.
func (r *run) warmUp(ctx context.Context) error {
	all, groupCtx := routine.WithContext(ctx)
	all.Go(func() error { return r.warmHolder(groupCtx) })
	all.Go(func() error { return r.warmTaker(groupCtx) })
	all.Go(func() error {
		diff, err := r.compareTables(groupCtx)
		if err == nil && len(diff) > 0 {
			err = fmt.Errorf("the tables changed since the handover was found ready: %s", diff[0].Text)
		}
		return err
	})
	if err := all.Wait(); err != nil {
		return err
	}
	if err := r.readWithout(ctx); err != nil {
		return err
	}
	if err := r.presetConfigs(ctx); err != nil {
		return err
	}
	return r.presetSequences(ctx)
}

func (r *run) warmHolder(ctx context.Context) error {
	if _, err := r.rehearseFence(ctx); err != nil {
		return err
	}
	if _, err := r.trySlot(ctx, PhaseDrain, r.Holder, r.holder, r.publications()); err != nil {
		return err
	}
	if err := fence.Look(ctx, r.holder, replication.AllOf(r.Label)); err != nil {
		return r.Holder.Wrap("looking for sessions", err)
	}
	// As the pass, but of an attempt that never was.
	_, err := r.holder.Exec(ctx, journal.PassSQL, r.generation, -1)
	return r.Holder.Wrap("trying the pass", err)
}

func (r *run) warmTaker(ctx context.Context) error {
	if _, err := r.rehearseWayBack(ctx); err != nil {
		return err
	}
	for _, g := range r.Groups {
		if _, err := replication.WorkerPIDs(ctx, r.taker, g.Name()); err != nil {
			return r.Taker.Wrap("looking for workers", err)
		}
	}
	tx, err := r.taker.Begin(ctx)
	if err == nil {
		err = errors.Join(r.writeDrained(ctx, tx), tx.Rollback(ctx))
	}
	if err == nil {
		_, err = r.rehearseOpen(ctx)
	}
	return r.Taker.Wrap("trying to open it", err)
}

// openWatch opens the second sessions.
func (r *run) openWatch(ctx context.Context) (err error) {
	r.holderSide.Party, r.takerSide.Party = r.Holder, r.Taker
	for _, s := range r.sides() {
		if s.watch, err = s.Connect(ctx); err != nil {
			return err
		}
	}
	return nil
}
