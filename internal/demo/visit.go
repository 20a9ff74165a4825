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
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"pgbaton/internal/demo/shop"
	"pgbaton/internal/postgres"
)

// visit uses the shop as a customer, after a handover to a side, and the other
// side as an application that was forgotten.
func (d *demo) visit(ctx context.Context, side postgres.Side, h *Handover) error {
	began := time.Now()
	offer, err := d.firstOffer(ctx)
	if err != nil {
		return err
	}
	if h.ServedBy, err = d.readFooter(ctx, "/products/"+offer.Slug); err != nil {
		return err
	}
	if want := d.version(side); h.ServedBy != want {
		return fmt.Errorf("the shop is served by PostgreSQL %s; after the %s it should be %s", h.ServedBy, h.Command, want)
	}
	number, err := d.placeOrder(ctx, offer.VariantID)
	if err != nil {
		return err
	}
	d.step(fmt.Sprintf("You get a page from PostgreSQL %s, and place order %s", h.ServedBy, number), time.Since(began))
	h.Refusal, err = d.tryOldAddress(ctx, side.Other())
	if err == nil {
		d.say("The %s, if asked directly: %s", side.Other(), h.Refusal)
	}
	return err
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

// What a packager adds to the version, as in "15.18 (Debian …)", is of no interest.
var servedPattern = regexp.MustCompile(`served by PostgreSQL ([^ <]+)[^<]*<`)

// readFooter reads a page and returns the version of the server that it comes
// from, as [demo.prepareServer] does. The shop keeps that for a moment; being asked for its health it looks.
func (d *demo) readFooter(ctx context.Context, path string) (version string, err error) {
	if _, err := d.request(ctx, http.MethodGet, "/healthz", nil, http.StatusOK); err != nil {
		return "", err
	}
	body, err := d.request(ctx, http.MethodGet, path, nil, http.StatusOK)
	if err != nil {
		return "", err
	}
	served := servedPattern.FindSubmatch(body)
	if served == nil {
		return "", fmt.Errorf("the page %s does not show which server it comes from", path)
	}
	return string(served[1]), nil
}

func (d *demo) placeOrder(ctx context.Context, variant int32) (number string, err error) {
	body, err := json.Marshal(shop.Order{
		Token:    newToken(),
		Customer: shop.Customer{Name: "You", Email: "you@example.com", Street: "Loop 1", Postcode: "00001", City: "Testville", Country: "Nowhere"},
		Lines:    []shop.Line{{VariantID: variant, Quantity: 1}},
	})
	if err != nil {
		return "", err
	}
	answer, err := d.request(ctx, http.MethodPost, "/api/orders", body, http.StatusCreated)
	if err != nil {
		return "", err
	}
	var receipt shop.Receipt
	if err := json.Unmarshal(answer, &receipt); err != nil {
		return "", fmt.Errorf("POST /api/orders: %w", err)
	}
	return receipt.Number, nil
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

// tryOldAddress does what a forgotten application would: connect to the side
// without the baton, past PgBouncer, and write.
func (d *demo) tryOldAddress(ctx context.Context, side postgres.Side) (refusal string, err error) {
	err = query(ctx, d.shopURL(d.server(side)), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `UPDATE shop.stock SET on_hand = on_hand WHERE variant_id = 1`)
		return err
	})
	var refused *pgconn.PgError
	switch {
	case err == nil:
		return "", fmt.Errorf("the %s still takes writes from the shop", side)
	case !errors.As(err, &refused):
		return "", fmt.Errorf("the %s should refuse the shop, but could not be asked: %w", side, err)
	}
	return fmt.Sprintf("%s (%s)", refused.Message, refused.Code), nil
}
