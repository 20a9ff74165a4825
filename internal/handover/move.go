package handover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgbaton/internal/event"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/traffic"
)

// This file moves traffic to a taker that is open, and looks whether it arrives. What
// has been let go is held back again only when it was seen to lead elsewhere.

// Arrival is what is known of traffic that was let go.
type Arrival struct {
	Why      string   `json:"why,omitempty"`      // it does not arrive; "": nobody has looked
	Lookable []string `json:"lookable,omitempty"` // what could be looked through when it led to the holder
}

// ReadArrival says that traffic was let go to a side and has not been seen to arrive
// there; nil when it was seen, or could not be looked at from the beginning.
func ReadArrival(ctx context.Context, taker *postgres.Session) (*Arrival, error) {
	a, ok, err := arrivalEntry.Get(ctx, taker)
	if err != nil || !ok {
		return nil, err
	}
	return &a, nil
}

// TrafficWaits says whether traffic is still to be moved to a side that took the
// baton: a run that completes another's handover must not move it twice.
func TrafficWaits(ctx context.Context, taker *postgres.Session) (bool, error) {
	h, err := readHeld(ctx, taker, trafficEntry)
	return h != nil, err
}

// moveTraffic leads applications to the taker, unless that has been done, and looks
// whether they arrive. It says whether any were let go just now.
func (r *run) moveTraffic(ctx context.Context, began time.Time) (moved bool) {
	waiting, arrival, err := true, (*Arrival)(nil), error(nil)
	if !r.took { // it was noted with the baton
		if waiting, err = TrafficWaits(ctx, r.taker); err == nil && !waiting {
			arrival, err = ReadArrival(ctx, r.taker)
		}
		r.result.Already = err == nil && !waiting && arrival == nil
	}
	if err != nil {
		r.problems = append(r.problems, r.Taker.Wrap("reading the journal", err))
		return false
	}
	if !waiting { // nothing should be held back; an order of a process that is dead may have come late
		if err := r.Traffic.Again(ctx, r.Route()); err != nil {
			r.problems = append(r.problems, err)
		}
		if arrival == nil {
			return false
		}
		r.lookable = map[string]bool{}
		for _, name := range arrival.Lookable {
			r.lookable[name] = true
		}
		elsewhere, err := r.arrive(ctx)
		if !elsewhere {
			if err != nil {
				r.problems = append(r.problems, err)
			}
			return false
		}
	}
	moved = r.led(ctx)
	if r.paused.IsZero() {
		r.paused = began // of an earlier run: its pause so far is not known
	}
	r.result.PauseMS = event.MS(time.Since(r.paused))
	if moved {
		if _, err := r.arrive(ctx); err != nil {
			r.problems = append(r.problems, err)
		}
	}
	return true
}

// led goes through the phases that move traffic. Traffic that points at the fenced
// side must not be let go: the applications would get errors instead of waiting.
func (r *run) led(ctx context.Context) bool {
	for _, name := range []string{PhaseSwitch, PhaseResume} {
		if err := r.timed(ctx, row(name)); err != nil {
			r.problems = append(r.problems, r.Taker.WrapHint("moving traffic", err, again))
			return false
		}
	}
	return true
}

// moveTimeout bounds each traffic action after the pass: generous, because there
// is no way back, but not for ever.
const moveTimeout = 5 * time.Minute

func (r *run) switchTraffic(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	if !r.took { // it was held back by this very run
		h, err := readHeld(ctx, r.taker, trafficEntry)
		if err == nil {
			err = r.canLetGo(h)
		}
		if err != nil {
			return err
		}
	}
	return r.Traffic.Switch(ctx, r.Route())
}

// resume asks the taker once more: a session that the guardian has ended means
// that traffic is not ours any more. From the moment that it was let go nobody holds
// it back on purpose: that is noted before anything is looked at.
func (r *run) resume(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	if err := r.taker.Ping(ctx); err != nil {
		return err
	}
	if err := r.Traffic.Resume(ctx, r.Route()); err != nil {
		return err
	}
	return r.Taker.Wrap("writing the journal", arrivalEntry.Replaced(ctx, r.taker, journal.Traffic, r.arrival("")))
}

// arrival is what another process must know to look.
func (r *run) arrival(why string) Arrival {
	a := Arrival{Why: why}
	for name, lookable := range r.lookable {
		if lookable {
			a.Lookable = append(a.Lookable, name)
		}
	}
	return a
}

// lookFor bounds the look behind the pass: the clients that have waited are served at
// the same time.
const lookFor = 5 * time.Second

// arrive looks whether applications have been led to the taker. elsewhere says that
// some were seen to be somewhere else; the error says that, too, and what has no
// connection to any server. What cannot be looked through while it serves clients
// is a warning.
func (r *run) arrive(ctx context.Context) (elsewhere bool, err error) {
	limit, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	v, err := r.view(ctx)
	for err == nil && !v.arrived() && postgres.Pause(limit, 100*time.Millisecond) == nil {
		v, err = r.view(ctx)
	}
	if err != nil {
		return false, err
	}
	for _, s := range v.unseen {
		r.Observe(event.Warning{Side: r.Taker.Side, Text: fmt.Sprintf("%s serves clients, but where it leads could not be looked at: %v", s.Name, s.Err), Remedy: s.PeekRemedy})
	}
	if wrong := append(v.elsewhere, v.nowhere...); len(wrong) > 0 {
		err := errors.Join(wrong...)
		arrival := r.arrival(strings.ReplaceAll(err.Error(), "\n", "; "))
		return len(v.elsewhere) > 0, errors.Join(r.Taker.WrapHint("looking where applications are led", err,
			strings.Join(v.remedies, "; ")+"; then run the same command again: it looks once more, and moves what leads elsewhere"),
			r.Taker.Wrap("writing the journal", arrivalEntry.Put(ctx, r.taker, arrival)))
	}
	return false, r.Taker.Wrap("writing the journal", arrivalEntry.Delete(ctx, r.taker))
}

// view is what one sees through what stands before the taker.
type view struct {
	elsewhere []error            // seen: not the taker
	nowhere   []error            // led to the holder before, and has no connection to any server now
	remedies  []string           // of these, each once
	unseen    []traffic.Sighting // could be looked through before, and serves clients
}

func (v view) arrived() bool { return len(v.elsewhere)+len(v.nowhere)+len(v.unseen) == 0 }

// view looks once. What could not be looked through before, as ready has said, proves
// nothing when it still cannot.
func (r *run) view(ctx context.Context) (v view, err error) {
	seen, err := r.lookThrough(ctx, r.Taker, r.taker)
	for _, s := range seen {
		switch {
		case s.Err == nil && s.Here, s.Err != nil && !r.lookable[s.Name]:
			continue
		case s.Err == nil:
			v.elsewhere = append(v.elsewhere, fmt.Errorf("%s leads to %s, and not to %s", s.Name, s.Where, r.Route().To))
		case s.Serves:
			v.unseen = append(v.unseen, s)
			continue
		default:
			v.nowhere = append(v.nowhere, fmt.Errorf("%s led to the %s before, and leads nowhere now: %w", s.Name, r.Holder.Side, s.Err))
		}
		if !slices.Contains(v.remedies, s.CorrectRemedy) {
			v.remedies = append(v.remedies, s.CorrectRemedy)
		}
	}
	return v, err
}
