package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"pgbaton/internal/demo/shop"
)

// showNewServer visits the shop as a customer, and the old server as the shop.
func (d *demo) showNewServer(ctx context.Context) error {
	d.chapter("The shop on its new server")
	offer, err := d.firstOffer(ctx)
	if err != nil {
		return err
	}
	if err := d.readProductPage(ctx, offer.Slug); err != nil {
		return err
	}
	if err := d.placeOrder(ctx, offer.VariantID); err != nil {
		return err
	}
	return d.tryOldServer(ctx)
}

type offer struct {
	Slug      string `json:"product_slug"`
	VariantID int32  `json:"variant_id"`
}

func (d *demo) firstOffer(ctx context.Context) (offer, error) {
	body, err := d.request(ctx, http.MethodGet, "/api/products", nil, http.StatusOK)
	if err != nil {
		return offer{}, err
	}
	var offers []offer
	if err := json.Unmarshal(body, &offers); err != nil {
		return offer{}, fmt.Errorf("GET /api/products: %w", err)
	}
	if len(offers) == 0 {
		return offer{}, errors.New("the shop has nothing to sell")
	}
	return offers[0], nil
}

var (
	headlinePattern = regexp.MustCompile(`<h1>([^<]+)</h1>`)
	servedPattern   = regexp.MustCompile(`served by PostgreSQL ([^<]+)<`)
)

func (d *demo) readProductPage(ctx context.Context, slug string) error {
	path := "/products/" + slug
	began := time.Now()
	body, err := d.request(ctx, http.MethodGet, path, nil, http.StatusOK)
	if err != nil {
		return err
	}
	name, served := headlinePattern.FindSubmatch(body), servedPattern.FindSubmatch(body)
	if name == nil || served == nil {
		return fmt.Errorf("the page %s shows no product, or not which server it comes from", path)
	}
	d.report.ServedBy = string(served[1])
	d.step("GET "+path, time.Since(began))
	d.verbatim(fmt.Sprintf("%s, served by PostgreSQL %s", name[1], served[1]))
	if d.report.ServedBy != d.report.To {
		return fmt.Errorf("the shop is served by PostgreSQL %s; after the switchover it should be %s", d.report.ServedBy, d.report.To)
	}
	return nil
}

func (d *demo) placeOrder(ctx context.Context, variant int32) error {
	body, err := json.Marshal(shop.Order{
		Token:    newToken(),
		Customer: shop.Customer{Name: "You", Email: "you@example.com", Street: "Loop 1", Postcode: "00001", City: "Testville", Country: "Nowhere"},
		Lines:    []shop.Line{{VariantID: variant, Quantity: 1}},
	})
	if err != nil {
		return err
	}
	began := time.Now()
	answer, err := d.request(ctx, http.MethodPost, "/api/orders", body, http.StatusCreated)
	if err != nil {
		return err
	}
	var receipt shop.Receipt
	if err := json.Unmarshal(answer, &receipt); err != nil {
		return fmt.Errorf("POST /api/orders: %w", err)
	}
	d.step("POST /api/orders", time.Since(began))
	d.verbatim("order " + receipt.Number + " placed")
	return nil
}

// newToken makes a random UUID, the name that a customer gives to an order.
func newToken() string {
	id := pgtype.UUID{Valid: true}
	rand.Read(id.Bytes[:]) // never fails
	return id.String()
}

// request makes a request to the storefront and returns the body of an answer
// with the status that was hoped for.
func (d *demo) request(ctx context.Context, method, path string, body []byte, want int) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, d.front.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // and no proxy
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != want {
		err = fmt.Errorf("status %d: %.200s", response.StatusCode, answer)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return answer, nil
}

// tryOldServer does what a forgotten application would: connect to the source
// as before, and write.
func (d *demo) tryOldServer(ctx context.Context) error {
	began := time.Now()
	err := query(ctx, d.shopURL(d.source), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `UPDATE shop.stock SET on_hand = on_hand WHERE variant_id = 1`)
		return err
	})
	var refusal *pgconn.PgError
	switch {
	case err == nil:
		return errors.New("the old server still takes writes from the shop")
	case !errors.As(err, &refusal):
		return fmt.Errorf("the old server should refuse the shop, but could not be asked: %w", err)
	}
	d.report.SourceRefusal = refusal.Error()
	d.step("An application that still writes to the old server hears:", time.Since(began))
	d.verbatim(d.report.SourceRefusal)
	return nil
}

// prove ends the shopping, and holds what shoppers were told against what the
// new server has.
func (d *demo) prove(ctx context.Context) error {
	d.chapter("Is every order there, once? The shoppers leave, and their receipts are counted.")
	began := time.Now()
	ledger, err := d.crowd.stop()
	if err != nil {
		return err
	}
	r := &d.report
	r.Requests, r.FailedRequests = requests(d.crowd.counters)
	audit, err := d.audit(ctx, ledger, d.shopURL(d.target))
	if err != nil {
		return err
	}
	r.OrdersAcknowledged, r.OrdersFound, r.AuditOK = audit.Acknowledged, audit.Found, audit.OK()
	d.step(fmt.Sprintf("%s, of which %s are there exactly once",
		plural(r.OrdersAcknowledged, "receipt", "receipts"), count(r.OrdersFound)), time.Since(began))
	if !r.AuditOK {
		return fmt.Errorf("the new server does not hold what the shoppers were told: %s", faults(audit))
	}
	d.say("None missing, doubled, altered or invented. Requests: %s, failed: %d.", count(r.Requests), r.FailedRequests)
	return d.compareCounts(ctx)
}

func (d *demo) audit(ctx context.Context, ledger *shop.Ledger, url string) (report shop.AuditReport, err error) {
	err = query(ctx, url, func(conn *pgx.Conn) error {
		report, err = shop.Audit(ctx, conn, ledger)
		return err
	})
	return report, err
}

// faults names what an audit found.
func faults(r shop.AuditReport) string {
	var all []string
	for _, f := range []struct {
		what string
		n    int
	}{
		{"missing", len(r.Missing)},
		{"altered", len(r.Altered)},
		{"doubled", len(r.Doubled)},
		{"there although the shop denied it", len(r.Denied)},
		{"invented", len(r.Invented)},
		{"with a number that is there twice", len(r.DuplicateNumbers)},
		{"that do not add up", len(r.Unbalanced)},
	} {
		if f.n > 0 {
			all = append(all, fmt.Sprintf("%d orders %s", f.n, f.what))
		}
	}
	return strings.Join(all, ", ")
}

// compareCounts shows where the business goes on.
func (d *demo) compareCounts(ctx context.Context) (err error) {
	r := &d.report
	if r.OrdersOnTarget, err = countOrders(ctx, adminURL(d.target)); err != nil {
		return err
	}
	if r.OrdersOnSource, err = countOrders(ctx, adminURL(d.source)); err != nil {
		return err
	}
	d.say("Orders on the new server: %s; on the old one, which takes no more: %s.",
		count(r.OrdersOnTarget), count(r.OrdersOnSource))
	return nil
}

func countOrders(ctx context.Context, url string) (n int64, err error) {
	err = query(ctx, url, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT count(*) FROM shop.orders`).Scan(&n)
	})
	return n, err
}
