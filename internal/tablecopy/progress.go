package tablecopy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pgbaton/internal/event"
)

const (
	// observeEvery is the interval of event.Progress.
	observeEvery = 250 * time.Millisecond
	// rateWindow is how far back the rate looks: long enough to smooth over a
	// checkpoint, short enough to follow a change of load.
	rateWindow = 10 * time.Second
)

// meter knows how far a load is. Safe for concurrent use.
type meter struct {
	before event.Progress
	tasks  []*task // set once, before anyone reads
	tables atomic.Int64
	total  int64 // tables
	rows   atomic.Int64

	indexes      atomic.Int64
	totalIndexes int

	mu      sync.Mutex
	samples []sample // of the last rateWindow, oldest first, at most one per sampleEvery
}

type sample struct {
	at    time.Time
	bytes int64
}

const sampleEvery = 200 * time.Millisecond

func newMeter(before event.Progress, now time.Time) *meter {
	return &meter{before: before, samples: []sample{{at: now}}}
}

// expect says what there is to load.
func (m *meter) expect(tables []Table) {
	for i := range tables {
		if tables[i].Snapshot != "" {
			m.total++
		}
		for _, x := range tables[i].Indexes {
			if !x.Built {
				m.totalIndexes++
			}
		}
	}
}

// watch says which tasks do it.
func (m *meter) watch(tasks []*task) {
	for _, t := range tasks {
		if t.what == "copy" {
			t.total.Store(t.size)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tasks = tasks
}

// expected is the size that a copy's stream will have had: the real one once it
// is complete, before that an estimate, which it may exceed.
func (t *task) expected() int64 {
	if t.ended.Load() != 0 {
		return t.bytes.Load()
	}
	return max(t.total.Load(), t.bytes.Load())
}

// read returns how far the load is.
func (m *meter) read(now time.Time) event.Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.before
	p.TablesTotal += int(m.total)
	p.TablesCopied += int(m.tables.Load())
	p.IndexesTotal += m.totalIndexes
	p.IndexesBuilt += int(m.indexes.Load())
	p.Running = nil
	copies, builds := pace{}, map[string]pace{}
	for _, t := range m.tasks {
		began, ended := t.began.Load(), t.ended.Load()
		seconds := 0.0
		if began != 0 {
			seconds = time.Duration(cmp.Or(ended, now.UnixNano()) - began).Seconds()
		}
		if t.what == "copy" {
			bytes, expected := t.bytes.Load(), t.expected()
			p.BytesCopied += bytes
			p.BytesTotal += expected
			more := t.cost - float64(t.size) // what small tables take beside their rows
			copies.add(t, float64(bytes)+more*float64(bytes)/float64(max(1, expected)), float64(expected)+more, seconds)
		} else {
			done, spent := t.fraction(), seconds
			if done == 0 {
				spent = 0 // nobody knows yet what it was good for
			}
			b := builds[t.what]
			b.add(t, done*t.cost, t.cost, spent)
			builds[t.what] = b
		}
		if began != 0 && ended == 0 {
			p.Running = append(p.Running, t.describe(seconds))
		}
	}
	slices.SortStableFunc(p.Running, func(a, b event.Task) int { return cmp.Compare(b.Seconds, a.Seconds) })
	p.BytesPerSec = m.rate(now, p.BytesCopied-m.before.BytesCopied)
	p.ETASeconds = eta(copies, builds)
	return p
}

func (t *task) describe(seconds float64) event.Task {
	e := event.Task{What: t.what, Name: t.name, Seconds: seconds}
	if t.what == "copy" {
		e.Done, e.Total = t.bytes.Load(), t.expected()
		return e
	}
	e.Done, e.Total = t.done.Load(), t.total.Load()
	e.Phase, _ = t.phase.Load().(string)
	return e
}

// fraction is how much of a build is done, as far as the server says.
func (t *task) fraction() float64 {
	switch total := t.total.Load(); {
	case t.ended.Load() != 0:
		return 1
	case total > 0:
		// While the table is read it is sorted too, a memory's worth at a time: seven
		// tenths of the whole.
		part := float64(t.done.Load()) / float64(total)
		if phase, _ := t.phase.Load().(string); strings.Contains(phase, "scanning table") || phase == "" {
			return 0.7 * part
		}
		return 0.75 + part/4
	}
	return 0
}

// pace is how fast tasks of one kind get on, in seconds of a worker.
type pace struct {
	done, left, seconds float64 // cost done and left, time spent
	busy                int
	longest             float64 // cost left of one task in progress
}

func (p *pace) add(t *task, done, total, seconds float64) {
	p.done += done
	p.left += max(0, total-done)
	p.seconds += seconds
	if t.began.Load() != 0 && t.ended.Load() == 0 {
		p.busy++
		p.longest = max(p.longest, total-done)
	}
}

// usualPerCost is 25 MB a second: of two workers for each processor.
const usualPerCost = 1.0 / (25 << 20)

// perCost is what a cost has taken so far. What is expected counts as much as a tenth of
// all: the first are few, and may be slow because of a checkpoint.
func (p pace) perCost(expected float64) float64 {
	weight := (p.done + p.left) / 10
	if weight == 0 {
		return expected
	}
	return (p.seconds + expected*weight) / (p.done + weight)
}

// eta is the time that is left: what is left of each kind takes a worker as long per
// cost as what is done has, and as many workers as now are at it. Builds are expected to
// take what copies take, or what is usual where those are slower: they may be limited, or
// wait for a network. One kind of build is expected to take what all of them take.
func eta(copies pace, builds map[string]pace) float64 {
	usual := usualPerCost
	left, longest, busy := 0.0, 0.0, copies.busy
	if copies.done > 0 {
		each := copies.seconds / copies.done
		left, longest = copies.left*each, copies.longest*each
		usual = min(each, usual)
	}
	var all pace
	for _, b := range builds {
		all.done, all.left, all.seconds = all.done+b.done, all.left+b.left, all.seconds+b.seconds
	}
	expected := all.perCost(usual)
	for _, b := range builds {
		each := b.perCost(expected)
		left += b.left * each
		longest = max(longest, b.longest*each)
		busy += b.busy
	}
	return max(longest, left/float64(max(1, busy)))
}

// rate is the moving average in bytes per second.
func (m *meter) rate(now time.Time, bytes int64) float64 {
	if now.Sub(m.samples[len(m.samples)-1].at) >= sampleEvery {
		m.samples = append(m.samples, sample{at: now, bytes: bytes})
	}
	for len(m.samples) > 1 && now.Sub(m.samples[1].at) >= rateWindow {
		m.samples = m.samples[1:]
	}
	oldest := m.samples[0]
	seconds := now.Sub(oldest.at).Seconds()
	if seconds <= 0 {
		return 0
	}
	return float64(bytes-oldest.bytes) / seconds
}

// askServer asks the target how far its copies and builds are: the views are
// there since 14 and 12.
func (l *loader) askServer(ctx context.Context) {
	byPID := map[string]*task{}
	var pids []string
	for _, t := range l.meter.tasks {
		if t.began.Load() != 0 && t.ended.Load() == 0 && t.pid.Load() != 0 {
			pid := strconv.FormatInt(t.pid.Load(), 10)
			byPID[pid] = t
			pids = append(pids, pid)
		}
	}
	v := l.job.Target.Version().Major()
	if v < 12 || len(pids) == 0 {
		return
	}
	list := strings.Join(pids, ", ")
	rows, err := l.witness.ask(ctx, fmt.Sprintf(`SELECT pid, phase,
			CASE WHEN blocks_total > 0 THEN blocks_done ELSE tuples_done END,
			CASE WHEN blocks_total > 0 THEN blocks_total ELSE tuples_total END
		FROM pg_catalog.pg_stat_progress_create_index WHERE pid IN (%s)`, list))
	if err != nil {
		return // shown to people only; a worker will notice
	}
	number := func(b []byte) int64 {
		n, _ := strconv.ParseInt(string(b), 10, 64) // the server prints numbers
		return n
	}
	for _, r := range rows {
		t := byPID[string(r[0])]
		t.phase.Store(string(r[1]))
		t.done.Store(number(r[2]))
		t.total.Store(number(r[3]))
	}
	if v < 14 {
		return
	}
	rows, err = l.witness.ask(ctx, fmt.Sprintf(`SELECT pid, tuples_processed, bytes_processed FROM pg_catalog.pg_stat_progress_copy WHERE pid IN (%s)`, list))
	if err != nil {
		return
	}
	for _, r := range rows {
		byPID[string(r[0])].learn(number(r[1]), number(r[2]))
	}
}

// learn corrects the estimate of a copy's stream by the rows that have come and
// the number that the source's statistics promise.
//
// What was sent is ahead of what was stored by all that the buffers between hold.
func (t *task) learn(rows, bytes int64) {
	if t.rows > 0 && rows > t.rows/100 && bytes > 0 {
		t.total.Store(max(t.bytes.Load(), int64(float64(bytes)/float64(rows)*float64(t.rows))))
	}
}
