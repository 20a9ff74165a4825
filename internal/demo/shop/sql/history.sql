-- The rest of the past year, derived from the lines that history_lines.sql
-- made: customers, orders summed up from their lines, payments, page views.
-- Ids are explicit, so the sequences are moved past them at the end.

-- Without statistics the planner would sum up millions of orders in memory.
ANALYZE shop.line_items;

INSERT INTO shop.users (id, email, name)
SELECT id,
       format('customer%s@example.com', id),
       (ARRAY['Ada', 'Ben', 'Clara', 'Dev', 'Elif', 'Finn', 'Greta', 'Hugo', 'Ines', 'Jonas', 'Kira'])[1 + id % 11]
       || ' ' ||
       (ARRAY['Berg', 'Costa', 'Dahl', 'Eriksen', 'Fischer', 'Garcia', 'Holm'])[1 + id % 7]
FROM   (SELECT greatest(200, max(order_id) / 5) AS customers FROM shop.line_items) AS history
CROSS  JOIN LATERAL generate_series(1, customers) AS id;

INSERT INTO shop.addresses (id, user_id, street, postcode, city, country)
SELECT id,
       id,
       format('%s %s', (ARRAY['Mill Lane', 'Harbour Street', 'Station Road', 'Forest Way'])[1 + id % 4], 1 + id % 89),
       lpad((10000 + id * 37 % 80000)::text, 5, '0'),
       (ARRAY['Bergen', 'Lisbon', 'Lyon', 'Munich', 'Turin'])[1 + id % 5],
       (ARRAY['Norway', 'Portugal', 'France', 'Germany', 'Italy'])[1 + id % 5]
FROM   shop.users;

INSERT INTO shop.orders (id, number, token, user_id, address_id, state, total_cents, placed_at)
SELECT order_id,
       'R' || (100000000 + order_id),
       md5('history ' || order_id)::uuid,
       1 + order_id * 7919 % customers,
       1 + order_id * 7919 % customers,
       CASE WHEN order_id % 97 = 0         THEN 'canceled'
            WHEN order_id > orders * 0.98  THEN 'paid'
            WHEN order_id > orders * 0.95  THEN 'shipped'
            ELSE                                'delivered'
       END::shop.order_state,
       sum(quantity * price_cents),
       now() - interval '365 days' * (1 - order_id / (orders + 1.0))
FROM   shop.line_items
CROSS  JOIN (SELECT max(order_id) AS orders FROM shop.line_items) AS history
CROSS  JOIN (SELECT count(*) AS customers FROM shop.users) AS users
GROUP  BY order_id, orders, customers
ORDER  BY order_id;

INSERT INTO shop.payments (order_id, state, amount_cents, created_at)
SELECT id,
       CASE state WHEN 'canceled' THEN 'refunded' ELSE 'captured' END::shop.payment_state,
       total_cents,
       placed_at
FROM   shop.orders
ORDER  BY id;

INSERT INTO shop.page_views (product_id, viewed_at)
SELECT 1 + o.id % products, o.placed_at - interval '5 minutes'
FROM   shop.orders o
CROSS  JOIN (SELECT count(*) AS products FROM shop.products) AS catalogue;

INSERT INTO shop.audit_log (action, product_id)
SELECT 'load', id
FROM   shop.products;

-- setval of NULL does nothing: without rows a sequence stays at its start.
SELECT setval(pg_get_serial_sequence('shop.taxons', 'id'),    max(id)) FROM shop.taxons;
SELECT setval(pg_get_serial_sequence('shop.products', 'id'),  max(id)) FROM shop.products;
SELECT setval(pg_get_serial_sequence('shop.variants', 'id'),  max(id)) FROM shop.variants;
SELECT setval(pg_get_serial_sequence('shop.users', 'id'),     max(id)) FROM shop.users;
SELECT setval(pg_get_serial_sequence('shop.addresses', 'id'), max(id)) FROM shop.addresses;
SELECT setval(pg_get_serial_sequence('shop.orders', 'id'),    max(id)) FROM shop.orders;
SELECT setval('shop.order_number', 100000000 + max(id))                FROM shop.orders;
