// Package traffic moves what stands between the application and its database
// from one side to the other. Whatever there is to say of one kind of mover is said
// here: the packages above know the interface, and none of the kinds.
package traffic

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
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

// String is what people are told of it.
func (e Endpoint) String() string {
	return net.JoinHostPort(e.Host, strconv.Itoa(e.Port)) + "/" + e.Database
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
	// never a secret. They begin with the title of its kind.
	Names() []string
	// Check looks, without making anyone wait, whether the actions can be
	// expected to work, and a pause to stay within the budget. It returns the
	// reasons why not.
	Check(ctx context.Context, r Route, budget time.Duration) ([]refusal.Reason, error)
	// Rehearse does as much of an action as it can without making anyone wait.
	Rehearse(ctx context.Context, r Route, budget time.Duration) (Rehearsal, error)
	// Pause holds traffic back. After an error, or an end of ctx, Abort follows.
	Pause(ctx context.Context, r Route) error
	// Switch points traffic at the route's end; it stays held back.
	Switch(ctx context.Context, r Route) error
	// Resume lets traffic go, to where it points.
	Resume(ctx context.Context, r Route) error
	// Abort lets traffic go where it came from, after a handover was given up
	// before Switch.
	Abort(ctx context.Context, r Route) error
	// Again lets go once more what can be let go without harm: an order to hold
	// traffic back, sent by a process that is dead by now, may have arrived late.
	Again(ctx context.Context, r Route) error
	// Look sees where it leads an application, as the role of a side's server. What
	// cannot be looked through at all has no sighting.
	Look(ctx context.Context, r Route, side *postgres.Server, b postgres.Beacon) []Sighting
	// Close releases connections; it changes nothing.
	Close()
}

// Rehearsal is what one action will probably cost.
type Rehearsal struct {
	Measured bool          // how long it took is known
	Took     time.Duration // if so
	How      string        // what was done, and what could not be
}

// several moves with several movers, one after the other.
type several struct {
	movers []Mover
	absent []string // titles of the kinds that nobody has asked for
}

var _ Mover = several{}

// Names implements Mover.
func (s several) Names() (names []string) {
	for _, m := range s.movers {
		names = append(names, m.Names()...)
	}
	return names
}

// Check implements Mover.
func (s several) Check(ctx context.Context, r Route, budget time.Duration) (reasons []refusal.Reason, err error) {
	for _, m := range s.movers {
		more, err := m.Check(ctx, r, budget)
		if err != nil {
			return nil, err
		}
		reasons = append(reasons, more...)
	}
	return reasons, nil
}

// Rehearse implements Mover. What cannot be measured is told of where nothing can.
func (s several) Rehearse(ctx context.Context, r Route, budget time.Duration) (sum Rehearsal, err error) {
	var measured, other []string
	for _, title := range s.absent {
		other = append(other, "no "+title)
	}
	for _, m := range s.movers {
		one, err := m.Rehearse(ctx, r, budget)
		if err != nil {
			return Rehearsal{}, err
		}
		if !one.Measured {
			other = append(other, one.How)
			continue
		}
		measured = append(measured, one.How)
		sum.Measured = true
		sum.Took += one.Took
	}
	if sum.How = strings.Join(other, "; "); sum.Measured {
		sum.How = strings.Join(measured, "; ")
	}
	return sum, nil
}

// Pause implements Mover.
func (s several) Pause(ctx context.Context, r Route) error {
	return s.inOrder(func(m Mover) error { return m.Pause(ctx, r) })
}

// Switch implements Mover.
func (s several) Switch(ctx context.Context, r Route) error {
	return s.inOrder(func(m Mover) error { return m.Switch(ctx, r) })
}

// Resume implements Mover.
func (s several) Resume(ctx context.Context, r Route) error {
	return s.inOrder(func(m Mover) error { return m.Resume(ctx, r) })
}

func (s several) inOrder(do func(Mover) error) error {
	for _, m := range s.movers {
		if err := do(m); err != nil {
			return err
		}
	}
	return nil
}

// Abort implements Mover.
func (s several) Abort(ctx context.Context, r Route) error {
	return s.all(func(m Mover) error { return m.Abort(ctx, r) })
}

// Again implements Mover.
func (s several) Again(ctx context.Context, r Route) error {
	return s.all(func(m Mover) error { return m.Again(ctx, r) })
}

// all does something with all of them: what one cannot let go, the others still do.
func (s several) all(do func(Mover) error) error {
	var errs []error
	for _, m := range s.movers {
		errs = append(errs, do(m))
	}
	return errors.Join(errs...)
}

// Look implements Mover.
func (s several) Look(ctx context.Context, r Route, side *postgres.Server, b postgres.Beacon) (seen []Sighting) {
	for _, m := range s.movers {
		seen = append(seen, m.Look(ctx, r, side, b)...)
	}
	return seen
}

// Close implements Mover.
func (s several) Close() {
	for _, m := range s.movers {
		m.Close()
	}
}
