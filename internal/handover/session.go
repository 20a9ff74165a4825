package handover

import (
	"context"
	"errors"
	"time"

	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// This file has the sessions that hold the lock: how a process makes sure that a
// handover is still its own, and how another takes it over.

// grip is what a process has of a handover: the sessions that hold the lock on either
// side, and what tells whether the handover is still its own.
type grip struct {
	c             *Config
	holder, taker *postgres.Session // they may be replaced
	id            string            // of the migration
	by            string            // this process, as the journal names it
	attempt       int64             // 0: nothing was begun
	generation    int64             // that the holder took
	blind         bool              // the holder was out of reach once: others may have acted without it
}

// errTakenOver says that the handover is no longer this process's: the guardian,
// or another command, has raised the attempt.
var errTakenOver = errors.New("another process has taken this handover over")

// errBusy says that another command has the lock. It need not care for this
// handover: when it is done, the attempt tells.
var errBusy = errors.New("another pgbaton is at work")

// mine makes sure that there is a session with the lock on the holder, and that
// nobody has taken the handover over: a process that was stopped and is woken
// later changes nothing any more. It opens another session when the old one is
// unusable, after making sure that the old one is gone.
func (g *grip) mine(ctx context.Context) error {
	for {
		err := g.isMine(ctx)
		if err == nil || errors.Is(err, errTakenOver) {
			return err
		}
		if postgres.Pause(ctx, 200*time.Millisecond) != nil {
			return err
		}
	}
}

func (g *grip) isMine(ctx context.Context) error {
	if g.holder.IsClosed() {
		conn, err := seize(ctx, g.c.Holder.Server, g.holder.PgConn().PID())
		if err != nil {
			g.blind = g.blind || !errors.Is(err, errBusy)
			return err
		}
		g.holder = conn
		g.seen()
		// While the holder was out of reach, the taker may have been given the
		// baton by force. If it was not, a taker that is down is no reason to leave
		// the holder closed: our own deadline ends sessions too.
		takerCtx, cancel := context.WithTimeout(ctx, time.Second)
		err = g.aliveTaker(takerCtx)
		cancel()
		if err != nil && (g.blind || errors.Is(err, errTakenOver)) {
			conn.Close(ctx) // asked again the next time
			return err
		}
	}
	record, err := journal.Read(ctx, g.holder)
	if err == nil && (record == nil || record.Attempt != g.attempt) {
		return errTakenOver
	}
	return err
}

// aliveTaker makes sure that there is a session with the lock on the taker, and
// that it has not taken a generation that is not ours to give. As long as our
// session lives nobody else has had the lock.
func (g *grip) aliveTaker(ctx context.Context) error {
	if g.taker != nil && !g.taker.IsClosed() && g.taker.Ping(ctx) == nil {
		return nil
	}
	conn, err := g.seizeAgain(ctx, g.c.Taker, pid(g.taker))
	if err != nil {
		return err
	}
	g.taker = conn
	g.seen()
	record, err := journal.Read(ctx, conn)
	if err == nil && (record == nil || record.ID != g.id || record.Generation > g.generation) {
		return errTakenOver
	}
	return err
}

// aliveOldHolder makes sure that there is a session with the lock on the side that
// has handed over, and that nothing has happened there since.
func (g *grip) aliveOldHolder(ctx context.Context) error {
	if g.holder != nil && !g.holder.IsClosed() && g.holder.Ping(ctx) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, backTimeout)
	defer cancel()
	conn, err := g.seizeAgain(ctx, g.c.Holder, pid(g.holder))
	if err != nil {
		return err
	}
	record, err := journal.Read(ctx, conn)
	if err == nil && (record == nil || !record.HandedOver || record.Generation != g.generation+1) {
		err = errTakenOver
	}
	if err == nil {
		err = g.taker.Ping(ctx) // alive: it has had the lock all the time
	}
	if err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return err
	}
	g.holder = conn
	g.seen()
	return nil
}

// seizeAgain seizes a side that may just be starting up, until ctx ends.
func (g *grip) seizeAgain(ctx context.Context, p Party, old uint32) (*postgres.Session, error) {
	for {
		conn, err := seize(ctx, p.Server, old)
		if err == nil || postgres.Pause(ctx, 50*time.Millisecond) != nil {
			return conn, err
		}
	}
}

// seen tells the guardian that the sessions are others.
func (g *grip) seen() {
	if g.c.Guard != nil {
		g.c.Guard.Seen(g.ward())
	}
}

// pid is the server's process behind a session, 0 for none.
func pid(conn *postgres.Session) uint32 {
	if conn == nil {
		return 0
	}
	return conn.PgConn().PID()
}

// lateOrder is how long an order to hold traffic back may be under way, of a process
// that has died.
const lateOrder = 500 * time.Millisecond

// letGoLate lets traffic go that is held back for nobody: by an order to hold it
// back that went out, or arrived, when somebody else had taken the handover over,
// and had looked already. It gives up the locks, which whoever is in charge needs,
// and waits until nobody is at work and no handover holds traffic back on purpose.
func (r *run) letGoLate(ctx context.Context) error {
	r.closeBoth(ctx)
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	for {
		idle, err := r.letGoWhenIdle(ctx)
		if idle || postgres.Pause(ctx, 200*time.Millisecond) != nil {
			return err
		}
	}
}

// letGoWhenIdle does so, unless somebody is at work. It has the locks meanwhile: a
// handover that begins now must not find its traffic let go. A side that is out of
// reach can hold nothing back on purpose: every handover needs the other's lock.
func (r *run) letGoWhenIdle(ctx context.Context) (idle bool, err error) {
	r.holder, r.taker = nil, nil
	defer func() { r.closeBoth(context.WithoutCancel(ctx)) }()
	if r.holder, err = seize(ctx, r.Holder.Server, 0); errors.Is(err, errBusy) {
		return false, err
	}
	if r.taker, err = seize(ctx, r.Taker.Server, 0); errors.Is(err, errBusy) {
		return false, err
	}
	if r.holder == nil && r.taker == nil {
		return false, err
	}
	if held, err := heldOnPurpose(ctx, r.holder, r.taker); err != nil || held {
		return false, err
	}
	return true, r.Traffic.Again(ctx, r.Route())
}

// heldOnPurpose says whether a handover of either direction holds traffic back, or
// has died while it did: then it is for the guardian, or the next command.
func heldOnPurpose(ctx context.Context, sides ...*postgres.Session) (bool, error) {
	var handedOver, took int64 // generations
	for _, conn := range sides {
		if conn == nil {
			continue
		}
		record, err := journal.Read(ctx, conn)
		paused, pausedErr := ReadPaused(ctx, conn)
		waits, waitsErr := TrafficWaits(ctx, conn)
		if err := errors.Join(err, pausedErr, waitsErr); err != nil {
			return false, err
		}
		switch {
		case record == nil:
		case record.HandedOver:
			handedOver = max(handedOver, record.Generation)
		case record.Took:
			took = max(took, record.Generation)
			if paused != nil || waits {
				return true, nil
			}
		}
	}
	return handedOver > took, nil
}

// seize opens a session on a side and takes the operator's lock over from the
// session with the pid old. The lock, once acquired, proves that the old session
// is gone and will commit nothing any more. A lock that somebody else holds is
// not taken: whoever it is acts on what the databases say.
func seize(ctx context.Context, server *postgres.Server, old uint32) (*postgres.Session, error) {
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

func seizeLock(ctx context.Context, conn *postgres.Session, old int32) error {
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
			return errBusy
		}
		if err := postgres.Pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}
