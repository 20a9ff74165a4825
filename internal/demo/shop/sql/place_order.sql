-- One order, whole or not at all: customer, address, order, lines, payment.
-- Returns no row when the token is taken, and found < wanted when a variant
-- does not exist; the caller rolls back in both cases.
--
-- $1 token  $2 shopper  $3 email  $4 name  $5 street  $6 postcode  $7 city  $8 country
-- $9 variants  $10 quantities

WITH wanted AS (
    SELECT w.variant_id, w.quantity, p.amount_cents
    FROM   unnest($9::integer[], $10::integer[]) AS w (variant_id, quantity)
    JOIN   shop.prices p ON p.variant_id = w.variant_id AND p.currency = 'EUR'
), customer AS (
    INSERT INTO shop.users (email, name)
    VALUES ($3, $4)
    ON CONFLICT (lower(email)) DO UPDATE SET name = EXCLUDED.name
    RETURNING id
), address AS (
    INSERT INTO shop.addresses (user_id, street, postcode, city, country)
    SELECT id, $5, $6, $7, $8
    FROM   customer
    RETURNING id
), placed AS (
    INSERT INTO shop.orders (token, shopper, user_id, address_id, state, total_cents)
    SELECT $1::uuid,
           nullif($2, ''),
           customer.id,
           address.id,
           'paid',
           (SELECT coalesce(sum(quantity * amount_cents), 0) FROM wanted)
    FROM   customer, address
    ON CONFLICT (token) DO NOTHING
    RETURNING id, number, total_cents
), lines AS (
    -- In order of variant: the trigger locks stock rows in this order, and
    -- two orders for the same things cannot deadlock.
    INSERT INTO shop.line_items (order_id, variant_id, quantity, price_cents)
    SELECT placed.id, wanted.variant_id, wanted.quantity, wanted.amount_cents
    FROM   placed, wanted
    ORDER  BY wanted.variant_id
), payment AS (
    INSERT INTO shop.payments (order_id, state, amount_cents)
    SELECT id, 'captured', total_cents
    FROM   placed
)
SELECT number, total_cents, (SELECT count(*) FROM wanted) AS found
FROM   placed;
