package handover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// Result tells how a handover went. Times are milliseconds.
type Result struct {
	Command string        `json:"command"`
	Baton   postgres.Side `json:"baton"`
	From    postgres.Side `json:"from"`
	To      postgres.Side `json:"to"`
	Began   time.Time     `json:"began"`
	PauseMS float64       `json:"pause_ms"` // from the beginning of pause to the end of resume, or of the undoing
	// From the moment the fence begins to rise to the moment the taker is open:
	// no commit of an application falls in between. 0 when not all of that was in
	// this run.
	DatabasePauseMS float64     `json:"database_pause_ms"`
	Phases          []PhaseTime `json:"phases"`
	Resumed         bool        `json:"resumed,omitempty"`  // an earlier handover was completed: the pause was longer than this run
	Already         bool        `json:"already,omitempty"`  // the baton was there before, traffic too: at most it was tidied up
	Guardian        bool        `json:"guardian,omitempty"` // the guardian did it
	Aborted         string      `json:"aborted,omitempty"`  // the phase in which it was given up
	Reason          string      `json:"reason,omitempty"`
	Forced          bool        `json:"forced,omitempty"` // without the holder: --holder-lost
}

// PhaseTime is when, after the beginning, a phase began, and how long it took.
type PhaseTime struct {
	Name string  `json:"name"`
	AtMS float64 `json:"at_ms"`
	MS   float64 `json:"ms"`
}

// Aborted says that the handover was given up before the pass and undone: the
// holder serves again. Exit code 4.
type Aborted struct {
	Phase string
	Err   error
	Lost  []error // what could not be undone; then the holder may not serve yet
}

// Error implements error.
func (a *Aborted) Error() string {
	s := fmt.Sprintf("handover aborted in phase %s: %s", a.Phase, postgres.Describe(a.Err))
	if len(a.Lost) > 0 {
		s += "; and it could not be undone: " + errors.Join(a.Lost...).Error()
	}
	return s
}

// Unwrap implements errors.Unwrap.
func (a *Aborted) Unwrap() error { return a.Err }

// AfterPass says that the baton has passed, but something after it needs
// attention. Exit code 6.
type AfterPass struct {
	Problems []error
}

// Unwrap implements errors.Unwrap.
func (a *AfterPass) Unwrap() []error { return a.Problems }

// Error implements error.
func (a *AfterPass) Error() string {
	return "the baton has passed, but: " + errors.Join(a.Problems...).Error()
}

// Unknown says that the outcome of the pass could not be read. Both sides stay
// fenced. Exit code 7.
type Unknown struct{ Err error }

// Error implements error.
func (u *Unknown) Error() string {
	return "whether the baton has passed could not be read, both sides stay fenced: " + u.Err.Error()
}

// Unwrap implements errors.Unwrap.
func (u *Unknown) Unwrap() error { return u.Err }

// remember keeps the result for `pgbaton report`. A handover does not fail for
// want of it.
func (r *run) remember(ctx context.Context, conn *postgres.Session) {
	if conn == nil || conn.IsClosed() || r.result.Already {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), streamTimeout)
	defer cancel()
	_ = resultEntries.Put(ctx, conn, r.result.Began.UTC().Format(time.RFC3339Nano), r.result)
}

// Worked says whether anybody has begun, ended or taken over a handover within a time.
func Worked(ctx context.Context, db postgres.DB, within time.Duration) (worked bool, err error) {
	return journal.Written(ctx, db, within, journal.Attempt, journal.Result) // of the kind of Attempt is all that a handover notes
}

// Results reads the handovers that a side remembers, by the time they began.
func Results(ctx context.Context, db postgres.DB) (map[string]Result, error) {
	return resultEntries.List(ctx, db)
}
