package fence_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// fenced prepares a database "app" with a table, a role app, and pgbaton's
// schema, and returns the session that fences.
func prepare(t *testing.T, major int) (app func() (*pgx.Conn, error), conn *postgres.Session) {
	t.Helper()
	c := pgtest.Start(t, major)
	pgtest.Exec(t, c.ConnString("postgres"), `CREATE ROLE app LOGIN`, `CREATE DATABASE app OWNER app`)
	pgtest.Exec(t, c.ConnString("app"), `CREATE TABLE t (i int PRIMARY KEY)`, `GRANT ALL ON t TO app`)
	server, err := postgres.NewServer(postgres.Source, c.ConnString("app"))
	if err != nil {
		t.Fatal(err)
	}
	if conn, err = server.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	if err := journal.Create(t.Context(), conn, journal.Record{Name: "m", ID: "x", Side: postgres.Source, Method: "stream"}, nil); err != nil {
		t.Fatal(err)
	}
	return func() (*pgx.Conn, error) { return pgx.Connect(t.Context(), c.ConnStringAs("app", "", "app")) }, conn
}

// raise does what the handover's phase does.
func raise(ctx context.Context, conn *postgres.Session) error {
	if _, err := fence.Raise(ctx, conn, "app", []string{"postgres"}, nil); err != nil {
		return err
	}
	if err := fence.Barrier(ctx, conn, "app", 10*time.Second); err != nil {
		return err
	}
	_, err := fence.Evict(ctx, conn, []int32{int32(conn.PgConn().PID())}, `^pgbaton_m_`)
	return err
}

// TestStartingSession: a session that is still starting up when the fence is
// raised has checked CONNECT and read its settings already, and no view shows
// it. It must not be able to write once the fence is declared.
func TestStartingSession(t *testing.T) {
	for _, major := range []int{12, 17} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			app, conn := prepare(t, major)
			// The delay comes after authorization and before the session is visible.
			config, err := pgx.ParseConfig(func() string {
				c, err := app()
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close(ctx)
				return c.Config().ConnString()
			}())
			if err != nil {
				t.Fatal(err)
			}
			config.RuntimeParams["options"] = "-c post_auth_delay=2"
			wrote := make(chan error, 1)
			go func() {
				late, err := pgx.ConnectConfig(ctx, config)
				if err == nil {
					_, err = late.Exec(ctx, `INSERT INTO t VALUES (1)`)
					late.Close(ctx)
				}
				wrote <- err
			}()
			// It has come far enough when it holds the lock on its database's row,
			// and it is in no view of sessions then.
			hidden := `SELECT EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass
				AND l.objid = (SELECT oid FROM pg_database WHERE datname = 'app') AND l.granted AND l.pid <> pg_backend_pid())`
			for seen := false; !seen; {
				if err := conn.QueryRow(ctx, hidden).Scan(&seen); err != nil {
					t.Fatal(err)
				}
			}
			if err := raise(ctx, conn); err != nil {
				t.Fatal(err)
			}
			var rows int
			if err := conn.QueryRow(ctx, `SELECT count(*) FROM public.t`).Scan(&rows); err != nil {
				t.Fatal(err)
			}
			before := rows
			err = <-wrote
			if err := conn.QueryRow(ctx, `SELECT count(*) FROM public.t`).Scan(&rows); err != nil {
				t.Fatal(err)
			}
			if rows != before {
				t.Fatalf("a session that was starting up wrote after the fence was declared (its error: %v)", err)
			}
		})
	}
}

