package guardian

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"

	"pgbaton/internal/handover"
	"pgbaton/internal/postgres"
	"pgbaton/internal/routine"
)

// TakeOver does what the guarded process should have done; see
// [handover.TakeOver].
type TakeOver func(ctx context.Context, w *handover.Ward, kill func(), why string) error

// Watch is the guardian's life: it reads the pipe until it is dismissed or must
// take over. prepare makes the function that takes over from the task; say prints
// for people.
func Watch(ctx context.Context, in io.Reader, out io.Writer, prepare func(task json.RawMessage) (TakeOver, error), say func(string)) error {
	w := &watcher{say: say}
	messages := make(chan message)
	routine.Start(func() { // ends with the pipe, or with this process: nobody waits
		defer close(messages)
		lines := json.NewDecoder(in)
		for {
			var m message
			if lines.Decode(&m) != nil {
				return
			}
			messages <- m
		}
	})
	first, ok := <-messages
	if !ok {
		return errGone
	}
	w.pid = first.PID
	var err error
	if w.take, err = prepare(first.Task); err != nil {
		return err
	}
	if _, err := io.WriteString(out, readyLine); err != nil {
		return err
	}
	return w.watch(ctx, messages)
}

// errGone is the end of the pipe without a word.
var errGone = errors.New("nobody is there to be guarded")

// watcher is what the guardian knows of the guarded process.
type watcher struct {
	take TakeOver
	say  func(string)

	pid      int
	gone     bool // the process has ended
	ward     handover.Ward
	children []int // process groups that run
	deadline time.Time
	later    bool // the budget is no reason any more: it aborts, or the baton has passed
	seen     time.Time
}

const (
	look = 50 * time.Millisecond // how often the clock is looked at
	// grace is what a process may take to notice by itself that its budget is over.
	grace = 400 * time.Millisecond
	// silence is how long a process may show no sign of life while someone waits: it
	// is stopped, or its host does not get on.
	silence = 2 * time.Second
)

func (w *watcher) watch(ctx context.Context, messages <-chan message) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case m, ok := <-messages:
			switch {
			case !ok && w.deadline.IsZero():
				return nil // nobody has begun to wait
			case !ok:
				w.gone = true
				return w.takeOver(ctx, "the process that handed over ended in the middle of it")
			case m.Finished:
				return nil
			}
			w.hear(m)
		case now := <-tick.C:
			if why := w.overdue(now); why != "" {
				return w.takeOver(ctx, why)
			}
		}
	}
}

func (w *watcher) hear(m message) {
	w.seen = time.Now()
	switch {
	case m.Ward != nil:
		w.ward = *m.Ward
	case m.Pausing > 0:
		w.deadline = w.seen.Add(time.Duration(m.Pausing) * time.Millisecond)
	case m.Aborting, m.Passed:
		w.later = true
	case m.Child > 0:
		w.children = append(w.children, m.Child)
	case m.Child < 0:
		w.children = slices.DeleteFunc(w.children, func(group int) bool { return group == -m.Child })
	}
}

// overdue says why it is time to take over from a process that still exists.
func (w *watcher) overdue(now time.Time) string {
	switch {
	case w.deadline.IsZero():
	case !w.later && now.After(w.deadline.Add(grace)):
		return "the process that handed over was over its budget and did not react"
	case now.Sub(w.seen) > silence:
		return "the process that handed over hung"
	}
	return ""
}

// kill ends the old process and the commands it has started. As long as the pipe
// is open the process exists: its id cannot be another's.
func (w *watcher) kill() {
	if !w.gone {
		_ = syscall.Kill(w.pid, syscall.SIGKILL)
		w.gone = true
	}
	for _, group := range w.children {
		_ = syscall.Kill(-group, syscall.SIGKILL)
	}
	w.children = nil
}

// Between two tries of taking over, which grow further apart.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 3 * time.Second
	sayEvery   = 15 * time.Second
	// trafficPatience is how long traffic that cannot be let go is tried: the data
	// is right by then, and a person must look.
	trafficPatience = 2 * time.Minute
	// patience is when a server that nobody has brought back is taken for gone.
	patience = 24 * time.Hour
)

// takeOver tries until it is done or the migration has moved on without it: it
// never acts on a guess, and for a day it does not give up while nobody can write.
func (w *watcher) takeOver(ctx context.Context, why string) error {
	w.say(why + "; the guardian takes over")
	began, said, pause := time.Now(), time.Now(), firstPause
	for {
		// A fault of ours must not leave nobody serving either.
		err := routine.Do(func() error { return w.take(ctx, &w.ward, w.kill, why) })
		var superseded *handover.Superseded
		var held *handover.TrafficHeld
		switch {
		case err == nil:
			w.say("the guardian is done; pgbaton status shows where things stand")
			return nil
		case errors.As(err, &superseded):
			w.say("the guardian has nothing to do: " + superseded.Error())
			return nil
		case errors.As(err, &held) && time.Since(began) > trafficPatience, time.Since(began) > patience:
			return fmt.Errorf("the guardian gives up: %w; run the same command again", err)
		}
		if pause == firstPause || time.Since(said) > sayEvery {
			said = time.Now()
			text := "the guardian goes on trying: " + postgres.Describe(err)
			if hint := postgres.Hint(err); hint != "" {
				text += "\n  hint: " + hint
			}
			w.say(text)
		}
		if err := postgres.Pause(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, lastPause)
	}
}
