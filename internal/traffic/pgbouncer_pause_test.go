package traffic

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// client is one connection through a PgBouncer.
func client(t *testing.T, p *cluster.Pooler, application string) *postgres.Session {
	t.Helper()
	return pgtest.Connect(t, p.ConnString("shop", "postgres")+"&default_query_exec_mode=simple_protocol&application_name="+application)
}

// outcome is what a query that had to wait came to.
type outcome struct {
	n   int
	err error
}

// ask sends a query and does not wait for it.
func ask(conn postgres.DB) <-chan outcome {
	c := make(chan outcome, 1)
	go func() {
		var o outcome
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		o.err = conn.QueryRow(ctx, "SELECT n FROM side").Scan(&o.n)
		c <- o
	}()
	return c
}

// TestPauseBehindATransaction: PAUSE that cannot complete says whom it waits for, and after Abort
// everybody goes on as if nothing had been.
func TestPauseBehindATransaction(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	for _, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			pooler := p.pooler(t, version, cluster.PoolerOptions{})
			m, r := mover(t, pooler), p.route()
			mustCheck(t, m, r)
			l := startLoad(t, pooler, loadOptions{mode: pgx.QueryExecModeExec, clients: 4})
			l.awaitMore(t, 0, 40) // PgBouncer has opened its connections
			batch := client(t, pooler, "nightly-batch")
			tx, err := batch.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			pid := pgtest.QueryValue[int](t, batch, "SELECT pg_backend_pid()")
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			err = m.Pause(ctx, r)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("Pause: %v", err)
			}
			port := batch.PgConn().Conn().LocalAddr().String()
			for _, want := range []string{port, "nightly-batch", "user postgres", "server process " + itoa(pid), "last request 2", "PgBouncer " + m.all[0].name} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q: %v", want, err)
				}
			}
			if got := shown(t, pooler, "shop", "paused"); got != "1" {
				t.Errorf("paused is %s after a PAUSE that was cut off: there is nothing to abort", got)
			}
			must(t, m.Abort, r)
			l.awaitMore(t, 0, 20)
			if err := tx.Commit(t.Context()); err != nil {
				t.Errorf("the transaction in the way: %v", err)
			}
			l.awaitMore(t, 0, 20)
			l.mustNotHaveFailed(t)
			// And it can be paused again.
			must(t, m.Pause, r)
			must(t, m.Abort, r)
			if got := shown(t, pooler, "shop", "paused"); got != "0" {
				t.Errorf("paused is %s", got)
			}
		})
	}
}

// TestAbortAtOnce cuts PAUSE off at moments from before it is sent to after it is complete.
func TestAbortAtOnce(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	for _, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			pooler := p.pooler(t, version, cluster.PoolerOptions{})
			m, r := mover(t, pooler), p.route()
			mustCheck(t, m, r)
			conn := client(t, pooler, "c")
			for i := range 40 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*50*time.Microsecond)
				_ = m.Pause(ctx, r) // either way
				cancel()
				must(t, m.Abort, r)
				if got := shown(t, pooler, "shop", "paused"); got != "0" {
					t.Fatalf("paused is %s after Abort, round %d", got, i)
				}
				if o := <-ask(conn); o.err != nil {
					t.Fatalf("round %d: %v", i, o.err)
				}
			}
		})
	}
}

