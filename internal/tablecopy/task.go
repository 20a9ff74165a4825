package tablecopy

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// class is the kind of worker that a task needs.
type class int

const (
	copying  class = iota // one session on either side
	building              // one session on the target
	classes
)

// task is a part of the load that one worker does in one go.
type task struct {
	class class
	what  string // event.Task.What
	name  string // event.Task.Name
	// cost is what it takes, in bytes of a COPY stream.
	cost float64
	// locks are the tables of which the task takes a lock that another one's may
	// wait for: a worker that waits for a lock is a worker less.
	locks []uint32
	size  int64 // of a copy, as the source's disk has it
	rows  int64 // that a copy will move, by the source's statistics; 0 when not known
	// run does it. try counts from 1: what an earlier one has done is not known.
	run func(ctx context.Context, w *worker, try int) error

	waits int // for so many tasks
	next  []*task
	rank  float64 // cost of the longest way from here to the end

	progress
}

// progress is written by the task's worker and read by whoever reports.
type progress struct {
	began atomic.Int64 // Unix nanoseconds, 0 while it waits
	ended atomic.Int64
	bytes atomic.Int64 // of the COPY stream
	total atomic.Int64 // what bytes is expected to become; for builds what the server counts
	done  atomic.Int64 // builds: of total
	pid   atomic.Int64 // of the session on the target
	phase atomic.Value // string
}

// after makes a task wait for others.
func (t *task) after(others ...*task) {
	for _, o := range others {
		if o != nil {
			o.next = append(o.next, t)
			t.waits++
		}
	}
}

// schedule hands out tasks: of those that can be done, the one with the longest
// way to the end, so that no long way is left when all others are done. What is
// short waits, and fills the gaps at the end.
type schedule struct {
	mu      sync.Mutex
	wake    *sync.Cond
	limit   [classes]int // tasks of a class at a time
	ready   []*task      // by rank, highest first
	waiting int          // tasks not handed out yet
	running [classes]int
	locked  map[uint32]bool
	stopped bool
}

func newSchedule(tasks []*task, limit [classes]int) *schedule {
	s := &schedule{limit: limit, waiting: len(tasks), locked: map[uint32]bool{}}
	s.wake = sync.NewCond(&s.mu)
	ranked := map[*task]bool{}
	for _, t := range tasks {
		t.rankFrom(ranked)
		if t.waits == 0 {
			s.add(t)
		}
	}
	return s
}

func (t *task) rankFrom(ranked map[*task]bool) float64 {
	if !ranked[t] {
		ranked[t] = true
		for _, n := range t.next {
			t.rank = max(t.rank, n.rankFrom(ranked))
		}
		t.rank += t.cost
	}
	return t.rank
}

func (s *schedule) add(t *task) {
	at, _ := slices.BinarySearchFunc(s.ready, t, func(e, t *task) int {
		if e.rank >= t.rank {
			return -1
		}
		return 1
	})
	s.ready = slices.Insert(s.ready, at, t)
}

// take waits for a task. nil: there will be none.
func (s *schedule) take() *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.stopped && s.waiting > 0 {
		for i, t := range s.ready {
			if s.running[t.class] == s.limit[t.class] ||
				slices.ContainsFunc(t.locks, func(table uint32) bool { return s.locked[table] }) {
				continue
			}
			for _, table := range t.locks {
				s.locked[table] = true
			}
			s.ready = slices.Delete(s.ready, i, i+1)
			s.waiting--
			s.running[t.class]++
			return t
		}
		s.wake.Wait()
	}
	return nil
}

// finished makes those ready that waited for a task.
func (s *schedule) finished(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[t.class]--
	for _, table := range t.locks {
		delete(s.locked, table)
	}
	for _, n := range t.next {
		if n.waits--; n.waits == 0 {
			s.add(n)
		}
	}
	s.wake.Broadcast()
}

// stop makes take return nil.
func (s *schedule) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.wake.Broadcast()
}

// idle is how many workers have nothing to do.
func (s *schedule) idle() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, max(s.limit[copying], s.limit[building])-s.running[copying]-s.running[building]-len(s.ready))
}
