-- What needs PostgreSQL 12: a generated column.

ALTER TABLE shop.line_items
    ADD COLUMN total_cents bigint GENERATED ALWAYS AS (quantity * price_cents) STORED;
