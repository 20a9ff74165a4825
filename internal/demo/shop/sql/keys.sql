-- Applied after the rows: secondary indexes, foreign keys, triggers,
-- materialized view, statistics.

CREATE UNIQUE INDEX users_email_key         ON shop.users (lower(email));
CREATE INDEX product_taxons_taxon_id_idx    ON shop.product_taxons (taxon_id);
CREATE INDEX variants_product_id_idx        ON shop.variants (product_id);
CREATE INDEX addresses_user_id_idx          ON shop.addresses (user_id);
CREATE INDEX orders_user_id_idx             ON shop.orders (user_id);
CREATE INDEX orders_placed_at_idx           ON shop.orders (placed_at);
CREATE INDEX orders_open_idx                ON shop.orders (placed_at) WHERE state IN ('placed', 'paid');
CREATE INDEX orders_shopper_idx             ON shop.orders (shopper) WHERE shopper IS NOT NULL;
CREATE INDEX line_items_order_id_idx        ON shop.line_items (order_id);
CREATE INDEX line_items_variant_id_idx      ON shop.line_items (variant_id);
CREATE INDEX payments_order_id_idx          ON shop.payments (order_id);
CREATE INDEX products_properties_idx        ON shop.products USING gin (properties);

ALTER TABLE shop.taxons
    ADD FOREIGN KEY (parent_id) REFERENCES shop.taxons;

ALTER TABLE shop.product_taxons
    ADD FOREIGN KEY (product_id) REFERENCES shop.products ON DELETE CASCADE,
    ADD FOREIGN KEY (taxon_id)   REFERENCES shop.taxons;

ALTER TABLE shop.variants
    ADD FOREIGN KEY (product_id) REFERENCES shop.products;

ALTER TABLE shop.prices
    ADD FOREIGN KEY (variant_id) REFERENCES shop.variants;

ALTER TABLE shop.stock
    ADD FOREIGN KEY (variant_id) REFERENCES shop.variants;

ALTER TABLE shop.addresses
    ADD FOREIGN KEY (user_id) REFERENCES shop.users;

ALTER TABLE shop.cart_items
    ADD FOREIGN KEY (cart_id)    REFERENCES shop.carts ON DELETE CASCADE,
    ADD FOREIGN KEY (variant_id) REFERENCES shop.variants;

ALTER TABLE shop.orders
    ADD FOREIGN KEY (user_id)    REFERENCES shop.users,
    ADD FOREIGN KEY (address_id) REFERENCES shop.addresses;

ALTER TABLE shop.line_items
    ADD FOREIGN KEY (order_id)   REFERENCES shop.orders,
    ADD FOREIGN KEY (variant_id) REFERENCES shop.variants;

ALTER TABLE shop.payments
    ADD FOREIGN KEY (order_id) REFERENCES shop.orders;

CREATE TRIGGER touch_updated_at BEFORE UPDATE ON shop.products
    FOR EACH ROW EXECUTE PROCEDURE shop.touch_updated_at();

CREATE TRIGGER log_product_change AFTER INSERT OR UPDATE ON shop.products
    FOR EACH ROW EXECUTE PROCEDURE shop.log_product_change();

CREATE TRIGGER take_from_stock AFTER INSERT ON shop.line_items
    FOR EACH ROW EXECUTE PROCEDURE shop.take_from_stock();

-- The unique index is what allows REFRESH ... CONCURRENTLY later on.
REFRESH MATERIALIZED VIEW shop.best_sellers;
CREATE UNIQUE INDEX best_sellers_product_id_key ON shop.best_sellers (product_id);

ANALYZE shop.taxons;
ANALYZE shop.products;
ANALYZE shop.product_taxons;
ANALYZE shop.variants;
ANALYZE shop.prices;
ANALYZE shop.stock;
ANALYZE shop.users;
ANALYZE shop.addresses;
ANALYZE shop.orders;
ANALYZE shop.line_items;
ANALYZE shop.payments;
ANALYZE shop.page_views;
ANALYZE shop.best_sellers;
