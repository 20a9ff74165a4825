-- Product cards. $1 taxon, or parent of a taxon, or ''; $2 pattern for the
-- name; $3 whether hidden products are shown too; $4 newest first, else
-- shuffled, the same way every time; $5, $6 page.

SELECT c.id,
       c.slug,
       c.name,
       coalesce(c.taxon_slug, '') AS taxon_slug,
       coalesce(c.taxon_name, '') AS taxon_name,
       c.active,
       c.from_cents,
       c.variants,
       c.on_hand,
       count(*) OVER ()           AS matches
FROM   shop.catalogue c
WHERE  (c.active OR $3)
AND    c.name ILIKE $2
AND    ($1 = '' OR EXISTS (
           SELECT 1
           FROM   shop.product_taxons pt
           JOIN   shop.taxons t           ON t.id = pt.taxon_id
           LEFT   JOIN shop.taxons parent ON parent.id = t.parent_id
           WHERE  pt.product_id = c.id
           AND    $1 IN (t.slug, parent.slug)
       ))
ORDER  BY CASE WHEN $4 THEN c.id END DESC,
       md5(c.id::text) COLLATE "C"
LIMIT  $5
OFFSET $6;
