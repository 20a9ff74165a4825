package handover

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"pgbaton/internal/event"
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

// pause holds traffic back. The intention was noted right before: whoever comes
// after a death in this phase finds nothing else that shows it.
func (r *run) pause(ctx context.Context) error { return r.Traffic.Pause(ctx, r.Route()) }

func (r *run) notePause(ctx context.Context) error {
	return postgres.Wrap(r.Holder.Side, "writing the journal",
		journal.Put(ctx, r.holder, journalKind, keyPaused, Held{r.attempt, r.Traffic.Names()}))
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
// commit, barrier, evict, proof (rule 2, a to d). It runs on the session that
// holds the lock.
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
	ours := []int32{int32(r.holder.PgConn().PID()), int32(r.holderSide.watch.PgConn().PID())}
	provider, err := fence.Evict(ctx, r.holder, ours, replication.AllOf(r.Migration))
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "ending the sessions that could still write", err)
	}
	if len(provider) > 0 {
		r.Observe(event.Warning{Side: string(r.Holder.Side), Text: "sessions of the provider that cannot be ended: " + strings.Join(provider, "; ")})
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
// written behind it is visible there, for every group (rule 3). Beside it, on
// sessions of their own, the tables are looked at once more: one created since
// ready would be lost. And the sequences are read: nobody calls them any more.
func (r *run) drain(ctx context.Context) error {
	drains, ctx := errgroup.WithContext(ctx)
	drains.Go(func() error { return r.drainStream(ctx) })
	drains.Go(func() error { return r.unchanged(ctx) })
	return drains.Wait()
}

// drainStream makes the slot for the leak check and then the marker: what anybody
// commits before the marker is drained with it, and what comes later is in the
// slot.
func (r *run) drainStream(ctx context.Context) error {
	if err := fence.OpenLeakCheck(ctx, r.holder, r.leakSlot()); err != nil {
		return postgres.WrapHint(r.Holder.Side, "creating the slot of the leak check", err,
			"it waits for every open transaction that has written, in any database of the cluster")
	}
	tokens := make([]string, len(r.Groups))
	for i, g := range r.Groups {
		token, err := replication.WriteMarker(ctx, r.holder, g.MarkerTable(), replication.Drain)
		if err != nil {
			return postgres.Wrap(r.Holder.Side, "writing the drain's marker", err)
		}
		tokens[i] = token
	}
	for i, g := range r.Groups {
		if err := replication.WaitMarker(ctx, r.taker, g.MarkerTable(), tokens[i]); err != nil {
			return postgres.Wrap(r.Taker.Side, "waiting until everything up to the fence is applied", err)
		}
	}
	return nil
}

// side is a party with a second session, and how its tables looked when they were
// compared.
type side struct {
	Party
	watch       *pgx.Conn
	fingerprint string
}

func (r *run) sides() []*side { return []*side{&r.holderSide, &r.takerSide} }

// compareTables compares the tables of both sides, and remembers how they look.
// What changes while it looks is found by unchanged.
func (r *run) compareTables(ctx context.Context) ([]string, error) {
	for _, s := range r.sides() {
		sum, err := replication.Fingerprint(ctx, s.watch, s.Version())
		if err != nil {
			return nil, postgres.Wrap(s.Side, "looking at the tables", err)
		}
		s.fingerprint = sum
	}
	diff, err := replication.Streams(ctx, r.holderSide.watch, r.takerSide.watch, r.Holder.Version(), r.Taker.Version(), r.Groups)
	return diff, postgres.Wrap(r.Holder.Side, "comparing the tables of both sides", err)
}

// unchanged fails when a table or a sequence of either side has changed since the
// sides were compared, and reads the holder's sequences.
func (r *run) unchanged(ctx context.Context) error {
	both, ctx := errgroup.WithContext(ctx)
	for _, s := range r.sides() {
		both.Go(func() error {
			sum, err := replication.Fingerprint(ctx, s.watch, s.Version())
			if err == nil && sum != s.fingerprint {
				err = errors.New("a table or sequence was created, changed or dropped since the handover was found ready")
			}
			if err == nil && s == &r.holderSide {
				if err = r.notRewritten(ctx); err == nil {
					r.values, err = replication.ReadSequences(ctx, s.watch, r.sequences)
				}
			}
			return postgres.WrapHint(s.Side, "looking at the tables once more", err, "run the command again: it says what differs, if anything does")
		})
	}
	return both.Wait()
}

// notRewritten fails when a table was truncated that the stream does not tell of.
func (r *run) notRewritten(ctx context.Context) error {
	for _, g := range r.Groups {
		rewritten, err := replication.Rewritten(ctx, r.holderSide.watch, r.Holder.Version(), r.Taker.Version(), g)
		if err != nil {
			return err
		}
		if len(rewritten) > 0 {
			return errors.New(strings.Join(rewritten, "; "))
		}
	}
	return nil
}

// presetSequences brings the taker's sequences to where the holder's are, before
// anyone waits: then those that have moved on since are few. The taker is fenced:
// nobody else moves them.
func (r *run) presetSequences(ctx context.Context) error {
	values, err := replication.ReadSequences(ctx, r.holderSide.watch, r.sequences)
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "reading the sequences", err)
	}
	r.preset = map[replication.SequenceValue]bool{}
	for _, v := range values {
		r.preset[v] = true
	}
	return postgres.Wrap(r.Taker.Side, "setting the sequences", replication.SetSequences(ctx, r.taker, values))
}

// setSequences sets every sequence of the taker exactly as on the holder. Only
// before the pass: later the taker's own writes would be undone.
func (r *run) setSequences(ctx context.Context) error {
	moved := slices.DeleteFunc(slices.Clone(r.values), func(v replication.SequenceValue) bool { return r.preset[v] })
	return postgres.Wrap(r.Taker.Side, "setting the sequences", replication.SetSequences(ctx, r.taker, moved))
}
