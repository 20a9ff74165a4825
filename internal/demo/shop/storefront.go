package shop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A storefront is the website as a shopper's client sees it.
type storefront struct {
	url    string
	client *http.Client
	waited func(time.Duration) // is told how long each answer took
}

func newStorefront(url string, shoppers int, waited func(time.Duration)) *storefront {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = shoppers
	transport.Proxy = nil
	return &storefront{strings.TrimSuffix(url, "/"), &http.Client{Transport: transport}, waited}
}

func (f *storefront) offers(ctx context.Context) (offers []offer, err error) {
	body, err := f.get(ctx, "/api/products")
	if err != nil {
		return nil, err
	}
	return offers, json.Unmarshal(body, &offers)
}

// browse reads the list and the page of a product.
func (f *storefront) browse(ctx context.Context, slug string) (pages int, err error) {
	for _, path := range []string{"/", "/products/" + url.PathEscape(slug)} {
		if _, err := f.get(ctx, path); err != nil {
			return pages, err
		}
		pages++
	}
	return pages, nil
}

func (f *storefront) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+path, nil)
	if err != nil {
		return nil, err
	}
	status, body, err := f.do(request)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("GET %s: status %d", path, status)
	}
	return body, nil
}

func (f *storefront) do(request *http.Request) (status int, body []byte, err error) {
	defer func(sent time.Time) { f.waited(time.Since(sent)) }(time.Now())
	response, err := f.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// PlaceOrder trusts a complete 201 and a complete answer that says "not
// placed". All else, a lost connection above all, leaves the outcome unknown.
func (f *storefront) PlaceOrder(ctx context.Context, order Order) (receipt Receipt, err error) {
	sent, err := json.Marshal(order)
	if err != nil {
		return Receipt{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/api/orders", bytes.NewReader(sent))
	if err != nil {
		return Receipt{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	status, body, err := f.do(request)
	if err != nil {
		return Receipt{}, err
	}
	if status == http.StatusCreated {
		if err := json.Unmarshal(body, &receipt); err != nil {
			return Receipt{}, fmt.Errorf("receipt: %w", err)
		}
		if receipt.Token != order.Token || receipt.Number == "" {
			return Receipt{}, fmt.Errorf("receipt is for another order: %s", body)
		}
		return receipt, nil
	}
	var refusal apiError
	if json.Unmarshal(body, &refusal) == nil && refusal.Outcome == outcomeNotPlaced {
		return Receipt{}, &requestError{status, fmt.Sprintf("status %d: %s", status, refusal.Error)}
	}
	return Receipt{}, fmt.Errorf("status %d: %s", status, body)
}
