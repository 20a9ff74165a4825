package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DB is a session or a transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Pause waits for d between two looks at a server, or until ctx ends; then it
// returns the reason.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Durably runs f in a transaction whose commit is on disk when it returns, whatever
// synchronous_commit the role or the database has by default.
func Durably(ctx context.Context, conn *Session, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{BeginQuery: BeginDurably}, f)
}

// BeginDurably begins such a transaction, in one message.
const BeginDurably = "BEGIN; SET LOCAL synchronous_commit = on"

// EachThere runs f for each item, all in one transaction. Items of which something is
// not there any more, as f's error says, are left out, and returned; the others are
// done all the same.
func EachThere[T any](ctx context.Context, conn *Session, items []T, f func(pgx.Tx, T) error) (gone []T, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, item := range items {
			if err := f(tx, item); err != nil {
				return err
			}
		}
		return nil
	})
	if !Gone(err) {
		return nil, err
	}
	// Savepoints only now: applications may be waiting.
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, item := range items {
			err := pgx.BeginFunc(ctx, tx, func(save pgx.Tx) error { return f(save, item) })
			switch {
			case Gone(err):
				gone = append(gone, item)
			case err != nil:
				return err
			}
		}
		return nil
	})
	return gone, err
}
