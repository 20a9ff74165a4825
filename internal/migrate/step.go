package migrate

import (
	"context"
	"fmt"
	"time"

	"pgbaton/internal/event"
	"pgbaton/internal/plan"
)

// Step is a part of the migration that the plan can show, the runner can run,
// and a second run can recognise as done.
type Step interface {
	Name() string
	// Plan lists what Run would do.
	Plan(ctx context.Context) ([]plan.Action, error)
	// Done asks the databases, not the journal.
	Done(ctx context.Context) (bool, error)
	// Run does it. It may be repeated after a crash at any point.
	Run(ctx context.Context) error
}

// step is a Step made of functions that share a start's state.
type step struct {
	name string
	plan func(context.Context) ([]plan.Action, error)
	done func(context.Context) (bool, error)
	run  func(context.Context) error
}

func (s step) Name() string                                    { return s.name }
func (s step) Plan(ctx context.Context) ([]plan.Action, error) { return s.plan(ctx) }
func (s step) Done(ctx context.Context) (bool, error)          { return s.done(ctx) }
func (s step) Run(ctx context.Context) error                   { return s.run(ctx) }

// runSteps runs what is not done, in order, and tells what happens.
func runSteps(ctx context.Context, steps []Step, observe event.Observer) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		done, err := s.Done(ctx)
		if err != nil {
			return fmt.Errorf("step %q: %w", s.Name(), err)
		}
		if done {
			observe(event.StepEnded{Step: s.Name(), Skipped: true})
			continue
		}
		observe(event.StepBegan{Step: s.Name()})
		began := time.Now()
		if err := s.Run(ctx); err != nil {
			return fmt.Errorf("step %q: %w", s.Name(), err)
		}
		observe(event.StepEnded{Step: s.Name(), Seconds: event.Since(began)})
	}
	return nil
}

func planSteps(ctx context.Context, steps []Step) ([]plan.Step, error) {
	var planned []plan.Step
	for _, s := range steps {
		done, err := s.Done(ctx)
		if err != nil {
			return nil, fmt.Errorf("step %q: %w", s.Name(), err)
		}
		actions, err := s.Plan(ctx)
		if err != nil {
			return nil, fmt.Errorf("step %q: %w", s.Name(), err)
		}
		planned = append(planned, plan.Step{Step: s.Name(), Done: done, Actions: actions})
	}
	return planned, nil
}
