package tablecopy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
)

// worker does tasks, one after the other, in its own sessions.
type worker struct {
	*loader
	source   *pgconn.PgConn
	snapshot string // that the source's session reads under
	target   *pgconn.PgConn
	buf      []byte
}

// work does tasks until there are no more.
func (l *loader) work(ctx context.Context) error {
	w := &worker{loader: l}
	var err error
	defer func() { w.close(ctx, err != nil) }()
	for {
		t := l.schedule.take()
		if t == nil {
			return nil
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
			return err
		}
		if err = w.try(ctx, t); err != nil {
			return err
		}
		t.ended.Store(time.Now().UnixNano())
		l.schedule.finished(t)
	}
}

// tries is how often a task is tried when what failed may be better in a moment.
const tries = 4

// try does a task, again after a transient failure.
func (w *worker) try(ctx context.Context, t *task) error {
	t.began.Store(time.Now().UnixNano())
	for n := 1; ; n++ {
		err := w.open(ctx, t.class)
		if err == nil {
			t.pid.Store(int64(w.target.PID()))
			err = t.run(ctx, w, n)
		}
		if err == nil {
			return nil
		}
		w.close(ctx, true)
		if ctx.Err() != nil || !Transient(err) || n == cmp.Or(w.job.Tries, tries) {
			return err
		}
		if !w.witness.alive(ctx) {
			// Commits here are asynchronous: what a crash of the server has taken
			// back is known only to itself.
			return fmt.Errorf("%w: %w", ErrTargetRestarted, err)
		}
		t.bytes.Store(0)
		w.observe(event.Warning{Side: sideOf(err), Text: fmt.Sprintf("%s %s: %s; it is tried again", t.what, t.name, postgres.Describe(err))})
		if err := postgres.Pause(ctx, time.Second<<(n-1)); err != nil {
			return context.Cause(ctx)
		}
	}
}

// ErrTargetRestarted says that the target's server was gone for a moment. What of
// the load is there has to be read anew before it goes on.
var ErrTargetRestarted = errors.New("the target's server has restarted")

// Transient says whether a failure may be gone in a moment: a lost connection, a
// server that restarts or that ended the session, a deadlock.
func Transient(err error) bool {
	if errors.Is(err, ErrSnapshotGone) {
		return false
	}
	switch code := postgres.Code(err); {
	case code == adminShutdown, code == crashShutdown, code == cannotConnectNow, code == tooManyConnections,
		code == serializationFailure, code == deadlockDetected, strings.HasPrefix(code, classConnection):
		return true
	case code != "":
		return false
	}
	return lost(err)
}

func sideOf(err error) postgres.Side {
	var e *postgres.Error
	if errors.As(err, &e) {
		return e.Side
	}
	return ""
}

// open opens what sessions are missing.
func (w *worker) open(ctx context.Context, c class) (err error) {
	if w.target == nil {
		if w.target, err = openTarget(ctx, w.job.Target, w.memory); err != nil {
			return err
		}
	}
	if c == building || w.source != nil {
		return nil
	}
	if w.buf == nil {
		w.buf = make([]byte, bufferSize)
	}
	w.source, err = openSource(ctx, w.job.Source)
	return err
}

// read makes the source's session read under a snapshot.
func (w *worker) read(ctx context.Context, snapshot string) error {
	if w.snapshot == snapshot {
		return nil
	}
	if err := importSnapshot(ctx, w.source, snapshot); err != nil {
		return err
	}
	w.snapshot = snapshot
	return nil
}

func (w *worker) close(ctx context.Context, failed bool) {
	for _, conn := range []*pgconn.PgConn{w.source, w.target} {
		if conn != nil {
			end(ctx, conn, failed)
		}
	}
	w.source, w.target, w.snapshot = nil, nil, ""
}

// witness is a session on the target that lasts as long as the server does: a
// crash ends all sessions at once. It also asks the server how far it is.
type witness struct {
	mu   sync.Mutex
	conn *pgconn.PgConn
}

func (w *witness) alive(ctx context.Context) bool {
	_, err := w.ask(ctx, "SELECT 1")
	return err == nil
}

// ask runs a query that returns text.
func (w *witness) ask(ctx context.Context, sql string) ([][][]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	results, err := w.conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return nil, err
	}
	return results[len(results)-1].Rows, nil
}
