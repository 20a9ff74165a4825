package handover

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// leakSlot is the temporary slot that shows writes after the fence.
func (r *run) leakSlot() string { return postgres.ClusterName(r.Migration, "leak") }

// pause holds traffic back. The intention is noted first: whoever comes after a
// death in this phase finds nothing else that shows it.
func (r *run) pause(ctx context.Context) error {
	if err := journal.Put(ctx, r.holder, journalKind, keyPaused, r.attempt); err != nil {
		return postgres.Wrap(r.Holder.Side, "writing the journal", err)
	}
	return r.Traffic.Pause(ctx, r.route())
}

func (r *run) undoPause(ctx context.Context) error {
	if err := r.Traffic.Abort(ctx, r.route()); err != nil {
		return err
	}
	if err := r.aliveHolder(ctx); err != nil {
		return err
	}
	return journal.Delete(ctx, r.holder, journalKind, keyPaused)
}

// TrafficPaused says whether a handover has begun to hold traffic back on this
// holder and has neither let it go nor moved it.
func TrafficPaused(ctx context.Context, holder *pgx.Conn) (bool, error) {
	if holder == nil {
		return false, nil
	}
	var attempt int64
	return journal.Get(ctx, holder, journalKind, keyPaused, &attempt)
}

// fence leaves the holder without any session that could write, and proves it:
// commit, barrier, evict, proof (rule 2, a to d), then the slot for the leak
// check. It runs on the session that holds the lock.
func (r *run) fence(ctx context.Context) error {
	database := r.Holder.Database()
	if err := fence.Raise(ctx, r.holder, database, r.HolderKeeps, nil); err != nil {
		return postgres.Wrap(r.Holder.Side, "raising the fence", err)
	}
	deadline, _ := ctx.Deadline()
	if err := fence.Barrier(ctx, r.holder, database, time.Until(deadline)); err != nil {
		return postgres.Wrap(r.Holder.Side, "waiting at the barrier for sessions that start up", err)
	}
	ours := []int32{int32(r.holder.PgConn().PID()), int32(r.watchHolder.PgConn().PID())}
	if _, err := fence.Evict(ctx, r.holder, ours, replication.AllOf(r.Migration)); err != nil {
		return postgres.Wrap(r.Holder.Side, "ending the sessions that could still write", err)
	}
	if err := fence.OpenLeakCheck(ctx, r.holder, r.leakSlot()); err != nil {
		return postgres.Wrap(r.Holder.Side, "creating the slot of the leak check", err)
	}
	return nil
}

// undoFence lets applications in again. The session that raised the fence may be
// gone, with the budget or the network: then another one lifts it.
func (r *run) undoFence(ctx context.Context) error {
	if err := r.aliveHolder(ctx); err != nil {
		return err
	}
	if err := fence.CloseLeakCheck(ctx, r.holder, r.leakSlot()); err != nil {
		return err
	}
	return fence.Lift(ctx, r.holder, r.Holder.Database())
}

// aliveHolder makes sure that there is a session with the lock on the holder. It
// opens another one when the old one is unusable, after making sure that the
// old one is gone.
func (r *run) aliveHolder(ctx context.Context) error {
	if !r.holder.IsClosed() {
		return nil
	}
	old := int32(r.holder.PgConn().PID())
	for {
		err := r.replaceHolder(ctx, old)
		if err == nil {
			return nil
		}
		if postgres.Pause(ctx, 200*time.Millisecond) != nil {
			return err
		}
	}
}

// replaceHolder opens a new session on the holder and takes the lock over. The
// lock, once acquired, proves that the old session is gone and will commit
// nothing any more.
func (r *run) replaceHolder(ctx context.Context, old int32) error {
	conn, err := r.Holder.Connect(ctx)
	if err != nil {
		return err
	}
	holder, err := journal.LockHolder(ctx, conn)
	if err == nil && holder == old {
		_, err = conn.Exec(ctx, `SELECT pg_catalog.pg_terminate_backend($1)`, old)
	}
	ok, who := false, ""
	if err == nil {
		ok, who, err = journal.Lock(ctx, conn)
	}
	if err == nil && !ok {
		err = fmt.Errorf("the operator's lock is held by %s", who)
	}
	if err != nil {
		conn.Close(ctx)
		return err
	}
	r.holder = conn
	return nil
}

// drain proves that the taker has applied everything up to the fence: a marker
// written behind it is visible there, for every group (rule 3). Beside it, the
// tables are compared once more: a table created since ready would be lost.
func (r *run) drain(ctx context.Context) error {
	drains, ctx := errgroup.WithContext(ctx)
	tokens := make([]string, len(r.Groups))
	for i, g := range r.Groups {
		token, err := replication.WriteMarker(ctx, r.holder, g.MarkerTable(), replication.Drain)
		if err != nil {
			return postgres.Wrap(r.Holder.Side, "writing the drain's marker", err)
		}
		tokens[i] = token
	}
	drains.Go(func() error {
		for i, g := range r.Groups {
			if err := replication.WaitMarker(ctx, r.taker, g.MarkerTable(), tokens[i]); err != nil {
				return postgres.Wrap(r.Taker.Side, "waiting until everything up to the fence is applied", err)
			}
		}
		return nil
	})
	drains.Go(func() error { // in sessions of its own
		diff, err := r.compareTables(ctx)
		if err == nil && len(diff) > 0 {
			err = fmt.Errorf("the tables changed since the handover was found ready: %s", strings.Join(diff, "; "))
		}
		return err
	})
	return drains.Wait()
}

