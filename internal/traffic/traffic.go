// Package traffic moves what stands between the application and its database
// from one side to the other.
package traffic

import (
	"context"
	"errors"
	"time"

	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
)

// Endpoint is where an application finds a database: the host and port of our own
// sessions there.
type Endpoint struct {
	Side     postgres.Side `json:"side"`
	Host     string        `json:"host"`
	Port     int           `json:"port"`
	Database string        `json:"database"`
	Major    int           `json:"major"` // version of the server; 0: not known
}

// Route is what a traffic action is told: from where to where traffic moves.
type Route struct {
	Migration string   `json:"migration"`
	From      Endpoint `json:"from"`
	To        Endpoint `json:"to"`
}

// A Mover holds applications back and points them elsewhere. Every action may
// be repeated, also by another process after the death of the one that began.
type Mover interface {
	// Names says what it holds back and moves, for the journal and for people:
	// never a secret.
	Names() []string
	// Check looks, without making anyone wait, whether the actions can be
	// expected to work, and a pause to stay within the budget. It returns the
	// reasons why not.
	Check(ctx context.Context, r Route, budget time.Duration) ([]refusal.Reason, error)
	// Pause holds traffic back. After an error, or an end of ctx, Abort follows.
	Pause(ctx context.Context, r Route) error
	// Switch points traffic at the route's end; it stays held back.
	Switch(ctx context.Context, r Route) error
	// Resume lets traffic go, to where it points.
	Resume(ctx context.Context, r Route) error
	// Abort lets traffic go where it came from, after a handover was given up
	// before Switch.
	Abort(ctx context.Context, r Route) error
	// Close releases connections; it changes nothing.
	Close()
}

// Several moves with several movers, one after the other.
type Several []Mover

// Names implements Mover.
func (s Several) Names() (names []string) {
	for _, m := range s {
		names = append(names, m.Names()...)
	}
	return names
}

// Check implements Mover.
func (s Several) Check(ctx context.Context, r Route, budget time.Duration) (reasons []refusal.Reason, err error) {
	for _, m := range s {
		more, err := m.Check(ctx, r, budget)
		if err != nil {
			return nil, err
		}
		reasons = append(reasons, more...)
	}
	return reasons, nil
}

// Pause implements Mover.
func (s Several) Pause(ctx context.Context, r Route) error {
	return s.inOrder(func(m Mover) error { return m.Pause(ctx, r) })
}

// Switch implements Mover.
func (s Several) Switch(ctx context.Context, r Route) error {
	return s.inOrder(func(m Mover) error { return m.Switch(ctx, r) })
}

// Resume implements Mover.
func (s Several) Resume(ctx context.Context, r Route) error {
	return s.inOrder(func(m Mover) error { return m.Resume(ctx, r) })
}

func (s Several) inOrder(do func(Mover) error) error {
	for _, m := range s {
		if err := do(m); err != nil {
			return err
		}
	}
	return nil
}

// Abort implements Mover. What one cannot let go, the others still do.
func (s Several) Abort(ctx context.Context, r Route) error {
	var errs []error
	for _, m := range s {
		errs = append(errs, m.Abort(ctx, r))
	}
	return errors.Join(errs...)
}

// Close implements Mover.
func (s Several) Close() {
	for _, m := range s {
		m.Close()
	}
}

// Again lets go once more what can be let go without harm: an order to hold
// traffic back, sent by a process that is dead by now, may have arrived late.
func Again(ctx context.Context, m Mover, r Route) error {
	switch m := m.(type) {
	case Several:
		var errs []error
		for _, one := range m {
			errs = append(errs, Again(ctx, one, r))
		}
		return errors.Join(errs...)
	case *PgBouncers:
		return m.Abort(ctx, r)
	}
	return nil // a command of the operator's is not run for nothing
}
