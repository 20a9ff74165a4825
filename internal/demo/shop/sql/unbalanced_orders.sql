-- Orders whose lines or payments do not add up to their total.

SELECT o.number
FROM   shop.orders o
LEFT   JOIN (
           SELECT order_id, sum(quantity * price_cents) AS cents
           FROM   shop.line_items
           GROUP  BY order_id
       ) AS lines ON lines.order_id = o.id
LEFT   JOIN (
           SELECT order_id, sum(amount_cents) AS cents
           FROM   shop.payments
           GROUP  BY order_id
       ) AS paid ON paid.order_id = o.id
WHERE  lines.cents IS DISTINCT FROM o.total_cents
OR     paid.cents  IS DISTINCT FROM o.total_cents
ORDER  BY o.number;
