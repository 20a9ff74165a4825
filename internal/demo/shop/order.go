package shop

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed sql/place_order.sql
var placeOrderSQL string

// A Line is a quantity of one variant.
type Line struct {
	VariantID int32 `json:"variant_id"`
	Quantity  int32 `json:"quantity"`
}

// A Customer is who an order goes to.
type Customer struct {
	Name     string `json:"name"`
	Email    string `json:"email"`
	Street   string `json:"street"`
	Postcode string `json:"postcode"`
	City     string `json:"city"`
	Country  string `json:"country"`
}

// An Order is what a client asks for. Token, a UUID of the client's choice,
// names it: placing an order again under the same token returns the first.
type Order struct {
	Token    string   `json:"token"`
	Shopper  string   `json:"shopper,omitempty"` // name of the simulated shopper, empty for people
	Customer Customer `json:"customer"`
	Lines    []Line   `json:"lines"`
}

// A Receipt acknowledges an order. Whoever holds one will find the order in
// the database.
type Receipt struct {
	Token      string `json:"token"`
	Number     string `json:"number"`
	TotalCents int64  `json:"total_cents"`
}

const (
	maxLines    = 50
	maxQuantity = 99
	maxText     = 200
)

// PlaceOrder commits an order and returns its receipt. While the database is
// away it tries again, for as long as [Options].RetryFor. [ErrUnavailable]
// means that no order was placed; after [ErrOutcomeUnknown] one may have been,
// and placing it again under the same token finds out.
func (s *Store) PlaceOrder(ctx context.Context, order Order) (Receipt, error) {
	order, err := order.checked()
	if err != nil {
		return Receipt{}, err
	}
	var receipt Receipt
	// The token makes a repeated attempt safe even where the first commit's
	// outcome is unknown: if it happened the token is found, on whichever
	// database the store points to by then. If it is still happening, the
	// unique index makes the second attempt wait for it.
	err = s.attempt(ctx, repeatable, func(ctx context.Context, pool *pgxpool.Pool) error {
		receipt, err = placeOrder(ctx, pool, order)
		return err
	})
	return receipt, err
}

var errTokenTaken = errors.New("the order exists")

func placeOrder(ctx context.Context, pool *pgxpool.Pool, order Order) (Receipt, error) {
	variants := make([]int32, len(order.Lines))
	quantities := make([]int32, len(order.Lines))
	for i, line := range order.Lines {
		variants[i], quantities[i] = line.VariantID, line.Quantity
	}
	c := order.Customer
	receipt := Receipt{Token: order.Token}
	err := inTx(ctx, pool, func(tx pgx.Tx) error {
		var found int
		err := tx.QueryRow(ctx, placeOrderSQL,
			order.Token, order.Shopper, c.Email, c.Name, c.Street, c.Postcode, c.City, c.Country,
			variants, quantities,
		).Scan(&receipt.Number, &receipt.TotalCents, &found)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return errTokenTaken
		case err != nil:
			return err
		case found < len(order.Lines):
			return invalid("one of the variants does not exist")
		}
		return nil
	})
	if errors.Is(err, errTokenTaken) {
		err = pool.QueryRow(ctx, `SELECT number, total_cents FROM shop.orders WHERE token = $1::uuid`, order.Token).
			Scan(&receipt.Number, &receipt.TotalCents)
	}
	return receipt, err
}

// checked returns the order as it is stored, or says what is wrong with it.
func (o Order) checked() (Order, error) {
	token, ok := parseToken(o.Token)
	if !ok {
		return o, invalid("token must be a UUID")
	}
	o.Token = token
	if !shortText(o.Shopper) {
		return o, invalid("shopper is too long")
	}

	c := &o.Customer
	for _, field := range []struct {
		name string
		text *string
	}{
		{"name", &c.Name}, {"email", &c.Email}, {"street", &c.Street},
		{"postcode", &c.Postcode}, {"city", &c.City}, {"country", &c.Country},
	} {
		*field.text = strings.TrimSpace(*field.text)
		if *field.text == "" {
			return o, invalid("%s is missing", field.name)
		}
		if !shortText(*field.text) {
			return o, invalid("%s is too long", field.name)
		}
	}
	if user, host, at := strings.Cut(c.Email, "@"); !at || user == "" || host == "" || strings.ContainsAny(c.Email, " \t") {
		return o, invalid("email does not look like an email address")
	}

	quantities := map[int32]int32{}
	for _, line := range o.Lines {
		if line.Quantity < 1 || line.Quantity > maxQuantity {
			return o, invalid("quantity must be between 1 and %d", maxQuantity)
		}
		quantities[line.VariantID] += line.Quantity
	}
	if len(quantities) == 0 {
		return o, invalid("an order needs at least one line")
	}
	if len(o.Lines) > maxLines {
		return o, invalid("an order has at most %d lines", maxLines)
	}
	lines := make([]Line, 0, len(quantities))
	for variant, quantity := range quantities {
		lines = append(lines, Line{variant, quantity})
	}
	slices.SortFunc(lines, func(a, b Line) int { return cmp.Compare(a.VariantID, b.VariantID) })
	o.Lines = lines
	return o, nil
}

// shortText accepts what a text column of the shop may hold: PostgreSQL takes
// neither broken UTF-8 nor NUL.
func shortText(text string) bool {
	return len(text) <= maxText && utf8.ValidString(text) && !strings.ContainsRune(text, 0)
}
