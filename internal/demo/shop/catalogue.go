package shop

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A kind is a leaf of the taxonomy together with the words that its products
// are made of. Its slug also selects the illustration.
type kind struct {
	slug, name string
	parent     string // name of the taxon above
	products   int
	nouns      []string
	pitch      string // one sentence, with the material as its %s
	materials  []string
	sizes      []string // names of the variants
	fromEuros  int      // price of the cheapest product
	stepEuros  int
	weightKg   float64
}

// kinds add up to 116 products.
var kinds = []kind{
	{"jackets", "Jackets", "Clothing", 12, []string{"Rain Jacket", "Down Jacket", "Wind Shell", "Parka"},
		"Keeps the weather where it belongs, in %s with a helmet-sized hood and two pockets that stay clear of a hip belt.",
		[]string{"recycled three-layer nylon", "waxed cotton", "ripstop polyester"}, clothing, 129, 18, 0.52},
	{"fleece", "Fleece", "Clothing", 10, []string{"Fleece Pullover", "Grid Hoodie", "Fleece Vest"},
		"A warm middle layer of %s, quick to dry and good-looking enough to keep on at the café.",
		[]string{"brushed recycled polyester", "merino blend", "high-loft fleece"}, clothing, 69, 9, 0.34},
	{"shirts", "Shirts", "Clothing", 10, []string{"Merino Tee", "Trail Shirt", "Long Sleeve"},
		"Light, soft and slow to smell: %s with flat seams for long days under a pack.",
		[]string{"150-weight merino", "hemp and organic cotton", "Tencel and merino"}, clothing, 35, 6, 0.16},
	{"trousers", "Trousers", "Clothing", 10, []string{"Trekking Trousers", "Hiking Shorts", "Soft Shell Trousers"},
		"Room at the knee, a gusset where it matters and %s that shrugs off thorns.",
		[]string{"four-way stretch nylon", "organic canvas", "double weave"}, clothing, 59, 9, 0.38},
	{"hats", "Hats", "Clothing", 8, []string{"Beanie", "Bobble Hat", "Watch Cap"},
		"Knitted in one piece from %s, so there is no seam to press on the forehead.",
		[]string{"lambswool", "recycled wool", "merino"}, []string{"One size"}, 22, 4, 0.07},
	{"boots", "Boots", "Footwear", 10, []string{"Hiking Boots", "Mountain Boots", "Trail Boots"},
		"Can be resoled, and worth it: %s on a grippy rubber sole, with a heel that stays put going down.",
		[]string{"full-grain leather", "nubuck", "suede and mesh"}, []string{"38", "40", "42", "44", "46"}, 139, 15, 1.15},
	{"tents", "Tents", "Camping", 10, []string{"Tunnel Tent", "Dome Tent", "Bivouac Tent"},
		"Up in four minutes, even in the wind. A flysheet of %s and a porch that is long enough to cook in.",
		[]string{"silicone-coated nylon", "recycled polyester", "polycotton"}, []string{"2 persons", "3 persons"}, 249, 45, 2.6},
	{"sleeping-bags", "Sleeping Bags", "Camping", 8, []string{"Summer Bag", "Three-Season Bag", "Winter Bag"},
		"Shaped to turn over in, filled with %s, and small enough to be forgotten at the bottom of a pack.",
		[]string{"650-fill down", "recycled synthetic down", "800-fill down"}, []string{"Regular", "Long"}, 119, 28, 1.1},
	{"mugs", "Mugs & Kettles", "Camping", 8, []string{"Enamel Mug", "Camp Cup", "Trail Mug"},
		"Made from %s to be dropped, scratched and handed down.",
		[]string{"enamelled steel", "stainless steel", "titanium"}, []string{"350 ml", "500 ml"}, 14, 3, 0.14},
	{"lanterns", "Lanterns", "Camping", 8, []string{"Camp Lantern", "Storm Lantern", "Pocket Lantern"},
		"Eighty hours of warm light from one charge, behind %s.",
		[]string{"hand-blown glass", "frosted polycarbonate", "folded silicone"}, []string{"Standard"}, 39, 7, 0.31},
	{"backpacks", "Backpacks", "Packs & Bottles", 12, []string{"Daypack", "Trekking Pack", "Roll-Top Pack", "Alpine Pack"},
		"Carries its load close to the back. Built from %s, repaired by us for as long as you use it.",
		[]string{"recycled nylon", "waxed canvas", "ripstop"}, []string{"24 l", "38 l"}, 79, 14, 1.05},
	{"bottles", "Bottles", "Packs & Bottles", 10, []string{"Steel Bottle", "Vacuum Flask", "Trail Bottle"},
		"Fits every side pocket, opens with a gloved hand, and gives no taste to the water: %s.",
		[]string{"single-wall steel", "double-wall steel", "borosilicate glass in a sleeve"}, []string{"0.5 l", "0.75 l", "1 l"}, 18, 4, 0.27},
}

