package tablecopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// testFailures breaks a copy in its middle in every way, and checks that the
// error says who failed, that nothing runs on, and that the target is as before.
func testFailures(t *testing.T, l lab) {
	for _, test := range []struct {
		name   string
		target string // SQL on the target beforehand
		act    func(t *testing.T, m *move, cancel context.CancelFunc)
		closed bool // the gate stays closed
		side   postgres.Side
		code   string
		hint   string // which is followed
		asSaid string // the SQL in it, for the target; "": to run start again
	}{
		{
			name: "source cancelled", side: postgres.Source, code: postgres.QueryCanceled, hint: "someone cancelled the statement; run start again",
			act: func(t *testing.T, m *move, _ context.CancelFunc) {
				pgtest.QueryValue[bool](t, m.sourceConn, "SELECT pg_cancel_backend($1)", copyPID(t, m.sourceConn))
			},
		},
		{
			// It cannot say so: its socket is full.
			name: "source terminated", side: postgres.Source, code: "-",
			act: func(t *testing.T, m *move, _ context.CancelFunc) {
				pid := copyPID(t, m.sourceConn)
				pgtest.QueryValue[bool](t, m.sourceConn, "SELECT pg_terminate_backend($1)", pid)
				await(t, m.sourceConn, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1", pid)
			},
		},
		{
			name: "target terminated", closed: true, side: postgres.Target, code: adminShutdown,
			hint: "someone ended the session or the target's server: see its log, then run start again",
			act: func(t *testing.T, m *move, _ context.CancelFunc) {
				pgtest.QueryValue[bool](t, m.targetConn, "SELECT pg_terminate_backend($1)", copyPID(t, m.targetConn))
			},
		},
		{
			name: "target cancelled", closed: true, side: postgres.Target, code: postgres.QueryCanceled,
			act: func(t *testing.T, m *move, _ context.CancelFunc) {
				pgtest.QueryValue[bool](t, m.targetConn, "SELECT pg_cancel_backend($1)", copyPID(t, m.targetConn))
			},
		},
		{
			name: "check", side: postgres.Target, code: "23514",
			target: "ALTER TABLE gated ADD CHECK (id <> 2000)",
		},
		{
			name: "unique", side: postgres.Target, code: "23505",
			target: "CREATE UNIQUE INDEX ON gated ((least(id, 2000)))",
		},
		{
			name: "rows dropped", side: postgres.Target, code: "", hint: "a trigger on the target drops rows: ",
			asSaid: `ALTER TABLE "public"."gated" DISABLE TRIGGER USER`,
			target: `CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
				CREATE TRIGGER drop_row BEFORE INSERT ON gated FOR EACH ROW WHEN (NEW.id = 2000) EXECUTE PROCEDURE drop_row();
				ALTER TABLE gated ENABLE ALWAYS TRIGGER drop_row`,
		},
		{
			name: "cancel", closed: true,
			act: func(_ *testing.T, _ *move, cancel context.CancelFunc) { cancel() },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := l.move(t, 12, 15)
			g := m.gated(t)
			if test.target != "" {
				pgtest.Exec(t, m.targetURI, test.target)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			run := start(ctx, m.job(t, 2))
			g.await(t)
			acted := time.Now()
			if test.act != nil {
				test.act(t, m, cancel)
			}
			if !test.closed {
				g.open(t)
			}
			o := <-run
			if test.side != "" {
				wantError(t, o.err, test.side, test.code)
			} else if !errors.Is(o.err, context.Canceled) {
				t.Errorf("error %v", o.err)
			}
			if took := time.Since(acted); took > 20*time.Second {
				t.Errorf("it took %v to end", took)
			}
			if o.goroutines != 0 {
				t.Errorf("%d goroutines are left", o.goroutines)
			}
			m.awaitNoSessions(t)
			if got := pgtest.QueryValue[string](t, m.targetConn, "SELECT count(*) || ' ' || min(id) FROM gated"); got != "1 -1" {
				t.Errorf("target has %s", got)
			}
			if test.hint == "" {
				return
			}
			wantHint(t, o.err, test.hint, test.asSaid)
			if test.closed {
				g.open(t)
			}
			if test.asSaid != "" {
				pgtest.Exec(t, m.targetURI, test.asSaid)
			}
			if o := m.again(t); o.Rows != 50000 {
				t.Errorf("%d rows", o.Rows)
			}
		})
	}
	// Each would have failed above; a later try succeeds, also of what was committed
	// beside it in part.
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		for _, split := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s terminated, tried again, in parts: %t", side, split), func(t *testing.T) {
				t.Parallel()
				m := l.move(t, 15, 17)
				g := m.gated(t)
				job := m.job(t, 2)
				job.Tries = 0
				if split {
					job.SplitAbove = 10 << 20
				}
				run := start(t.Context(), job)
				g.await(t)
				// Beside the copies, which may fail, somebody keeps a table that is cut from being rewritten.
				if held := pgtest.QueryValue[bool](t, m.sourceConn, `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
					WHERE l.relation = 'gated'::regclass AND l.mode = 'AccessShareLock' AND a.application_name = 'pgbaton')`); held != split {
					t.Errorf("the table is locked: %t", held)
				}
				conn := map[postgres.Side]*postgres.Session{postgres.Source: m.sourceConn, postgres.Target: m.targetConn}[side]
				for _, sql := range []string{"COPY", "copy"} { // every copy of this moment
					pgtest.QueryValue[int64](t, conn, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pgbaton load' AND datname = current_database() AND query LIKE $1", sql+"%")
				}
				g.open(t)
				o := <-run
				if o.err != nil || o.Rows != 50000 || o.goroutines != 0 {
					t.Errorf("%d rows, %d goroutines, %v", o.Rows, o.goroutines, o.err)
				}
				if got := pgtest.QueryValue[string](t, m.targetConn, "SELECT count(*) || ' ' || count(DISTINCT id) FROM gated"); got != "50000 50000" {
					t.Errorf("target has %s", got)
				}
			})
		}
	}
	t.Run("no table", func(t *testing.T) {
		t.Parallel()
		m := l.move(t, 12, 15)
		m.both(t, "CREATE TABLE a (id integer)")
		job := m.job(t, 1)
		// TestRepaired of package cli runs start again.
		const hint = `"public"."a" was changed on one side after start began: run start again`
		gone := func(side postgres.Side) {
			t.Helper()
			o := <-start(t.Context(), job)
			wantError(t, o.err, side, postgres.UndefinedTable)
			wantHint(t, o.err, hint)
		}
		pgtest.Exec(t, m.sourceURI, "DROP TABLE a")
		gone(postgres.Source)
		pgtest.Exec(t, m.targetURI, "DROP TABLE a")
		gone(postgres.Target)
	})
	t.Run("other columns", func(t *testing.T) {
		t.Parallel()
		m := l.move(t, 12, 15)
		pgtest.Exec(t, m.sourceURI, "CREATE TABLE a (id integer, t text); INSERT INTO a SELECT i, repeat('x', 1000) FROM generate_series(1, 50000) i")
		pgtest.Exec(t, m.targetURI, "CREATE TABLE a (id integer)")
		o := <-start(t.Context(), m.job(t, 1))
		wantError(t, o.err, postgres.Target, postgres.UndefinedColumn)
		wantHint(t, o.err, `"public"."a" was changed on one side after start began: run start again`)
	})
	t.Run("waiting for a lock", func(t *testing.T) {
		t.Parallel()
		m := l.move(t, 12, 15)
		m.both(t, "CREATE TABLE a (id integer)")
		lock := pgtest.Connect(t, m.targetURI)
		if _, err := lock.Exec(t.Context(), "BEGIN; LOCK TABLE a"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		run := start(ctx, m.job(t, 1))
		await(t, lock, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'a'::regclass)")
		cancel()
		if o := <-run; !errors.Is(o.err, context.Canceled) || o.goroutines != 0 {
			t.Errorf("error %v, %d goroutines", o.err, o.goroutines)
		}
		m.awaitNoSessions(t) // while the lock is still held
	})
	t.Run("unreachable", func(t *testing.T) {
		t.Parallel()
		m := l.move(t, 12, 15)
		m.both(t, "CREATE TABLE a (id integer)")
		job := m.job(t, 1)
		job.Target = newServer(t, postgres.Target, "postgresql://postgres@127.0.0.1:1/x?sslmode=disable")
		wantError(t, (<-start(t.Context(), job)).err, postgres.Target, "")
	})
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		t.Run("lost "+string(side), func(t *testing.T) {
			t.Parallel()
			m := l.move(t, 12, 15)
			m.both(t, "CREATE TABLE a (id integer, t text)")
			pgtest.Exec(t, m.sourceURI, "INSERT INTO a SELECT i, repeat('x', 1000) FROM generate_series(1, 50000) i")
			pgtest.Exec(t, m.targetURI, "INSERT INTO a VALUES (-1)")
			job := m.job(t, 1)
			if side == postgres.Source {
				job.Source = newServer(t, side, throughCut(t, m.sourceURI, 5e6))
			} else {
				job.Target = newServer(t, side, throughCut(t, m.targetURI, 5e6))
			}
			o := <-start(t.Context(), job)
			wantError(t, o.err, side, "")
			wantHint(t, o.err, "the connection to the "+string(side)+" was lost: see its server's log and the network between, then run start again")
			if o.goroutines != 0 {
				t.Errorf("%d goroutines", o.goroutines)
			}
			m.awaitNoSessions(t)
			if got := pgtest.QueryValue[int64](t, m.targetConn, "SELECT sum(id) FROM a"); got != -1 {
				t.Errorf("target has %d", got)
			}
			if o := m.again(t); o.Rows != 50000 { // by the network that is there again
				t.Errorf("%d rows", o.Rows)
			}
		})
	}
}

// throughCut returns a connection string that leads through a wire which breaks
// when so many bytes have gone in one direction.
func throughCut(t *testing.T, uri string, bytes int64) string {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	u.Host = listener.Addr().String()
	var wires sync.WaitGroup
	t.Cleanup(func() { listener.Close(); wires.Wait() })
	wires.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				near.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
				wires.Go(func() {
					_, _ = io.CopyN(pair[0], pair[1], bytes)
					near.(*net.TCPConn).SetLinger(0) // broken, not closed in good form
					near.Close()
					far.Close()
				})
			}
		}
	})
	return u.String()
}
