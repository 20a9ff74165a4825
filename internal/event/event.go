// Package event holds what pgbaton's logic tells whoever watches: typed values,
// never text. Package ui renders them; a program reads them as JSON.
package event

import (
	"time"

	"pgbaton/internal/postgres"
)

// Event is one thing that happened.
type Event interface {
	// Type names the event in JSON; it is part of the output contract.
	Type() string
}

// Observer receives events, possibly from several goroutines at once.
type Observer func(Event)

// StepBegan says that a step of the migration has begun.
type StepBegan struct {
	Step string `json:"step"`
}

// StepEnded says that a step is complete. Skipped steps were found done.
type StepEnded struct {
	Step    string  `json:"step"`
	Seconds float64 `json:"seconds"`
	Skipped bool    `json:"skipped,omitempty"`
}

// Waiting says that a server makes us wait, and for whom.
type Waiting struct {
	For     string        `json:"for"`               // what is waited for
	Side    postgres.Side `json:"side"`              // on which side
	Behind  []string      `json:"behind,omitempty"`  // the sessions or objects in the way
	Seconds float64       `json:"seconds,omitempty"` // since when
}

// Warning is something a person should know; the work goes on.
type Warning struct {
	Side   postgres.Side `json:"side,omitempty"`
	Text   string        `json:"text"`
	Remedy string        `json:"remedy,omitempty"`
}

// Progress is how far the copy is. Bytes are those of the COPY stream; of
// tables not yet copied they are an estimate.
type Progress struct {
	TablesTotal  int     `json:"tables_total"`
	TablesCopied int     `json:"tables_copied"`
	BytesTotal   int64   `json:"bytes_total"`
	BytesCopied  int64   `json:"bytes_copied"`
	BytesPerSec  float64 `json:"bytes_per_second"`
	IndexesTotal int     `json:"indexes_total"` // keys included
	IndexesBuilt int     `json:"indexes_built"`
	ETASeconds   float64 `json:"eta_seconds"` // until the rows, the indexes and all that follows them are there
	Running      []Task  `json:"running,omitempty"`
}

// Task is one thing that is being done right now while a database is loaded.
type Task struct {
	What    string  `json:"what"`            // copy, index, key, statistics, foreign key
	Name    string  `json:"name"`            // of the table, index or constraint, quoted
	Done    int64   `json:"done"`            // of a copy: bytes of the COPY stream; of an index build: what the server counts in this phase
	Total   int64   `json:"total"`           // in the same unit, of a copy an estimate; 0 when nobody knows
	Phase   string  `json:"phase,omitempty"` // of an index build, in the server's words
	Seconds float64 `json:"seconds"`         // since it began
}

// RetainedWAL says how much WAL the source keeps for our slots during a copy, and
// when that meets a limit.
type RetainedWAL struct {
	Bytes       int64   `json:"bytes"`
	BytesPerSec float64 `json:"bytes_per_second"`       // by which it grows
	Limit       int64   `json:"limit,omitempty"`        // 0: none is known
	LimitOf     string  `json:"limit_of,omitempty"`     // max_slot_wal_keep_size, free disk, or --max-slot-wal
	SecondsLeft float64 `json:"seconds_left,omitempty"` // until the limit, at this rate; 0 when it does not grow, there is no limit, or it is months away
}

// TableCopied says that all rows of a table are on the target, committed.
type TableCopied struct {
	Table   string  `json:"table"`
	Rows    int64   `json:"rows"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

// Forecast is what a handover will probably cost, said before anyone waits.
type Forecast struct {
	LagBytes         int64    `json:"lag_bytes"`
	RoundTripMS      float64  `json:"marker_round_trip_ms"`
	ApplyBytesPerSec float64  `json:"apply_bytes_per_second"` // measured on that marker's way
	Tables           int      `json:"tables"`
	Sequences        int      `json:"sequences"`
	Sessions         int      `json:"sessions"`
	OpenTransactions []string `json:"open_transactions,omitempty"`
	MaxPauseMS       float64  `json:"max_pause_ms"`
}

// GuardianStarted says which process stands by during a handover.
type GuardianStarted struct {
	PID int `json:"pid"`
}

// Working says what a phase of a handover is doing that takes its time. Nobody waits
// for it but the operator.
type Working struct {
	Phase   string  `json:"phase"`
	Doing   string  `json:"doing"`
	Seconds float64 `json:"seconds"` // since the phase began
}

// PhaseEnded is one phase of a handover, with the time it took.
type PhaseEnded struct {
	Phase string  `json:"phase"`
	MS    float64 `json:"ms"`
}

// PhaseUndone says that a phase was taken back while a handover was aborted.
type PhaseUndone struct {
	Phase string `json:"phase"`
}

// Type implements Event.
func (StepBegan) Type() string { return "step_began" }

// Type implements Event.
func (StepEnded) Type() string { return "step_ended" }

// Type implements Event.
func (Waiting) Type() string { return "waiting" }

// Type implements Event.
func (Working) Type() string { return "working" }

// Type implements Event.
func (Warning) Type() string { return "warning" }

// Type implements Event.
func (Progress) Type() string { return "progress" }

// Type implements Event.
func (RetainedWAL) Type() string { return "retained_wal" }

// Type implements Event.
func (TableCopied) Type() string { return "table_copied" }

// Type implements Event.
func (Forecast) Type() string { return "forecast" }

// Type implements Event.
func (GuardianStarted) Type() string { return "guardian_started" }

// Type implements Event.
func (PhaseEnded) Type() string { return "phase_ended" }

// Type implements Event.
func (PhaseUndone) Type() string { return "phase_undone" }

// Since is the time since t in seconds, for events.
func Since(t time.Time) float64 { return time.Since(t).Seconds() }

// MS is a duration in milliseconds, for events and reports.
func MS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