var (
	clothing = []string{"XS", "S", "M", "L", "XL"}
	names    = []string{
		"Alder", "Birch", "Cairn", "Drift", "Ember", "Fjord", "Glacier", "Heath", "Islay", "Juniper", "Kestrel", "Lark",
		"Moraine", "Nordvik", "Osprey", "Pinewood", "Quarry", "Ridgeline", "Skye", "Tarn", "Upland", "Vale", "Willow",
	}
	colours = []string{"moss", "rust", "slate", "sand", "ink", "heather", "lichen"}
)

// loadCatalogue fills the tables of products and everything that hangs on
// them, with ids of its own: history.sql moves the sequences past them.
func loadCatalogue(ctx context.Context, tx pgx.Tx) error {
	var taxons, products, productTaxons, variants, prices, stock [][]any
	parents := map[string]int{}
	for _, k := range kinds {
		parent, known := parents[k.parent]
		if !known {
			parent = len(taxons) + 1
			parents[k.parent] = parent
			taxons = append(taxons, []any{parent, nil, slugOf(k.parent), k.parent, parent})
		}
		taxon := len(taxons) + 1
		taxons = append(taxons, []any{taxon, parent, k.slug, k.name, taxon})

		for i := range k.products {
			id := len(products) + 1
			noun := k.nouns[i%len(k.nouns)]
			// Steps of 5 through 23 names: no two products of a kind share one.
			name := names[(id+i*4)%len(names)] + " " + noun
			material := k.materials[i%len(k.materials)]
			products = append(products, []any{
				id, slugOf(name), name, fmt.Sprintf(k.pitch, material),
				map[string]any{"material": material, "colour": colours[id%len(colours)], "warranty_years": 2 + id%4},
				fmt.Sprintf("%.3f", k.weightKg*(1+float64(i)/20)),
			})
			productTaxons = append(productTaxons, []any{id, taxon})
			for position, size := range k.sizes {
				variant := len(variants) + 1
				sku := fmt.Sprintf("%s-%03d-%d", strings.ToUpper(k.slug[:3]), id, position+1)
				variants = append(variants, []any{variant, id, sku, size, position})
				prices = append(prices, []any{variant, currency, (k.fromEuros + k.stepEuros*(i*7%k.products)) * 100})
				stock = append(stock, []any{variant, 40 + variant*37%160})
			}
		}
	}
	for _, t := range []struct {
		table   string
		columns []string
		rows    [][]any
	}{
		{"taxons", []string{"id", "parent_id", "slug", "name", "position"}, taxons},
		{"products", []string{"id", "slug", "name", "description", "properties", "weight_kg"}, products},
		{"product_taxons", []string{"product_id", "taxon_id"}, productTaxons},
		{"variants", []string{"id", "product_id", "sku", "name", "position"}, variants},
		{"prices", []string{"variant_id", "currency", "amount_cents"}, prices},
		{"stock", []string{"variant_id", "on_hand"}, stock},
	} {
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"shop", t.table}, t.columns, pgx.CopyFromRows(t.rows)); err != nil {
			return fmt.Errorf("%s: %w", t.table, err)
		}
	}
	return nil
}
