package shop_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/demo/shop"
	"pgbaton/internal/pgtest"
)

// A database is one shop, loaded by a role that owns it and is no superuser.
type database struct {
	url  string
	conn *pgx.Conn
}

type server interface{ ConnString(db string) string }

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
}

func queryOne[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) (value T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return value
}

// as is the URL of a database for the role shop.
func as(t *testing.T, server server, role, db string) string {
	t.Helper()
	u, err := url.Parse(server.ConnString(db))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "shop")
	return u.String()
}

func load(t *testing.T, server server, name string, size shop.Size) database {
	t.Helper()
	super := connect(t, server.ConnString("postgres"))
	exec(t, super, `
		DO $$
		BEGIN
		    IF to_regrole('shop') IS NULL THEN
		        CREATE ROLE shop LOGIN PASSWORD 'shop';
		    END IF;
		END
		$$`)
	exec(t, super, fmt.Sprintf(`CREATE DATABASE %s OWNER shop`, name))
	db := database{url: as(t, server, "shop", name)}
	db.conn = connect(t, db.url)
	if err := shop.Load(t.Context(), db.conn, size); err != nil {
		t.Fatal(err)
	}
	return db
}

// open serves a store over HTTP, with a client that has a cookie jar and
// follows redirects.
func open(t *testing.T, databaseURL string, options shop.Options) (*shop.Store, *client) {
	t.Helper()
	store, err := shop.NewStore(databaseURL, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	front := httptest.NewServer(store)
	t.Cleanup(front.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return store, &client{t, front.URL, &http.Client{Jar: jar}}
}

type client struct {
	t    *testing.T
	url  string
	http *http.Client
}

func (c *client) do(request *http.Request, wantStatus int) (body string, response *http.Response) {
	c.t.Helper()
	response, err := c.http.Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if response.StatusCode != wantStatus {
		c.t.Fatalf("%s %s: status %d, want %d\n%s", request.Method, request.URL, response.StatusCode, wantStatus, text)
	}
	return string(text), response
}

func (c *client) request(method, path, contentType, body string) *http.Request {
	c.t.Helper()
	request, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	return request
}

func (c *client) get(path string, wantStatus int) string {
	c.t.Helper()
	body, _ := c.do(c.request("GET", path, "", ""), wantStatus)
	return body
}

func (c *client) post(path string, form url.Values, wantStatus int) (string, *http.Response) {
	c.t.Helper()
	return c.do(c.request("POST", path, "application/x-www-form-urlencoded", form.Encode()), wantStatus)
}

func contains(t *testing.T, body string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(body, want) {
			t.Errorf("page lacks %q:\n%s", want, body)
		}
	}
}

func TestLoad(t *testing.T) {
	for _, major := range []int{12, 19} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			db := load(t, pgtest.Start(t, major), "shop", shop.Size{Orders: 2000})
			for _, fact := range []struct {
				sql  string
				want int64
			}{
				{`SELECT count(*) FROM shop.products`, 116},
				{`SELECT count(*) FROM shop.catalogue`, 116},
				{`SELECT count(*) FROM shop.orders`, 2000},
				{`SELECT count(*) FROM shop.payments`, 2000},
				{`SELECT count(*) FROM shop.page_views`, 2000},
				{`SELECT count(*) FROM shop.line_items WHERE total_cents <> quantity * price_cents`, 0},
				{`SELECT count(*) FROM shop.order_summaries WHERE items IS NULL`, 0},
				{`SELECT sum(sold) - (SELECT sum(quantity) FROM shop.line_items) FROM shop.best_sellers`, 0},
				{`SELECT count(*) FROM pg_catalog.pg_constraint WHERE connamespace = 'shop'::regnamespace AND NOT convalidated`, 0},
			} {
				if got := queryOne[int64](t, db.conn, fact.sql); got != fact.want {
					t.Errorf("%d, want %d: %s", got, fact.want, fact.sql)
				}
			}
			// The sequences are past what was loaded.
			store, err := shop.NewStore(db.url, shop.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			receipt, err := store.PlaceOrder(t.Context(), order("3f0c1d5e-0000-4000-8000-000000000001"))
			if err != nil {
				t.Fatal(err)
			}
			if receipt.Number != "R100002001" {
				t.Errorf("first order is %s, want R100002001", receipt.Number)
			}
		})
	}
}

func TestLoadLeavesNothingWhenItFails(t *testing.T) {
	t.Parallel()
	db := load(t, pgtest.Start(t, 15), "shop", shop.Size{})
	if n := queryOne[int64](t, db.conn, `SELECT nextval('shop.order_number')`); n != 100000001 {
		t.Errorf("a shop without orders starts with number %d, want 100000001", n)
	}
	if err := shop.Load(t.Context(), db.conn, shop.Size{}); err == nil {
		t.Fatal("a second load succeeded")
	}
	if n := queryOne[int64](t, db.conn, `SELECT count(*) FROM shop.products`); n != 116 {
		t.Errorf("%d products after a second load, want 116", n)
	}
}

func order(token string) shop.Order {
	return shop.Order{
		Token: token,
		Customer: shop.Customer{
			Name: "Ada Berg", Email: "ada@example.com", Street: "Mill Lane 1", Postcode: "10115", City: "Bergen", Country: "Norway",
		},
		Lines: []shop.Line{{VariantID: 2, Quantity: 1}, {VariantID: 1, Quantity: 2}},
	}
}
