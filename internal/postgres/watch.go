package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/routine"
)

// Stall is a statement of ours that waits inside the server.
type Stall struct {
	Side    Side
	For     string        // in the server's words: wait_event_type and wait_event
	Behind  []string      // the sessions in the way, of a lock
	Elapsed time.Duration // since the statement began
}

// stallAfter is how long a statement may wait before it is said, and how often then.
const stallAfter = 2 * time.Second

// Watch lets notice hear of every statement of sessions opened from now on that waits
// for long. Another session looks, on a database in which none is in the way of a
// fence. It is to be called before the first session is opened.
func (s *Server) Watch(notice func(Stall)) { s.notice = notice }

// tracer watches the statements of a session.
type tracer struct {
	server *Server
	notice func(Stall)
}

// watched is a statement that is watched.
type watched struct {
	cancel context.CancelFunc
	look   *routine.Routine
}

type watchedKey struct{}

// TraceQueryStart implements pgx.QueryTracer.
func (t *tracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	looking, cancel := context.WithCancel(ctx)
	pid, began := conn.PgConn().PID(), time.Now()
	w := &watched{cancel: cancel, look: routine.Start(func() { t.look(looking, pid, began) })}
	return context.WithValue(ctx, watchedKey{}, w)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (t *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if w, ok := ctx.Value(watchedKey{}).(*watched); ok {
		w.cancel()
		w.look.Wait()
	}
}

// stallSQL asks what a session waits for inside the server: not for its client, its
// disk or a timer.
const stallSQL = `
SELECT a.wait_event_type || ' ' || a.wait_event,
	ARRAY(SELECT pg_catalog.format('pid %s, user %s, %s', b.pid, b.usename, coalesce(b.application_name, ''))
		FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(a.pid)))
FROM pg_catalog.pg_stat_activity a
WHERE a.pid = $1 AND a.wait_event_type IN ('Lock', 'IPC', 'BufferPin')`

// look says what the session of a statement waits for, until the context ends. What
// cannot be found out is not said: the statement itself is no worse for that.
func (t *tracer) look(ctx context.Context, pid uint32, began time.Time) {
	if Pause(ctx, stallAfter) != nil {
		return
	}
	conn, err := t.server.InDatabase("postgres").Connect(ctx) // which is not watched
	if err != nil {
		return
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(end)
	}()
	for {
		stall := Stall{Side: t.server.Side}
		if conn.QueryRow(ctx, stallSQL, pid).Scan(&stall.For, &stall.Behind) == nil {
			stall.Elapsed = time.Since(began)
			t.notice(stall)
		}
		if Pause(ctx, stallAfter) != nil {
			return
		}
	}
}
