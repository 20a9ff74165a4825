package tablecopy

import (
	"math"
	"testing"
	"time"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
)

// TestMeter follows a copy on a clock of its own: 100 bytes per second at first,
// 1000 later; the second table turns out larger than it was thought to be.
func TestMeter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	m := newMeter(event.Progress{}, now)
	m.expect([]Table{{Snapshot: "s"}, {Snapshot: "s"}})
	big, small := &task{what: "copy", name: "big", cost: 10000, size: 10000}, &task{what: "copy", name: "small", cost: 10, size: 10}
	m.watch([]*task{big, small})
	big.began.Store(now.UnixNano())
	for range 80 { // 20 seconds
		now = now.Add(250 * time.Millisecond)
		big.bytes.Add(25)
		m.read(now)
	}
	p := m.read(now)
	if p.TablesTotal != 2 || p.TablesCopied != 0 || p.BytesCopied != 2000 || p.BytesTotal != 10010 || !near(p.BytesPerSec, 100) || !near(p.ETASeconds, 80.1) {
		t.Errorf("%+v", p)
	}
	if len(p.Running) != 1 || p.Running[0].Done != 2000 || p.Running[0].Total != 10000 || p.Running[0].Seconds != 20 {
		t.Errorf("%+v", p.Running)
	}
	small.began.Store(now.UnixNano())
	for range 40 { // 10 seconds: the slow ones are forgotten
		now = now.Add(250 * time.Millisecond)
		small.bytes.Add(250)
		m.read(now)
	}
	if p := m.read(now); p.BytesTotal != 20000 || p.BytesCopied != 12000 || !near(p.BytesPerSec, 1000) {
		t.Errorf("%+v", p)
	}
	for _, t := range m.tasks {
		t.ended.Store(now.UnixNano())
		m.tables.Add(1)
	}
	if p = m.read(now); p.TablesCopied != 2 || p.BytesTotal != 12000 || p.ETASeconds != 0 || len(p.Running) != 0 {
		t.Errorf("%+v", p)
	}
}

// TestETA follows uniform copies, alone and several at a time, on a clock of its own:
// in the second half the time that is left is known to a fifth, although statistics are
// gathered at the end, tables take more on disk than in the stream, and the server says
// only once a second how many rows it has.
func TestETA(t *testing.T) {
	t.Parallel()
	for _, jobs := range []int{1, 4} {
		const rows, bytes, onDisk, seconds = 1_000_000, 100 << 20, 160 << 20, 100
		began := time.Unix(1e9, 0)
		m := newMeter(event.Progress{}, began)
		var tasks []*task
		for range jobs {
			table := &Table{Table: catalog.Table{Bytes: onDisk, Rows: rows}, Snapshot: "s"}
			l := &loader{}
			tasks = append(tasks, l.copyTable(table), l.finishTable(table))
		}
		m.watch(tasks)
		const last = seconds + 1 // a second for statistics
		for tenth := range last * 10 {
			now := began.Add(time.Duration(tenth) * 100 * time.Millisecond)
			done := min(1, float64(tenth)/(seconds*10))
			for i := 0; i < len(tasks); i += 2 {
				c, statistics := tasks[i], tasks[i+1]
				c.began.CompareAndSwap(0, now.UnixNano())
				c.bytes.Store(int64(done * bytes))
				if tenth%10 == 0 {
					c.learn(int64(done*rows), int64(done*bytes))
				}
				if done == 1 {
					c.ended.CompareAndSwap(0, now.UnixNano())
					statistics.began.CompareAndSwap(0, now.UnixNano())
				}
			}
			p := m.read(now)
			truth := last - float64(tenth)/10
			if done > 0.5 && truth > 5 && math.Abs(p.ETASeconds-truth) > 0.2*truth {
				t.Errorf("%d jobs: %.1f s before the end %.1f s were said to be left", jobs, truth, p.ETASeconds)
			}
		}
	}
}

// TestPaceOfKinds: what is left is said by the pace of its own kind of work.
func TestPaceOfKinds(t *testing.T) {
	t.Parallel()
	const mb = 1 << 20
	copies := pace{done: 100 * mb, seconds: 4}
	fast, slow := pace{done: 100 * mb, seconds: 4}, pace{done: 50 * mb, left: 50 * mb, seconds: 6, busy: 2}
	if got := eta(copies, map[string]pace{"index": fast, "statistics": slow}); got < 2.5 || got > 3 {
		t.Errorf("of two workers' 3 s, %.2f were said to be left", got)
	}
	if got := eta(copies, map[string]pace{"index": {left: 100 * mb, busy: 4}}); got < 0.9 || got > 1.1 {
		t.Errorf("of what nothing is known yet, %.2f s were said to be left", got)
	}
}

func near(got, want float64) bool { return math.Abs(got-want) < want*0.01 }
