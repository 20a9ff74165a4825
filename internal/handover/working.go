package handover

import (
	"context"
	"time"

	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
	"pgbaton/internal/routine"
)

// This file has what a phase outside the pause tells that takes its time: with
// thousands of tables, each look at them does.

// tellAfter is how long such a phase may be silent.
const tellAfter = 2 * time.Second

// at notes what the phase is doing now.
func (r *run) at(what string) { r.doing.Store(what) }

// tell says again and again what the phase is doing, until stop is called.
func (r *run) tell(phase string) (stop func()) {
	r.at("")
	ctx, cancel := context.WithCancel(context.Background())
	began := time.Now()
	telling := routine.Start(func() {
		for postgres.Pause(ctx, tellAfter) == nil {
			if doing, _ := r.doing.Load().(string); doing != "" {
				r.Observe(event.Working{Phase: phase, Doing: doing, Seconds: event.Since(began)})
			}
		}
	})
	return func() { cancel(); telling.Wait() }
}