// TestSessionPooling: clients hold their server connections, PAUSE does not end; the fence ends their
// sessions, and new ones reach the new side.
func TestSessionPooling(t *testing.T) {
	t.Parallel()
	for i, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			p := startPair(t) // of its own: sessions of the database are terminated
			o := cluster.PoolerOptions{PoolMode: "session"}
			if i == 0 { // for this database only
				o = cluster.PoolerOptions{Databases: map[string]cluster.PoolerDatabase{"shop": {Port: p.from.Port(), More: "pool_mode=session"}}}
			}
			pooler := p.pooler(t, version, o)
			m, r := mover(t, pooler), p.route()
			mustCheck(t, m, r)
			old := client(t, pooler, "old")
			if o := <-ask(old); o.err != nil {
				t.Fatal(o.err)
			}
			ctx := within(t, 2*time.Second)
			began := time.Now()
			if err := m.Pause(ctx, r); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("Pause took %v of a budget of 2 s", took)
			}
			fresh := client(t, pooler, "fresh") // is let in, and waits
			answer := ask(fresh)
			eventually(t, "the new client waits", func() bool { return waiting(t, pooler) == 1 })
			// As the fence does.
			pgtest.Exec(t, p.from.ConnString("postgres"), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shop'")
			must(t, m.Switch, r)
			if got := shown(t, pooler, "shop", "paused"); got != "1" {
				t.Errorf("paused is %s after Switch", got)
			}
			if waiting(t, pooler) != 1 {
				t.Error("the new client was let go by Switch")
			}
			must(t, m.Resume, r)
			if o := <-answer; o.err != nil || o.n != 1 {
				t.Errorf("the client that waited: side %d, %v", o.n, o.err)
			}
			if o := <-ask(old); o.err == nil {
				t.Error("the old session lives on")
			}
			if o := <-ask(client(t, pooler, "later")); o.err != nil || o.n != 1 {
				t.Errorf("a new session: side %d, %v", o.n, o.err)
			}
			// Once more, back, with the PAUSE pending and nobody's session ended.
			back := Route{Migration: r.Migration, From: r.To, To: r.From}
			if err := m.Pause(within(t, 200*time.Millisecond), back); err != nil {
				t.Fatal(err)
			}
			must(t, m.Abort, back)
			if got := shown(t, pooler, "shop", "paused"); got != "0" {
				t.Errorf("paused is %s after Abort", got)
			}
			if o := <-ask(fresh); o.err != nil || o.n != 1 {
				t.Errorf("after Abort: side %d, %v", o.n, o.err)
			}
		})
	}
}

// waiting is how many clients of shop wait.
func waiting(t *testing.T, p *cluster.Pooler) (n int) {
	t.Helper()
	for _, pool := range pools(t, p) {
		n += pool.waiting
	}
	return n
}

func pools(t *testing.T, p *cluster.Pooler) []pool {
	t.Helper()
	c := admin(t, p)
	defer c.close()
	a, err := c.ask(within(t, 10*time.Second), "SHOW POOLS")
	if err != nil {
		t.Fatal(err)
	}
	return findPools(a, "shop")
}

// TestSuccessor: the process that paused is gone, another one lets traffic go.
func TestSuccessor(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	for _, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			pooler := p.pooler(t, version, cluster.PoolerOptions{})
			r := p.route()
			steady := startLoad(t, pooler, loadOptions{mode: pgx.QueryExecModeExec, clients: 4})
			steady.awaitMore(t, 0, 40)

			// PAUSE complete.
			first := mover(t, pooler)
			must(t, first.Pause, r)
			first.Close()
			must(t, mover(t, pooler).Abort, r)
			steady.awaitMore(t, 0, 40)

			// PAUSE still waiting.
			batch := client(t, pooler, "batch")
			tx, err := batch.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			first = mover(t, pooler)
			if err := first.Pause(within(t, 50*time.Millisecond), r); err == nil {
				t.Fatal("PAUSE completed behind a transaction")
			}
			first.Close()
			second := mover(t, pooler)
			must(t, second.Abort, r)
			steady.awaitMore(t, 0, 40)
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			// The abandoned PAUSE [pgbouncer#715] does not come back, and the next one works.
			steady.awaitMore(t, 0, 40)

			// From the middle: the first has switched.
			first = mover(t, pooler)
			must(t, first.Pause, r)
			must(t, first.Switch, r)
			first.Close()
			second = mover(t, pooler)
			must(t, second.Switch, r)
			must(t, second.Resume, r)
			must(t, second.Resume, r) // again
			steady.awaitMore(t, 1, 10)
			steady.mustNotHaveFailed(t)
		})
	}
}