// TestFenceUnderStorm: sessions that connect and write all the time, as fast as
// they can, write nothing after the fence is declared, and can again when it is
// lifted.
func TestFenceUnderStorm(t *testing.T) {
	for _, major := range []int{12, 17} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			app, conn := prepare(t, major)
			storm, stop := context.WithCancel(ctx)
			done := make(chan struct{})
			next := make(chan int)
			go func() {
				defer close(next)
				for i := 1; ; i++ {
					select {
					case next <- i:
					case <-storm.Done():
						return
					}
				}
			}()
			const writers = 6
			for range writers {
				go func() {
					for i := range next {
						if c, err := app(); err == nil {
							_, _ = c.Exec(ctx, `INSERT INTO t VALUES ($1)`, i)
							c.Close(ctx)
						}
					}
					done <- struct{}{}
				}()
			}
			count := func() (n int) {
				if err := conn.QueryRow(ctx, `SELECT count(*) FROM public.t`).Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			for round := range 10 {
				for n := count(); count() < n+20; { // the storm is on
				}
				if err := raise(ctx, conn); err != nil {
					t.Fatal(err)
				}
				n := count()
				for range 50 {
					if m := count(); m != n {
						t.Fatalf("round %d: %d rows were written after the fence was declared", round, m-n)
					}
				}
				if _, left, err := fence.Lift(ctx, conn, "app", nil); err != nil || len(left) > 0 {
					t.Fatal(left, err)
				}
			}
			stop()
			for range writers {
				<-done
			}
		})
	}
}

// TestGrantsComeBack: what the fence revokes comes back exactly, grantors and
// grant options included.
func TestGrantsComeBack(t *testing.T) {
	ctx := t.Context()
	_, conn := prepare(t, 15)
	for _, sql := range []string{
		`CREATE ROLE "a ""b"`, `CREATE ROLE c`, `CREATE ROLE d`,
		`REVOKE TEMPORARY ON DATABASE app FROM PUBLIC`,
		`GRANT CONNECT ON DATABASE app TO "a ""b" WITH GRANT OPTION`,
		`SET ROLE "a ""b"`, `GRANT CONNECT ON DATABASE app TO c WITH GRANT OPTION`,
		`SET ROLE c`, `GRANT CONNECT ON DATABASE app TO d`, `RESET ROLE`,
		`GRANT CREATE ON DATABASE app TO d`,
		`ALTER DATABASE app SET work_mem = '5MB'`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	state := func() string {
		var s string
		err := conn.QueryRow(ctx, `SELECT datacl::text || coalesce((SELECT string_agg(setconfig::text, ',') FROM pg_db_role_setting WHERE setdatabase = d.oid), '')
			FROM pg_database d WHERE datname = 'app'`).Scan(&s)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := state()
	for range 2 { // raising a raised fence changes nothing
		if err := raise(ctx, conn); err != nil {
			t.Fatal(err)
		}
	}
	if during := state(); strings.Contains(during, "app=CTc") || !strings.Contains(during, "read_only=on") {
		t.Fatalf("not fenced: %s", during)
	}
	if _, left, err := fence.Lift(ctx, conn, "app", nil); err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
	if after := state(); after != before {
		t.Fatalf("grants differ:\n%s\n%s", before, after)
	}
}

// TestLeak: a session that overrides the read-only default is seen.
func TestLeak(t *testing.T) {
	for _, major := range []int{12, 17} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			_, conn := prepare(t, major)
			if _, err := conn.Exec(ctx, `CREATE PUBLICATION p FOR TABLE public.t`); err != nil {
				t.Fatal(err)
			}
			if err := raise(ctx, conn); err != nil {
				t.Fatal(err)
			}
			if err := fence.OpenLeakCheck(ctx, conn, "leak"); err != nil {
				t.Fatal(err)
			}
			leaks, err := fence.Leaks(ctx, conn, "leak", []string{"p"})
			if err != nil || len(leaks) > 0 {
				t.Fatalf("%v, %v", leaks, err)
			}
			stranger, err := pgx.ConnectConfig(ctx, conn.Config()) // overrides the default as we do
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close(ctx)
			if _, err := stranger.Exec(ctx, `INSERT INTO public.t VALUES (1)`); err != nil {
				t.Fatal(err)
			}
			leaks, err = fence.Leaks(ctx, conn, "leak", []string{"p"})
			if err != nil || !slices.Equal(leaks, []string{`"public"."t"`}) {
				t.Fatalf("%v, %v", leaks, err)
			}
		})
	}
}
