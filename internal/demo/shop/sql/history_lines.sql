-- Lines of orders 1 ... $1: one to three each. The product of two uniform
-- picks favours low positions, so that some products sell best. There are no
-- foreign keys yet (keys.sql), so lines can come before their orders, and
-- the orders be summed up from them without a second pass.

INSERT INTO shop.line_items (order_id, variant_id, quantity, price_cents)
SELECT o.id, v.variant_id, 1 + (o.id + line) % 2, v.amount_cents
FROM   generate_series(1, $1::bigint) AS o (id)
CROSS  JOIN LATERAL generate_series(1, 1 + o.id % 3) AS line
CROSS  JOIN (SELECT count(*) AS total FROM shop.prices WHERE currency = 'EUR') AS variants
JOIN   (
           SELECT row_number() OVER (ORDER BY (variant_id * 7919) % 1009, variant_id) - 1 AS position,
                  variant_id,
                  amount_cents
           FROM   shop.prices
           WHERE  currency = 'EUR'
       ) AS v ON v.position = ((o.id * 7919 + line * 104729) % total)
                            * ((o.id * 1299709 + line * 15485863) % total) / total;
