package shop_test

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgbaton/internal/demo/shop"
	"pgbaton/internal/pgtest"
)

// A milestone is a website that tells when it has answered n orders.
type milestone struct {
	http.Handler
	answered atomic.Int64
	n        int64
	reached  chan struct{}
}

func (m *milestone) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.Handler.ServeHTTP(w, r)
	if r.URL.Path == "/api/orders" && m.answered.Add(1) == m.n {
		close(m.reached)
	}
}

// A handover in small: under load, close a database, end its sessions, copy
// it, and point the store at the copy. No request may fail, and the copy must
// hold every order exactly once, whatever was in flight.
func TestRepointUnderLoad(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 15)
	before := load(t, server, "before", shop.Size{Orders: 300})
	super := connect(t, server.ConnString("postgres"))
	store, err := shop.NewStore(before.url, shop.Options{MaxConns: 6})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	halfway := &milestone{Handler: store, n: 200, reached: make(chan struct{})}
	front := httptest.NewServer(halfway)
	defer front.Close()

	var (
		counters shop.Counters
		ledger   *shop.Ledger
		running  sync.WaitGroup
	)
	running.Go(func() {
		ledger, err = shop.RunShoppers(t.Context(), shop.ShopperOptions{
			URL: front.URL, Shoppers: 6, MaxOrders: 500, Duration: 20 * time.Second, Counters: &counters,
		})
	})
	<-halfway.reached
	exec(t, super, `ALTER DATABASE before ALLOW_CONNECTIONS false`)
	exec(t, super, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'before'`)
	exec(t, super, `CREATE DATABASE after TEMPLATE before OWNER shop`)
	if err := store.Repoint(as(t, server, "shop", "after")); err != nil {
		t.Fatal(err)
	}
	running.Wait()
	if err != nil {
		t.Fatal(err)
	}

	after := connect(t, as(t, server, "shop", "after"))
	if report := audit(t, after, ledger); !report.OK() {
		t.Errorf("audit: %+v", report)
	}
	if n := ledger.Count(shop.Acknowledged); n != 500 || counters.PagesFailed.Load() != 0 {
		t.Errorf("%d of 500 orders acknowledged, %d pages failed", n, counters.PagesFailed.Load())
	}
	t.Logf("longest order: %v", counters.MaxLatency())
}

// When the answer to a commit is lost, the token tells whether it happened;
// where there is none, the visitor is told that nobody knows.
func TestLostCommit(t *testing.T) {
	t.Parallel()
	db := load(t, pgtest.Start(t, 15), "shop", shop.Size{})
	u, err := url.Parse(db.url)
	if err != nil {
		t.Fatal(err)
	}
	cut := newCutter(t, u.Host)
	u.Host = cut.listener.Addr().String()
	store, c := open(t, u.String(), shop.Options{})

	cut.armed.Store(true)
	o := order("3f0c1d5e-0000-4000-8000-0000000000ff")
	receipt, err := store.PlaceOrder(t.Context(), o)
	if err != nil || cut.armed.Load() {
		t.Fatalf("order: %v; commit cut off: %v", err, !cut.armed.Load())
	}
	if number := queryOne[string](t, db.conn, `SELECT string_agg(number, ' ') FROM shop.orders`); number != receipt.Number {
		t.Errorf("receipt for %s, the database has %s", receipt.Number, number)
	}

	cut.armed.Store(true)
	body, _ := c.post("/cart/items", url.Values{"variant_id": {"1"}, "quantity": {"1"}}, 503)
	contains(t, body, "It is not known whether the change was made")
	if n := queryOne[int64](t, db.conn, `SELECT sum(quantity) FROM shop.cart_items`); n != 1 {
		t.Errorf("%d in the cart", n)
	}
}

// A cutter is a TCP proxy that, once armed, passes one COMMIT to the server
// and drops the connection in place of the answer.
type cutter struct {
	listener net.Listener
	server   string
	armed    atomic.Bool
	running  sync.WaitGroup
}

func newCutter(t *testing.T, server string) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: listener, server: server}
	c.running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed
			}
			c.running.Go(func() { c.relay(client) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		c.running.Wait()
	})
	return c
}

func (c *cutter) relay(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.server)
	if err != nil {
		return
	}
	defer server.Close()
	var cutting atomic.Bool
	c.running.Go(func() {
		defer server.Close()
		buffer := make([]byte, 64<<10)
		for {
			n, err := client.Read(buffer)
			if err != nil {
				return
			}
			if bytes.Contains(buffer[:n], []byte("commit\x00")) && c.armed.CompareAndSwap(true, false) {
				cutting.Store(true)
			}
			if _, err := server.Write(buffer[:n]); err != nil {
				return
			}
		}
	})
	buffer := make([]byte, 64<<10)
	for {
		n, err := server.Read(buffer)
		if err != nil || cutting.Load() {
			return // with the answer to COMMIT in hand: it has happened
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}
