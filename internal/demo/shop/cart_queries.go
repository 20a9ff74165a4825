package shop

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// An item is a line of a cart or an order, as people see it.
type item struct {
	ProductID   int32
	ProductSlug string
	ProductName string
	TaxonSlug   string
	VariantID   int32
	VariantName string
	Quantity    int32
	PriceCents  int64
}

// TotalCents of the line.
func (i item) TotalCents() int64 { return int64(i.Quantity) * i.PriceCents }

const cartItemsSQL = `
SELECT c.id, c.slug, c.name, coalesce(c.taxon_slug, ''), v.id, v.name, ci.quantity, pr.amount_cents
FROM   shop.cart_items ci
JOIN   shop.variants v  ON v.id = ci.variant_id
JOIN   shop.prices pr   ON pr.variant_id = v.id AND pr.currency = 'EUR'
JOIN   shop.catalogue c ON c.id = v.product_id
WHERE  ci.cart_id = $1::uuid
ORDER  BY c.name, v.position`

type cart struct {
	Items      []item
	TotalCents int64
}

func (c cart) lines() []Line {
	lines := make([]Line, len(c.Items))
	for i, item := range c.Items {
		lines[i] = Line{item.VariantID, item.Quantity}
	}
	return lines
}

func queryCart(ctx context.Context, pool *pgxpool.Pool, id string) (c cart, err error) {
	rows, _ := pool.Query(ctx, cartItemsSQL, id)
	if c.Items, err = pgx.CollectRows(rows, pgx.RowToStructByPos[item]); err != nil {
		return cart{}, err
	}
	err = pool.QueryRow(ctx, `SELECT shop.cart_total_cents($1::uuid)`, id).Scan(&c.TotalCents)
	return c, err
}

// Adding is not repeatable: a second time would add a second one.
const addToCartSQL = `
WITH cart AS (
    INSERT INTO shop.carts (id)
    VALUES ($1::uuid)
    ON CONFLICT DO NOTHING
)
INSERT INTO shop.cart_items (cart_id, variant_id, quantity)
SELECT $1::uuid, v.id, $3
FROM   shop.variants v
WHERE  v.id = $2
ON CONFLICT (cart_id, variant_id)
    DO UPDATE SET quantity = least(cart_items.quantity + EXCLUDED.quantity, 99)`

const setCartQuantitySQL = `
UPDATE shop.cart_items
SET    quantity = $3
WHERE  cart_id = $1::uuid
AND    variant_id = $2`

const removeFromCartSQL = `
DELETE FROM shop.cart_items
WHERE  cart_id = $1::uuid
AND    variant_id = $2`

const orderSQL = `
SELECT o.id, o.number, o.state::text, o.placed_at, o.total_cents,
       u.name, u.email, a.street, a.postcode, a.city, a.country
FROM   shop.orders o
JOIN   shop.users u     ON u.id = o.user_id
JOIN   shop.addresses a ON a.id = o.address_id
WHERE  o.token = $1::uuid`

const orderItemsSQL = `
SELECT c.id, c.slug, c.name, coalesce(c.taxon_slug, ''), v.id, v.name, li.quantity, li.price_cents
FROM   shop.line_items li
JOIN   shop.variants v  ON v.id = li.variant_id
JOIN   shop.catalogue c ON c.id = v.product_id
WHERE  li.order_id = $1
ORDER  BY li.id`

type placedOrder struct {
	ID         int64
	Number     string
	State      string
	PlacedAt   time.Time
	TotalCents int64
	Customer   Customer
	Items      []item
}

func queryOrder(ctx context.Context, pool *pgxpool.Pool, token string) (o placedOrder, err error) {
	c := &o.Customer
	err = pool.QueryRow(ctx, orderSQL, token).Scan(&o.ID, &o.Number, &o.State, &o.PlacedAt, &o.TotalCents,
		&c.Name, &c.Email, &c.Street, &c.Postcode, &c.City, &c.Country)
	if err != nil {
		return o, orNotFound(err, "order")
	}
	rows, _ := pool.Query(ctx, orderItemsSQL, o.ID)
	o.Items, err = pgx.CollectRows(rows, pgx.RowToStructByPos[item])
	return o, err
}

// A summary is what the admin page shows of an order.
type summary struct {
	Number     string
	State      string
	PlacedAt   time.Time
	TotalCents int64
	Customer   string
	Items      int64
}

const recentOrdersSQL = `
SELECT number, state::text, placed_at, total_cents, customer, coalesce(items, 0)
FROM   shop.order_summaries
ORDER  BY placed_at DESC, id DESC
LIMIT  12`

func queryRecentOrders(ctx context.Context, pool *pgxpool.Pool) ([]summary, error) {
	rows, _ := pool.Query(ctx, recentOrdersSQL)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[summary])
}