func (r *run) compareTables(ctx context.Context) ([]string, error) {
	diff, err := replication.Streams(ctx, r.watchHolder, r.watchTaker, r.Holder.Version(), r.Taker.Version(), r.Groups)
	return diff, postgres.Wrap(r.Holder.Side, "comparing the tables of both sides", err)
}

// setSequences sets every sequence of the taker exactly as on the holder. Only
// here, before the pass: later the taker's own writes would be undone.
func (r *run) setSequences(ctx context.Context) error {
	values, err := replication.ReadSequences(ctx, r.holder, r.sequences)
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "reading the sequences", err)
	}
	return postgres.Wrap(r.Taker.Side, "setting the sequences", replication.SetSequences(ctx, r.taker, values))
}

// wayBack ends the stream to the taker: nothing may flow into it once it is
// open. Then one commit that writes WAL, with synchronous_commit on: what was
// applied, and the sequences, are durable before the pass.
func (r *run) wayBack(ctx context.Context) error {
	for _, g := range r.Groups {
		if err := replication.SetEnabled(ctx, r.taker, g.Name(), false); err != nil {
			return postgres.Wrap(r.Taker.Side, "disabling subscription "+g.Name(), err)
		}
	}
	if err := r.durable(ctx); err != nil {
		return postgres.Wrap(r.Taker.Side, "making what was applied durable", err)
	}
	return nil
}

func (r *run) durable(ctx context.Context) error {
	tx, err := r.taker.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = on"); err != nil {
		return err
	}
	if err := journal.Put(ctx, tx, journalKind, keyDrained, map[string]any{"generation": r.generation + 1, "attempt": r.attempt}); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// Drained says whether a handover to this taker has ever got as far as the pass.
func Drained(ctx context.Context, taker *pgx.Conn) (bool, error) {
	var at map[string]any
	return journal.Get(ctx, taker, journalKind, keyDrained, &at)
}

// streamTimeout bounds the re-enabling of the stream in an abort: the holder is
// unfenced after it, and the taker may be down.
const streamTimeout = 3 * time.Second

// undoWayBack lets the stream to the taker flow again.
func (r *run) undoWayBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	if r.taker.IsClosed() {
		conn, err := r.Taker.Connect(ctx)
		if err != nil {
			return err
		}
		r.taker = conn
	}
	for _, g := range r.Groups {
		if err := replication.SetEnabled(ctx, r.taker, g.Name(), true); err != nil {
			return err
		}
	}
	return nil
}

// pass is the point of no return: one synchronous commit on the holder. Right
// before it, the leak check: nobody has written since the fence.
func (r *run) pass(ctx context.Context) error {
	publications := make([]string, len(r.Groups))
	for i, g := range r.Groups {
		publications[i] = g.Name()
	}
	leaks, err := fence.Leaks(ctx, r.holder, r.leakSlot(), publications)
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "looking for writes after the fence", err)
	}
	if len(leaks) > 0 {
		return fence.LeakError(leaks)
	}
	tx, err := r.holder.Begin(ctx)
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "passing the baton", err)
	}
	if _, err = tx.Exec(ctx, "SET LOCAL synchronous_commit = on"); err == nil {
		err = journal.ExecOne(ctx, tx, journal.PassSQL, r.generation, r.attempt)
	}
	if err != nil {
		_ = tx.Rollback(context.WithoutCancel(ctx)) // the session's end rolls back too
		return postgres.Wrap(r.Holder.Side, "passing the baton", err)
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

// passTimeout bounds the wait for the pass, and the asking after a lost one.
const passTimeout = 30 * time.Second

// askForPass finds out whether a commit whose answer was lost took place: the
// old session is ended, the lock acquired (that proves it gone), then the record
// is read.
func (r *run) askForPass(ctx context.Context, lost error) error {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	if err := r.aliveHolder(ctx); err != nil {
		return &Unknown{Err: errors.Join(postgres.Wrap(r.Holder.Side, "passing the baton", lost), err)}
	}
	record, err := journal.Read(ctx, r.holder)
	switch {
	case err != nil || record == nil:
		return &Unknown{Err: errors.Join(postgres.Wrap(r.Holder.Side, "passing the baton", lost), err)}
	case record.HandedOver && record.Generation == r.generation+1:
		return nil
	}
	return postgres.Wrap(r.Holder.Side, "passing the baton", lost)
}
