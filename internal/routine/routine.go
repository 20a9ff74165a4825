// Package routine runs goroutines that have an owner: whoever starts one waits for it,
// and a panic in it is the owner's. It goes on in the goroutine that waits, and so up
// to the command, which reports it. A goroutine that panics alone ends the process
// with Go's exit code 2, and nobody says what stands.
package routine

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Panic is what a function panicked with, and where.
type Panic struct {
	Value any
	Stack []byte // of the goroutine
}

// Error implements error.
func (p *Panic) Error() string { return fmt.Sprintf("internal error: %v", p.Value) }

// Recovered makes a Panic of what recover returned, in the deferred function that
// called it. One that comes from another goroutine keeps its stack.
func Recovered(value any) *Panic {
	if p, ok := value.(*Panic); ok {
		return p
	}
	return &Panic{Value: value, Stack: debug.Stack()}
}

// Do calls a function and returns its panic as a *Panic.
func Do(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = Recovered(value)
		}
	}()
	return f()
}

// Routine is one goroutine.
type Routine struct {
	done chan struct{}
	err  error // a *Panic; valid after done
}

// Start calls a function in a goroutine of its own.
func Start(f func()) *Routine {
	r := &Routine{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = Do(func() error { f(); return nil })
	}()
	return r
}

// Done is closed when the function has ended, in whatever way: then call Wait.
func (r *Routine) Done() <-chan struct{} { return r.done }

// Wait waits for the end. It panics if the function did.
func (r *Routine) Wait() {
	<-r.done
	if r.err != nil {
		panic(r.err)
	}
}

// Group is several goroutines that work on one thing: an errgroup.Group in which a
// panic ends the others as an error does. The zero value is ready to use.
type Group struct {
	group errgroup.Group
	with  *errgroup.Group // in place of group, when there is a context
	once  sync.Once
	panic *Panic // the first; valid when all have ended
}

// WithContext makes a group with a context that ends at the first error or panic, or
// with Wait.
func WithContext(ctx context.Context) (*Group, context.Context) {
	with, ctx := errgroup.WithContext(ctx)
	return &Group{with: with}, ctx
}

func (g *Group) of() *errgroup.Group {
	if g.with != nil {
		return g.with
	}
	return &g.group
}

// Go calls a function in a goroutine of its own.
func (g *Group) Go(f func() error) {
	g.of().Go(func() error {
		err := Do(f)
		if p, ok := err.(*Panic); ok {
			g.once.Do(func() { g.panic = p })
		}
		return err
	})
}

// Wait waits until all have ended and returns the first error. It panics if one of
// the functions did.
func (g *Group) Wait() error {
	err := g.of().Wait()
	if g.panic != nil {
		panic(g.panic)
	}
	return err
}
