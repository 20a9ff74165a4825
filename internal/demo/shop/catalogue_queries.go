package shop

import (
	"context"
	_ "embed"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

var (
	//go:embed sql/list_products.sql
	listProductsSQL string
	//go:embed sql/best_sellers.sql
	bestSellersSQL string
)

// A card is what a list shows of a product.
type card struct {
	ID        int32
	Slug      string
	Name      string
	TaxonSlug string
	TaxonName string
	Active    bool
	FromCents int64
	Variants  int64
	OnHand    int64
	Matches   int64 // of the whole list, over all pages
}

// A taxon is a leaf of the taxonomy: products hang on leaves.
type taxon struct {
	ID   int32
	Slug string
	Name string
}

const taxonsSQL = `
SELECT id, slug, name
FROM   shop.taxons
WHERE  parent_id IS NOT NULL
ORDER  BY position, id`

// A listing selects and orders cards.
type listing struct {
	taxon    string
	search   string
	hidden   bool // hidden products too
	newest   bool // first
	page     int  // from 1
	pageSize int
}

var likeLiteral = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

func queryCards(ctx context.Context, pool *pgxpool.Pool, l listing) ([]card, error) {
	rows, _ := pool.Query(ctx, listProductsSQL,
		l.taxon, "%"+likeLiteral.Replace(l.search)+"%", l.hidden, l.newest, l.pageSize, (l.page-1)*l.pageSize)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[card])
}

func queryBestSellers(ctx context.Context, pool *pgxpool.Pool) ([]card, error) {
	rows, _ := pool.Query(ctx, bestSellersSQL)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[card])
}

func queryTaxons(ctx context.Context, pool *pgxpool.Pool) ([]taxon, error) {
	rows, _ := pool.Query(ctx, taxonsSQL)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[taxon])
}

// A product is all that its page, or its form, shows.
type product struct {
	ID          int32
	Slug        string
	Name        string
	Description string
	Properties  map[string]any
	WeightKg    *float64
	Active      bool
	TaxonID     int32
	TaxonSlug   string
	TaxonName   string
	Variants    []variant `db:"-"`
}

type variant struct {
	ID         int32
	SKU        string
	Name       string
	PriceCents int64
	OnHand     int32
}

const productSQL = `
SELECT p.id, p.slug, p.name, p.description, p.properties, p.weight_kg::float8, p.active,
       coalesce(t.id, 0), coalesce(t.slug, ''), coalesce(t.name, '')
FROM   shop.products p
LEFT   JOIN shop.product_taxons pt ON pt.product_id = p.id
LEFT   JOIN shop.taxons t          ON t.id = pt.taxon_id
WHERE  p.slug = $1
OR     p.id = $2
ORDER  BY t.position
LIMIT  1`

const variantsSQL = `
SELECT v.id, v.sku, v.name, pr.amount_cents, s.on_hand
FROM   shop.variants v
JOIN   shop.prices pr ON pr.variant_id = v.id AND pr.currency = 'EUR'
JOIN   shop.stock s   ON s.variant_id = v.id
WHERE  v.product_id = $1
ORDER  BY v.position, v.id`

// queryProduct finds a product by its slug or, where that is empty, its id.
func queryProduct(ctx context.Context, pool *pgxpool.Pool, slug string, id int32) (product, error) {
	rows, _ := pool.Query(ctx, productSQL, slug, id)
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[product])
	if err != nil {
		return product{}, orNotFound(err, "product")
	}
	rows, _ = pool.Query(ctx, variantsSQL, p.ID)
	p.Variants, err = pgx.CollectRows(rows, pgx.RowToStructByPos[variant])
	return p, err
}
