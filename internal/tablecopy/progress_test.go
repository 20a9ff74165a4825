package tablecopy

import (
	"math"
	"testing"
	"time"

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

func near(got, want float64) bool { return math.Abs(got-want) < want*0.01 }
