package handover

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// passTimeout bounds the wait for the pass, and the asking after a lost one.
const passTimeout = 30 * time.Second

// pass is the point of no return: one synchronous commit on the holder. Right
// before it, the leak check: nobody has written since the fence.
func (r *run) pass(ctx context.Context) error {
	leaks, err := fence.Leaks(ctx, r.holder, r.leakSlot(), r.publications())
	if err != nil {
		return r.Holder.Wrap("looking for writes after the fence", err)
	}
	if len(leaks) > 0 {
		return fence.LeakError(leaks)
	}
	tx, err := r.holder.BeginTx(ctx, pgx.TxOptions{BeginQuery: postgres.BeginDurably})
	if err != nil {
		return r.Holder.Wrap("passing the baton", err)
	}
	if err := journal.ExecOne(ctx, tx, journal.PassSQL, r.generation, r.attempt); err != nil {
		_ = tx.Rollback(context.WithoutCancel(ctx)) // the session's end rolls back too
		return r.Holder.Wrap("passing the baton", err)
	}
	// Once COMMIT is sent, the budget must not cut it short: its outcome would
	// be unknown.
	ctx = context.WithoutCancel(ctx)
	commitCtx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	if err := tx.Commit(commitCtx); err != nil {
		return r.askForPass(ctx, err)
	}
	return nil
}

// publications lists those of the holder.
func (r *run) publications() (names []string) {
	for _, g := range r.Groups {
		names = append(names, g.Name())
	}
	return names
}

// askForPass finds out whether a commit whose answer was lost took place: the
// old session is ended, the lock acquired (that proves it gone), then the record
// is read.
func (r *run) askForPass(ctx context.Context, lost error) error {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	lost = r.Holder.Wrap("passing the baton", lost)
	if r.Guard != nil {
		r.Guard.Aborting() // the budget is no reason to take over: a guardian could not know more
	}
	if err := r.mine(ctx); err != nil {
		return &Unknown{Err: errors.Join(lost, err)}
	}
	record, err := journal.Read(ctx, r.holder)
	switch {
	case err != nil || record == nil:
		return &Unknown{Err: errors.Join(lost, err)}
	case record.HandedOver && record.Generation == r.generation+1:
		return nil
	}
	return lost
}
