SELECT c.id,
       c.slug,
       c.name,
       coalesce(c.taxon_slug, '') AS taxon_slug,
       coalesce(c.taxon_name, '') AS taxon_name,
       c.active,
       c.from_cents,
       c.variants,
       c.on_hand,
       0                          AS matches
FROM   (SELECT product_id, sold FROM shop.best_sellers ORDER BY sold DESC, product_id LIMIT 4) AS best
JOIN   shop.catalogue c ON c.id = best.product_id
WHERE  c.active
ORDER  BY best.sold DESC, c.id;
