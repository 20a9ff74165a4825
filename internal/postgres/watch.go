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
	pid := int64(conn.PgConn().PID())
	w := &watched{cancel: cancel, look: routine.Start(func() { t.server.look(looking, t.notice, sessionSQL, pid) })}
	return context.WithValue(ctx, watchedKey{}, w)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (t *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if w, ok := ctx.Value(watchedKey{}).(*watched); ok {
		w.cancel()
		w.look.Wait()
	}
}

// Attend watches, in the same way, the sessions of client programs and loads, which go
// by an application name, until stop is called.
func (s *Server) Attend(ctx context.Context, application string) (stop func()) {
	if s.notice == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	look := routine.Start(func() { s.look(ctx, s.notice, programsSQL, s.Database(), application, stallAfter.Seconds()) })
	return func() { cancel(); look.Wait() }
}

// stallSQL asks what sessions wait for inside the server, and for how many seconds
// their statement has run. Of the waits for other processes those count that may have
// no end: for a standby, an old snapshot, a session that does not answer, a checkpoint;
// not those of a leader for its parallel workers.
const stallSQL = `
SELECT a.wait_event_type || ' ' || a.wait_event,
	ARRAY(SELECT pg_catalog.format('pid %s, user %s, %s', b.pid, b.usename, coalesce(b.application_name, ''))
		FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(a.pid))),
	extract(epoch FROM pg_catalog.clock_timestamp() - a.query_start)::float8
FROM pg_catalog.pg_stat_activity a
WHERE (a.wait_event_type IN ('Lock', 'BufferPin')
	OR a.wait_event IN ('SyncRep', 'SafeSnapshot', 'ProcSignalBarrier', 'CheckpointStart', 'CheckpointDone')) AND `

const (
	sessionSQL  = stallSQL + `a.pid = $1`
	programsSQL = stallSQL + `a.datname = $1 AND a.application_name = $2 AND a.backend_type = 'client backend'
	AND a.state = 'active' AND a.query_start < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $3)`
)

// look says what sessions wait for, until the context ends. What cannot be found out
// is not said: the statement itself is no worse for that.
func (s *Server) look(ctx context.Context, notice func(Stall), sql string, args ...any) {
	if Pause(ctx, stallAfter) != nil {
		return
	}
	conn, err := s.InDatabase("postgres").Connect(ctx) // which is not watched
	if err != nil {
		return
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(end)
	}()
	for {
		rows, err := conn.Query(ctx, sql, args...)
		if err == nil {
			stall, seconds := Stall{Side: s.Side}, 0.0
			_, _ = pgx.ForEachRow(rows, []any{&stall.For, &stall.Behind, &seconds}, func() error {
				stall.Elapsed = time.Duration(seconds * float64(time.Second))
				notice(stall)
				return nil
			})
		}
		if Pause(ctx, stallAfter) != nil {
			return
		}
	}
}
