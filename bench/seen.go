package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgbaton/internal/handover"
)

// seen is what clients saw of one handover. Times are milliseconds.
type seen struct {
	LongestMS float64 `json:"longest_wait_ms"` // of all transfers under way at any time of the command
	// Of those under way during the pause: the longest, and what it consisted of.
	PauseLongestMS float64 `json:"longest_wait_in_pause_ms"`
	BeforeMS       float64 `json:"before_pause_ms"` // it had begun before the pause
	AfterMS        float64 `json:"after_pause_ms"`  // until it was answered
	// The longest time in which no client was answered: the pause as seen from outside.
	SilenceMS float64 `json:"silence_ms"`
	// The longest wait of those that the pause did not touch: what the phases in
	// which nobody should wait cost.
	OutsideMS    float64 `json:"longest_wait_outside_pause_ms"`
	OutsidePhase string  `json:"longest_wait_outside_pause_in"` // the phase in which it ended
}

// aftermath is for how long after a command transfers are not taken for quiet.
const aftermath = 250 * time.Millisecond

// judge compares the clients' samples with the handovers.
func (run *seriesRun) judge(c *clients) {
	slices.SortFunc(c.samples, func(a, b sample) int { return a.ended.Compare(b.ended) })
	for i := range run.Handovers {
		run.Handovers[i].look(c.samples)
	}
	var calm []float64
	for _, s := range c.samples {
		if s.intended.Sub(c.began) > warmUp/2 && !slices.ContainsFunc(run.Handovers, func(h handoverRun) bool {
			return overlap(s.intended, s.ended, h.began, h.ended.Add(aftermath))
		}) {
			calm = append(calm, milliseconds(s.ended.Sub(s.intended)))
		}
	}
	run.Quiet = quiet{quantile(calm, 0.5), quantile(calm, 0.99), quantile(calm, 1)}
	if n := len(c.samples); n > 0 {
		run.Achieved = float64(n) / c.samples[n-1].ended.Sub(c.began).Seconds()
	}
	for _, f := range c.failed {
		switch {
		case run.Direct:
			run.Reconnects++
		case strings.Contains(f, killed):
			run.Ended++
		default:
			run.Failed++
			if len(run.Errors) < keptErrors {
				run.Errors = append(run.Errors, f)
			}
		}
	}
}

// killed is what PgBouncer tells a client whose database is told KILL. See
// docs/pgbouncer.md for when pgbaton does.
const killed = "database removed"

// broken is what no measurement may show: a query that failed, or a transfer that
// is not accounted for.
func (r *report) broken() (err error) {
	for _, s := range r.Series {
		if s.Failed > 0 || !s.Reckoning.right() {
			err = errors.Join(err, fmt.Errorf("series %s: %d failed queries, %+v", s.Name, s.Failed, s.Reckoning))
		}
	}
	return err
}

func (c *clients) firstError() error {
	if len(c.failed) == 0 {
		return nil
	}
	return errors.New("the first error of a client: " + c.failed[0])
}

// pause is from when to when someone waits by intention.
func (h *handoverRun) pause() (from, to time.Time) {
	for _, p := range h.Phases {
		if p.Name == handover.PhasePause {
			from = h.Began.Add(duration(p.AtMS))
		}
	}
	return from, from.Add(duration(h.PauseMS))
}

// phaseAt is the phase in which a moment falls; outside all of them pgbaton starts
// up or ends.
func (h *handoverRun) phaseAt(t time.Time) string {
	for _, p := range h.Phases {
		begin := h.Began.Add(duration(p.AtMS))
		if !t.Before(begin) && t.Before(begin.Add(duration(p.MS))) {
			return p.Name
		}
	}
	return ""
}

// look finds what clients saw of the handover; samples are in the order of their
// ends.
func (h *handoverRun) look(samples []sample) {
	from, to := h.pause()
	var last time.Time // the answer before this one
	for _, s := range samples {
		wait := milliseconds(s.ended.Sub(s.intended))
		if !last.IsZero() && overlap(last, s.ended, from, to) {
			h.SilenceMS = max(h.SilenceMS, milliseconds(s.ended.Sub(last)))
		}
		last = s.ended
		if !overlap(s.intended, s.ended, h.began, h.ended) {
			continue
		}
		h.LongestMS = max(h.LongestMS, wait)
		switch {
		case !overlap(s.intended, s.ended, from, to):
			if wait > h.OutsideMS {
				h.OutsideMS, h.OutsidePhase = wait, h.phaseAt(s.ended)
			}
		case wait > h.PauseLongestMS:
			h.PauseLongestMS = wait
			h.BeforeMS = max(0, milliseconds(from.Sub(s.intended)))
			h.AfterMS = max(0, milliseconds(s.ended.Sub(to)))
		}
	}
}

func overlap(from, to, begin, end time.Time) bool { return from.Before(end) && to.After(begin) }

func duration(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
