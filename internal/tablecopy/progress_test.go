package tablecopy

import (
	"math"
	"testing"
	"time"

	"pgbaton/internal/catalog"
)

// TestMeter follows a copy on a clock of its own: 100 bytes per second at first,
// 1000 later; the second table turns out larger than it was thought to be.
func TestMeter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	m := newMeter([]catalog.Table{{Bytes: 10000}, {Bytes: 10}}, now)
	big, small := m.tables[0], m.tables[1]
	m.begin(big, now)
	for range 80 { // 20 seconds
		now = now.Add(250 * time.Millisecond)
		big.add(25)
		m.read(now)
	}
	p, running := m.read(now)
	if p.TablesTotal != 2 || p.TablesCopied != 0 || p.BytesCopied != 2000 || p.BytesTotal != 10010 || !near(p.BytesPerSec, 100) || !near(p.ETASeconds, 80.1) {
		t.Errorf("%+v", p)
	}
	if len(running) != 1 || running[0].Bytes != 2000 || running[0].Estimate != 10000 || running[0].Seconds != 20 {
		t.Errorf("%+v", running)
	}
	m.begin(small, now)
	for range 40 { // 10 seconds: the slow ones are forgotten
		now = now.Add(250 * time.Millisecond)
		small.add(250)
		m.read(now)
	}
	if p, _ := m.read(now); p.BytesTotal != 20000 || p.BytesCopied != 12000 || !near(p.BytesPerSec, 1000) || !near(p.ETASeconds, 8) {
		t.Errorf("%+v", p)
	}
	m.end(big, 5) // it was smaller than it was thought to be
	m.end(small, 7)
	p, running = m.read(now)
	if p.TablesCopied != 2 || p.BytesTotal != 12000 || p.ETASeconds != 0 || len(running) != 0 || m.rows.Load() != 12 {
		t.Errorf("%+v, %+v", p, running)
	}
}

func near(got, want float64) bool { return math.Abs(got-want) < want*0.01 }
