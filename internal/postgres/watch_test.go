package postgres_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// TestWatch: a statement that waits for a lock, or a commit that waits for a standby,
// says so after a while; one that is only slow does not, and neither does one that
// waits for its own client.
func TestWatch(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 17)
	uri := c.ConnString("postgres")
	pgtest.Exec(t, uri, `CREATE TABLE t (i int)`)
	server, err := postgres.NewServer(postgres.Target, uri)
	if err != nil {
		t.Fatal(err)
	}
	stalls := make(chan postgres.Stall, 100)
	server.Watch(func(s postgres.Stall) { stalls <- s })
	conn, err := server.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `SELECT pg_sleep(3)`); err != nil {
		t.Fatal(err)
	}
	if len(stalls) > 0 {
		t.Errorf("a sleep is a stall: %+v", <-stalls)
	}

	held := pgtest.Hold(t, uri, `LOCK TABLE t`)
	var all sync.WaitGroup
	// A client program is known by its name alone.
	program := pgtest.Connect(t, uri)
	if _, err := program.Exec(t.Context(), `SET application_name = 'a program of ours'`); err != nil {
		t.Fatal(err)
	}
	stop := server.Attend(t.Context(), "a program of ours")
	all.Go(func() {
		if _, err := program.Exec(t.Context(), `SELECT FROM t`); err != nil {
			t.Error(err)
		}
	})
	if s := <-stalls; s.Side != postgres.Target || s.For != "Lock relation" || s.Elapsed < 2*time.Second || len(s.Behind) != 1 {
		t.Errorf("%+v", s)
	}
	stop()
	for len(stalls) > 0 {
		<-stalls
	}
	all.Go(func() {
		if _, err := conn.Exec(t.Context(), `INSERT INTO public.t VALUES (1)`); err != nil {
			t.Error(err)
		}
	})
	if s := <-stalls; s.Side != postgres.Target || s.For != "Lock relation" || s.Elapsed < 2*time.Second || len(s.Behind) != 1 || !strings.Contains(s.Behind[0], "pid") {
		t.Errorf("%+v", s)
	}
	held.Release()
	all.Wait()
	for len(stalls) > 0 {
		<-stalls
	}

	pgtest.Exec(t, uri, `ALTER SYSTEM SET synchronous_standby_names = 'nobody'`, `SELECT pg_reload_conf()`)
	stalled := make(chan struct{})
	all.Go(func() {
		for { // until the checkpointer has read it, too, on which commits wait
			if _, err := conn.Exec(t.Context(), `INSERT INTO public.t VALUES (1)`); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-stalled:
				return
			default:
			}
		}
	})
	for s := <-stalls; s.For != "IPC SyncRep"; s = <-stalls { // a slow disk, before that
		t.Logf("%+v", s)
	}
	close(stalled)
	pgtest.Exec(t, uri, `ALTER SYSTEM RESET synchronous_standby_names`, `SELECT pg_reload_conf()`)
	all.Wait()
}
