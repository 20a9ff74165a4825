package handover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/traffic"
)

// The journal of a handover.
const (
	journalKind = "handover"
	keyPaused   = "paused"  // on the holder: traffic is, or is about to be, held back; value: Held
	keyTraffic  = "traffic" // on the taker: traffic has not been moved to it; value: Held
	keyDrained  = "drained" // on the taker: a handover has got as far as the pass
	keyStream   = "stream"  // on the holder: the stream may be disabled by a handover, not by a person
)

// Held says by what a handover holds traffic back.
type Held struct {
	Attempt int64    `json:"attempt"`
	By      []string `json:"by,omitempty"` // the names of the movers
}

// leakSlot is the temporary slot that shows writes after the fence.
func (r *run) leakSlot() string { return postgres.ClusterName(r.Migration, "leak") }

// pause holds traffic back. The intention is noted first: whoever comes after a
// death in this phase finds nothing else that shows it.
func (r *run) pause(ctx context.Context) error {
	if err := journal.Put(ctx, r.holder, journalKind, keyPaused, Held{r.attempt, r.Traffic.Names()}); err != nil {
		return postgres.Wrap(r.Holder.Side, "writing the journal", err)
	}
	return r.Traffic.Pause(ctx, r.Route())
}

// undoPause lets traffic go, but only as long as the handover is ours: whoever
// took it over may have moved traffic meanwhile.
func (r *run) undoPause(ctx context.Context) error {
	if err := r.mine(ctx); err != nil {
		return err
	}
	if err := r.Traffic.Abort(ctx, r.Route()); err != nil {
		return err
	}
	return journal.Delete(ctx, r.holder, journalKind, keyPaused)
}

// ReadPaused says by what a handover holds back, or is about to hold back, the
// traffic to this holder; nil when nothing does.
func ReadPaused(ctx context.Context, holder *pgx.Conn) (*Held, error) {
	return readHeld(ctx, holder, keyPaused)
}

func readHeld(ctx context.Context, conn *pgx.Conn, key string) (*Held, error) {
	if conn == nil {
		return nil, nil
	}
	var h Held
	ok, err := journal.Get(ctx, conn, journalKind, key, &h)
	if err != nil || !ok {
		return nil, err
	}
	return &h, nil
}

// canLetGo refuses when traffic is held back by something that this command was
// not told of, as when it runs on another host.
func (r *run) canLetGo(h *Held) error {
	if h == nil {
		return nil
	}
	have := r.Traffic.Names()
	for _, name := range h.By {
		if !slices.Contains(have, name) {
			return refusal.New(r.Command, "an earlier handover holds traffic back: "+name,
				"give this command the same --pgbouncer options, so that it can let the traffic go")
		}
	}
	return nil
}

// fence leaves the holder without any session that could write, and proves it:
// commit, barrier, evict, proof (rule 2, a to d), then the slot for the leak
// check. It runs on the session that holds the lock.
func (r *run) fence(ctx context.Context) error {
	database := r.Holder.Database()
	r.fenced = time.Now()
	if err := fence.Raise(ctx, r.holder, database, r.Holder.Keeps, nil); err != nil {
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
	if err := r.mine(ctx); err != nil {
		return err
	}
	if err := fence.CloseLeakCheck(ctx, r.holder, r.leakSlot()); err != nil {
		return err
	}
	return fence.Lift(ctx, r.holder, r.Holder.Database())
}

// errTakenOver says that the handover is no longer this process's: the guardian,
// or another command, has the lock or has raised the attempt.
var errTakenOver = errors.New("another process has taken this handover over")

// mine makes sure that there is a session with the lock on the holder, and that
// nobody has taken the handover over: a process that was stopped and is woken
// later changes nothing any more. It opens another session when the old one is
// unusable, after making sure that the old one is gone.
func (r *run) mine(ctx context.Context) error {
	for {
		err := r.isMine(ctx)
		if err == nil || errors.Is(err, errTakenOver) {
			return err
		}
		if postgres.Pause(ctx, 200*time.Millisecond) != nil {
			return err
		}
	}
}

func (r *run) isMine(ctx context.Context) error {
	if r.holder.IsClosed() {
		conn, err := seize(ctx, r.Holder.Server, r.holder.PgConn().PID())
		if err != nil {
			return err
		}
		r.holder = conn
		r.seen()
		// While the holder was out of reach, the taker may have been given the
		// baton by force.
		if err := r.aliveTaker(ctx); err != nil {
			return err
		}
	}
	record, err := journal.Read(ctx, r.holder)
	if err == nil && (record == nil || record.Attempt != r.attempt) {
		return errTakenOver
	}
	return err
}

// aliveTaker makes sure that there is a session with the lock on the taker, and
// that it has not taken a generation that is not ours to give. As long as our
// session lives nobody else has had the lock.
func (r *run) aliveTaker(ctx context.Context) error {
	if r.taker != nil && !r.taker.IsClosed() && r.taker.Ping(ctx) == nil {
		return nil
	}
	old := uint32(0)
	if r.taker != nil {
		old = r.taker.PgConn().PID()
	}
	conn, err := r.seizeAgain(ctx, r.Taker, old)
	if err != nil {
		return err
	}
	r.taker = conn
	r.seen()
	record, err := journal.Read(ctx, conn)
	if err == nil && (record == nil || record.ID != r.id || record.Generation > r.generation) {
		return errTakenOver
	}
	return err
}

// seizeAgain seizes a side that may just be starting up, until ctx ends.
func (r *run) seizeAgain(ctx context.Context, p Party, old uint32) (*pgx.Conn, error) {
	for {
		conn, err := seize(ctx, p.Server, old)
		if err == nil || errors.Is(err, errTakenOver) || postgres.Pause(ctx, 50*time.Millisecond) != nil {
			return conn, err
		}
	}
}

// seen tells the guardian that the sessions are others.
func (r *run) seen() {
	if r.Guard != nil {
		r.Guard.Seen(r.ward())
	}
}

// letGoLate is for a process that has been stopped, and taken over from, right
// before its order to hold traffic back went out: nobody would let that go.
func (r *run) letGoLate(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	conn, err := r.Holder.Connect(ctx)
	if err != nil {
		return
	}
	defer conn.Close(ctx)
	if paused, err := ReadPaused(ctx, conn); err == nil && paused == nil {
		_ = traffic.Again(ctx, r.Traffic, r.Route()) // who took over is responsible; this only helps
	}
}

// seize opens a session on a side and takes the operator's lock over from the
// session with the pid old. The lock, once acquired, proves that the old session
// is gone and will commit nothing any more. A lock that somebody else holds is
// not taken: whoever it is acts on what the databases say.
func seize(ctx context.Context, server *postgres.Server, old uint32) (*pgx.Conn, error) {
	conn, err := server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if err = seizeLock(ctx, conn, int32(old)); err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return conn, nil
}

func seizeLock(ctx context.Context, conn *pgx.Conn, old int32) error {
	for {
		ok, _, err := journal.Lock(ctx, conn)
		if err != nil || ok {
			return err
		}
		holder, err := journal.LockHolder(ctx, conn)
		switch {
		case err != nil:
			return err
		case holder == old:
			if _, err := conn.Exec(ctx, `SELECT pg_catalog.pg_terminate_backend($1)`, old); err != nil {
				return err
			}
		case holder != 0:
			return errTakenOver
		}
		if err := postgres.Pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
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