// TestFrozen: a PgBouncer that does not answer makes every action end with its context, and is resumed
// when it wakes up.
func TestFrozen(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	for _, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			pooler := p.pooler(t, version, cluster.PoolerOptions{})
			m, r := mover(t, pooler), p.route()
			mustCheck(t, m, r)
			conn := client(t, pooler, "c")
			for round := range 3 {
				if round == 2 {
					must(t, m.Pause, r) // complete before it freezes
				}
				if err := pooler.Pause(); err != nil {
					t.Fatal(err)
				}
				if round < 2 {
					if err := m.Pause(within(t, 100*time.Millisecond), r); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("Pause: %v", err)
					}
				}
				err := m.Abort(within(t, 100*time.Millisecond), r)
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `RESUME "shop"`) {
					t.Errorf("Abort: %v", err)
				}
				if round == 1 {
					m.Close() // the process ends
				}
				if err := pooler.Continue(); err != nil {
					t.Fatal(err)
				}
				if round < 2 { // the RESUME that was sent takes effect
					eventually(t, "not paused", func() bool { return shown(t, pooler, "shop", "paused") == "0" })
				}
				must(t, m.Abort, r)
				if o := <-ask(conn); o.err != nil || o.n != 0 {
					t.Errorf("after it woke up: side %d, %v", o.n, o.err)
				}
			}
			// During the switch, and it wakes up in time.
			must(t, m.Pause, r)
			if err := pooler.Pause(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- m.Switch(within(t, 20*time.Second), r) }()
			ini := pooler.IniPath()
			eventually(t, "the file is rewritten although PgBouncer is frozen", func() bool { return entryLeadsTo(ini, p.to.Port()) })
			if err := pooler.Continue(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			must(t, m.Resume, r)
			if o := <-ask(conn); o.err != nil || o.n != 1 {
				t.Errorf("after the switch: side %d, %v", o.n, o.err)
			}
		})
	}
}

func entryLeadsTo(ini string, port int) bool {
	c, err := readIni(ini, "")
	if err != nil {
		return false
	}
	e, _ := c.database("shop")
	d, err := leadsTo("shop", e.value)
	return err == nil && d.port == port
}

// TestRestarted: PgBouncer dies between Pause and Switch, or during it.
func TestRestarted(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	for _, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			pooler := p.pooler(t, version, cluster.PoolerOptions{})
			m, r := mover(t, pooler), p.route()
			mustCheck(t, m, r)
			if err := pooler.Restart(t.Context()); err != nil { // the connections of Check are gone
				t.Fatal(err)
			}
			must(t, m.Pause, r)
			if err := pooler.Kill(); err != nil {
				t.Fatal(err)
			}
			// It is down: the file is rewritten, the error says so.
			err := m.Switch(within(t, 300*time.Millisecond), r)
			if err == nil || !strings.Contains(err.Error(), pooler.IniPath()+" already leads to host 127.0.0.1") {
				t.Errorf("Switch while it is down: %v", err)
			}
			if !entryLeadsTo(pooler.IniPath(), p.to.Port()) {
				t.Error("the file was not rewritten")
			}
			// It comes back while Switch tries again.
			done := make(chan error, 1)
			go func() { done <- m.Switch(within(t, 20*time.Second), r) }()
			if err := pooler.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got := shown(t, pooler, "shop", "paused"); got != "1" {
				t.Errorf("paused is %s after Switch of a restarted PgBouncer", got)
			}
			must(t, m.Resume, r)
			if o := <-ask(client(t, pooler, "c")); o.err != nil || o.n != 1 {
				t.Errorf("side %d, %v", o.n, o.err)
			}
			// Restarted before Resume: not paused, and that is good.
			back := Route{Migration: r.Migration, From: r.To, To: r.From}
			must(t, m.Pause, back)
			must(t, m.Switch, back)
			if err := pooler.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			must(t, m.Resume, back)
			if o := <-ask(client(t, pooler, "c")); o.err != nil || o.n != 0 {
				t.Errorf("side %d, %v", o.n, o.err)
			}
		})
	}
}
