-- A product of one variant.
-- $1 slug  $2 name  $3 description  $4 taxon  $5 price  $6 stock  $7 active

WITH product AS (
    INSERT INTO shop.products (slug, name, description, active)
    VALUES ($1, $2, $3, $7)
    RETURNING id
), product_taxon AS (
    INSERT INTO shop.product_taxons (product_id, taxon_id)
    SELECT id, $4
    FROM   product
), variant AS (
    INSERT INTO shop.variants (product_id, sku, name)
    SELECT id, format('ADD-%s-1', id), 'Standard'
    FROM   product
    RETURNING id
), price AS (
    INSERT INTO shop.prices (variant_id, currency, amount_cents)
    SELECT id, 'EUR', $5
    FROM   variant
)
INSERT INTO shop.stock (variant_id, on_hand)
SELECT id, $6
FROM   variant;
