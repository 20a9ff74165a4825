package traffic

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
)

// versions of PgBouncer that everything is tested with: Debian stable's and the newest.
var versions = []string{pgtest.OldPooler, ""}

// pair is two servers with a database shop each, and the way from one to the other.
type pair struct{ from, to *cluster.Cluster }

func startPair(t *testing.T) pair {
	t.Helper()
	p := pair{pgtest.Start(t, 15), pgtest.Start(t, 15)}
	for i, c := range []*cluster.Cluster{p.from, p.to} {
		pgtest.Exec(t, c.ConnString("postgres"), "CREATE DATABASE shop")
		pgtest.Exec(t, c.ConnString("shop"), fmt.Sprintf("CREATE TABLE side AS SELECT %d AS n, 1 AS id", i))
	}
	return p
}

func (p pair) route() Route {
	end := func(side postgres.Side, c *cluster.Cluster) Endpoint {
		return Endpoint{Side: side, Host: c.Host(), Port: c.Port(), Database: "shop"}
	}
	return Route{Migration: "m", From: end(postgres.Source, p.from), To: end(postgres.Target, p.to)}
}

// pooler leads shop to the first server.
func (p pair) pooler(t *testing.T, version string, o cluster.PoolerOptions) *cluster.Pooler {
	t.Helper()
	if o.Databases == nil {
		o.Databases = map[string]cluster.PoolerDatabase{"shop": {Port: p.from.Port()}}
	}
	return pgtest.StartPooler(t, version, o)
}

// mover for PgBouncers, closed at the end of the test.
func mover(t *testing.T, poolers ...*cluster.Pooler) *PgBouncers {
	t.Helper()
	uris := make([]string, len(poolers))
	for i, p := range poolers {
		uris[i] = p.AdminURI()
	}
	m, err := NewPgBouncers(uris, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// must runs an action of a mover, bounded.
func must(t *testing.T, do func(context.Context, Route) error, r Route) time.Duration {
	t.Helper()
	began := time.Now()
	if err := do(within(t, 20*time.Second), r); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

// mustCheck demands that nothing is in the way.
func mustCheck(t *testing.T, m Mover, r Route) {
	t.Helper()
	if reasons := check(t, m, r); len(reasons) > 0 {
		t.Fatalf("Check: %+v", reasons)
	}
}

func check(t *testing.T, m Mover, r Route) []refusal.Reason {
	t.Helper()
	reasons, err := m.Check(within(t, 20*time.Second), r, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return reasons
}

// eventually waits for a fact.
func eventually(t *testing.T, what string, fact func() bool) {
	t.Helper()
	ctx := within(t, 20*time.Second)
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// load is clients that ask through a PgBouncer which side they are on.
type load struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	answers  [2]int
	failures []error
	longest  time.Duration
}

// loadOptions: clients that keep their connection, at 30 queries a second each, and clients that make a
// new one for each query.
type loadOptions struct {
	mode           pgx.QueryExecMode
	clients, storm int
}

func startLoad(t *testing.T, p *cluster.Pooler, o loadOptions) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	t.Cleanup(l.stop)
	config, err := pgx.ParseConfig(p.ConnString("shop", "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = o.mode
	for range o.clients {
		l.wg.Go(func() { l.client(ctx, config, time.Second/30, false) })
	}
	for range o.storm {
		l.wg.Go(func() { l.client(ctx, config, time.Second/100, true) })
	}
	return l
}

func (l *load) client(ctx context.Context, config *pgx.ConnConfig, every time.Duration, anew bool) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var conn *pgx.Conn
	for {
		began := time.Now()
		var n int
		err := func() (err error) {
			// Not ctx: stop lets queries end, so that none fails by it.
			bounded, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if conn == nil {
				if conn, err = pgx.ConnectConfig(bounded, config.Copy()); err != nil {
					return fmt.Errorf("connect: %w", err)
				}
			}
			return conn.QueryRow(bounded, "SELECT n FROM side WHERE id = $1", 1).Scan(&n)
		}()
		l.note(n, err, time.Since(began))
		if conn != nil && (err != nil || anew) {
			_ = conn.Close(context.Background())
			conn = nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if conn != nil {
				_ = conn.Close(context.Background())
			}
			return
		}
	}
}

func (l *load) note(n int, err error, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failures = append(l.failures, err)
		return
	}
	l.answers[n]++
	l.longest = max(l.longest, took)
}

func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}

func (l *load) counts() (answers [2]int, failures []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers, l.failures
}

// awaitMore waits until so many further queries were answered by a side.
func (l *load) awaitMore(t *testing.T, side, n int) {
	t.Helper()
	before, _ := l.counts()
	eventually(t, fmt.Sprintf("%d more answers of side %d", n, side), func() bool {
		now, failures := l.counts()
		if len(failures) > 0 {
			t.Fatalf("a query failed: %v", failures[0])
		}
		return now[side] >= before[side]+n
	})
}

// mustNotHaveFailed stops the load.
func (l *load) mustNotHaveFailed(t *testing.T) {
	t.Helper()
	l.stop()
	if answers, failures := l.counts(); len(failures) > 0 {
		t.Errorf("%d queries failed, %v were answered; first: %v", len(failures), answers, failures[0])
	}
}

// shown is a column of SHOW DATABASES.
func shown(t *testing.T, p *cluster.Pooler, database, column string) string {
	t.Helper()
	c := admin(t, p)
	defer c.close()
	a, err := c.ask(within(t, 10*time.Second), "SHOW DATABASES")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range a.rows {
		if a.value(row, "name") == database {
			return a.value(row, column)
		}
	}
	return "no such database"
}

func admin(t *testing.T, p *cluster.Pooler) *console {
	t.Helper()
	config, err := parseAdminURI(p.AdminURI())
	if err != nil {
		t.Fatal(err)
	}
	c, err := openConsole(within(t, 10*time.Second), config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// leadsToServer says whether PgBouncer leads shop to a server.
func leadsToServer(t *testing.T, p *cluster.Pooler, c *cluster.Cluster) bool {
	t.Helper()
	return shown(t, p, "shop", "port") == strconv.Itoa(c.Port())
}

// hasReason demands exactly one reason, with a text in it and one in its remedy.
func hasReason(t *testing.T, reasons []refusal.Reason, why, remedy string) {
	t.Helper()
	if len(reasons) != 1 || !strings.Contains(reasons[0].Why, why) || !strings.Contains(reasons[0].Remedy, remedy) {
		t.Errorf("reasons %+v; want one with %q and the remedy %q", reasons, why, remedy)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
