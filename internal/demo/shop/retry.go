package shop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

var (
	// ErrUnavailable is what remains when the database could not be used for
	// as long as the store may retry. Nothing was changed.
	ErrUnavailable = errors.New("the database cannot be reached")

	// ErrOutcomeUnknown says that a commit was sent and its answer lost, and
	// that the database could not be asked since.
	ErrOutcomeUnknown = errors.New("it is not known whether the change was made")
)

// A commitError is a commit that was sent and whose answer was lost.
type commitError struct{ err error }

func (e *commitError) Error() string { return "commit: " + e.err.Error() }
func (e *commitError) Unwrap() error { return e.err }

// Whether an attempt may be repeated although its commit may have happened.
type repeat bool

const (
	repeatable    repeat = true  // twice is the same as once
	notRepeatable repeat = false // twice would be once too often
)

// attempt runs fn until it succeeds, fails for good, or the database has been
// away for RetryFor. Every attempt takes the pool that is current then, so a
// request that began on one database may end on another: during a handover it
// is late, and not lost.
//
// What failed before its commit was sent has changed nothing and is always
// tried again. When the answer to a commit is lost, only what is repeatable is.
func (s *Store) attempt(ctx context.Context, again repeat, fn func(ctx context.Context, pool *pgxpool.Pool) error) error {
	var (
		deadline time.Time
		unknown  error // ErrOutcomeUnknown from the first lost commit on
		delay    = 2 * time.Millisecond
	)
	for {
		g, err := s.acquire()
		if err != nil {
			return because(unknown, err)
		}
		err = fn(ctx, g.pool)
		g.users.Done()
		if err == nil {
			return nil
		}
		var commit *commitError
		lost := errors.As(err, &commit)
		if lost {
			unknown = ErrOutcomeUnknown
		}
		if !lost && !transient(err) {
			return because(unknown, err)
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(s.options.RetryFor)
		}
		if (lost && again == notRepeatable) || ctx.Err() != nil || !time.Now().Before(deadline) {
			return because(cmp.Or(unknown, ErrUnavailable), err)
		}
		select {
		case <-time.After(delay):
		case <-g.retired:
		case <-ctx.Done():
		}
		delay = min(2*delay, 100*time.Millisecond)
	}
}

// because puts what it means for the caller, if anything, before the cause.
func because(meaning, cause error) error {
	if meaning == nil {
		return cause
	}
	return fmt.Errorf("%w: %w", meaning, cause)
}

// inTx runs fn in one transaction and tells a lost commit from other failures.
func inTx(ctx context.Context, pool *pgxpool.Pool, fn func(tx pgx.Tx) error) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		// The connection goes back clean or is closed by the pool; either
		// way the transaction is gone, and fn's error is the one that matters.
		_ = tx.Rollback(context.WithoutCancel(ctx))
		return err
	}
	err = tx.Commit(ctx)
	var refused *pgconn.PgError
	switch {
	case err == nil, errors.Is(err, pgx.ErrTxCommitRollback):
		return err
	case errors.As(err, &refused) && refused.SeverityUnlocalized == "ERROR":
		return err // the server answered: it did not commit
	default:
		return &commitError{err}
	}
}

// transient tells whether another attempt, perhaps on another server, may
// succeed where this one did not.
func transient(err error) bool {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		switch answer.Code {
		case "25006", // read_only_sql_transaction: fenced, or a standby
			"40001", // serialization_failure
			"40P01": // deadlock_detected
			return true
		}
		// Class 08 also comes from a pooler that lost its server. FATAL ends
		// or refuses a session: shut down (57P01, 57P03), CONNECT revoked
		// (42501), too many connections (53300), database closed to
		// connections (55000). A wrong password or name (28, 3D) stays wrong.
		class := answer.Code[:2]
		fatal := answer.SeverityUnlocalized == "FATAL" || answer.SeverityUnlocalized == "PANIC"
		return class == "08" || fatal && class != "28" && class != "3D"
	}
	var (
		connect *pgconn.ConnectError
		network net.Error
	)
	return errors.As(err, &connect) ||
		errors.As(err, &network) ||
		errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) ||
		errors.Is(err, pgconn.ErrConnClosed) ||
		pgconn.SafeToRetry(err)
}
