package tablecopy

import (
	"sync"
	"sync/atomic"
	"time"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
)

const (
	// observeEvery is the interval of event.Progress.
	observeEvery = 250 * time.Millisecond
	// rateWindow is how far back the rate looks: long enough to smooth over a
	// checkpoint, short enough to follow a change of load.
	rateWindow = 10 * time.Second
)

// TableState is a table being copied.
type TableState struct {
	Table    postgres.Ident `json:"table"`
	Bytes    int64          `json:"bytes"`    // of the COPY stream, so far
	Estimate int64          `json:"estimate"` // the table's size on disk, or Bytes once that is more
	Seconds  float64        `json:"seconds"`  // since its copy began
}

// stage is how far a table is.
type stage int32

const (
	waiting stage = iota
	running
	copied
)

// tableCopy is a table of the job with its counters. One worker writes them,
// everybody reads.
type tableCopy struct {
	catalog.Table
	stage atomic.Int32 // a stage
	began atomic.Int64 // Unix nanoseconds; set before stage is running
	bytes atomic.Int64
}

// add counts bytes passed on.
func (t *tableCopy) add(n int) { t.bytes.Add(int64(n)) }

// expected is the size that the stream will have had: the real one once the
// table is copied, before that an estimate that what has been copied may exceed.
func (t *tableCopy) expected() int64 {
	bytes := t.bytes.Load()
	if stage(t.stage.Load()) == copied {
		return bytes
	}
	return max(t.Bytes, bytes)
}

// meter knows how far the whole copy is. Safe for concurrent use.
type meter struct {
	tables []*tableCopy
	rows   atomic.Int64 // of copied tables

	mu      sync.Mutex
	samples []sample // of the last rateWindow, oldest first, at most one per sampleEvery
}

type sample struct {
	at    time.Time
	bytes int64
}

const sampleEvery = 200 * time.Millisecond

func newMeter(tables []catalog.Table, now time.Time) *meter {
	m := &meter{samples: []sample{{at: now}}}
	for _, t := range tables {
		m.tables = append(m.tables, &tableCopy{Table: t})
	}
	return m
}

func (m *meter) begin(t *tableCopy, now time.Time) {
	t.began.Store(now.UnixNano())
	t.stage.Store(int32(running))
}

func (m *meter) end(t *tableCopy, rows int64) {
	m.rows.Add(rows)
	t.stage.Store(int32(copied))
}

// read returns the state of the whole and of the tables being copied.
func (m *meter) read(now time.Time) (event.Progress, []TableState) {
	p := event.Progress{TablesTotal: len(m.tables)}
	var states []TableState
	for _, t := range m.tables {
		bytes, expected := t.bytes.Load(), t.expected()
		p.BytesCopied += bytes
		p.BytesTotal += max(bytes, expected)
		switch stage(t.stage.Load()) {
		case copied:
			p.TablesCopied++
		case running:
			states = append(states, TableState{Table: t.Ident, Bytes: bytes, Estimate: max(bytes, expected),
				Seconds: now.Sub(time.Unix(0, t.began.Load())).Seconds()})
		}
	}
	p.BytesPerSec = m.rate(now, p.BytesCopied)
	if remaining := p.BytesTotal - p.BytesCopied; remaining > 0 && p.BytesPerSec > 0 {
		p.ETASeconds = float64(remaining) / p.BytesPerSec
	}
	return p, states
}

// rate is the moving average in bytes per second.
func (m *meter) rate(now time.Time, bytes int64) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
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
