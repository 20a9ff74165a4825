package shop

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// maxBody bounds what a client may send.
const maxBody = 64 << 10

// Outcomes that an API error names, so that a client knows whether an order
// was placed.
const (
	outcomeNotPlaced = "not placed"
	outcomeUnknown   = "unknown"
)

// An apiError is the body of every API answer but the good ones.
type apiError struct {
	Error   string `json:"error"`
	Outcome string `json:"outcome"`
}

// api answers in JSON.
func (s *Store) api(handle func(w http.ResponseWriter, r *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := handle(w, r)
		if err == nil {
			return
		}
		status, text := statusOf(err)
		s.logFailure(r, status, err)
		outcome := outcomeNotPlaced
		if errors.Is(err, ErrOutcomeUnknown) {
			outcome = outcomeUnknown
		}
		writeJSON(w, status, apiError{text, outcome})
	})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// What fails here is the way to the client: there is no one else to tell.
	_ = json.NewEncoder(w).Encode(body)
}

// An offer is a variant that can be ordered.
type offer struct {
	ProductSlug string `json:"product_slug"`
	VariantID   int32  `json:"variant_id"`
	PriceCents  int64  `json:"price_cents"`
}

const offersSQL = `
SELECT p.slug, v.id, pr.amount_cents
FROM   shop.products p
JOIN   shop.variants v ON v.product_id = p.id
JOIN   shop.prices pr  ON pr.variant_id = v.id AND pr.currency = 'EUR'
WHERE  p.active
ORDER  BY v.id`

func (s *Store) offers(ctx context.Context) (offers []offer, err error) {
	err = s.attempt(ctx, repeatable, func(ctx context.Context, pool *pgxpool.Pool) error {
		rows, _ := pool.Query(ctx, offersSQL)
		offers, err = pgx.CollectRows(rows, pgx.RowToStructByPos[offer])
		return err
	})
	return offers, err
}

func (s *Store) apiProducts(w http.ResponseWriter, r *http.Request) error {
	offers, err := s.offers(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, offers)
	return nil
}

// apiOrder places an order. Its 201 is sent after the commit, never before.
func (s *Store) apiOrder(w http.ResponseWriter, r *http.Request) error {
	var order Order
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&order); err != nil {
		return &requestError{http.StatusBadRequest, "the body is not an order: " + err.Error()}
	}
	receipt, err := s.PlaceOrder(r.Context(), order)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, receipt)
	return nil
}

// health asks the database once, without trying again.
func (s *Store) health(w http.ResponseWriter, r *http.Request) error {
	g, err := s.acquire()
	if err != nil {
		return err
	}
	defer g.users.Done()
	version, err := g.serverVersion(r.Context(), 0)
	if err != nil {
		return errors.Join(ErrUnavailable, err)
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok", "server_version": version})
	return nil
}
