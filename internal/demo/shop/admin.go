package shop

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed sql/create_product.sql
var createProductSQL string

func (s *Store) listAdmin(w http.ResponseWriter, r *http.Request) error {
	l := listing{hidden: true, newest: true, page: pageNumber(r), pageSize: adminPageSize}
	data := struct {
		Cards  []card
		Orders []summary
		Paging paging
	}{}
	err := s.read(r, func(ctx context.Context, pool *pgxpool.Pool) (err error) {
		if data.Cards, err = queryCards(ctx, pool, l); err != nil {
			return err
		}
		data.Orders, err = queryRecentOrders(ctx, pool)
		return err
	})
	if err != nil {
		return err
	}
	data.Paging = newPaging(r.URL, l.page, data.Cards, l.pageSize)
	return s.render(w, r, http.StatusOK, "admin", "Admin", data)
}

// productForm is the form as it was filled in, and what is wrong with it.
type productForm struct {
	ID          int32 // 0 for a product to be
	Name        string
	Description string
	Price       string
	TaxonID     int32
	Active      bool
	Stock       []stockField
	Taxons      []taxon
	Problem     string

	cents int64
}

// A stockField is the stock of one variant, or of the one that a new product
// will have.
type stockField struct {
	VariantID int32
	Label     string
	OnHand    int32
}

func (f stockField) Input() string { return fmt.Sprintf("stock_%d", f.VariantID) }

func (s *Store) showNewProduct(w http.ResponseWriter, r *http.Request) error {
	return s.renderForm(w, r, http.StatusOK, productForm{
		Active: true,
		Stock:  []stockField{{Label: "Stock", OnHand: 20}},
	})
}

func (s *Store) showEditProduct(w http.ResponseWriter, r *http.Request) error {
	form, err := s.formOf(r)
	if err != nil {
		return err
	}
	return s.renderForm(w, r, http.StatusOK, form)
}

// formOf is the form of the product in the path, as the database has it.
func (s *Store) formOf(r *http.Request) (productForm, error) {
	id, err := number("product", r.PathValue("id"), 1, maxID)
	if err != nil {
		return productForm{}, notFound("product")
	}
	var p product
	err = s.read(r, func(ctx context.Context, pool *pgxpool.Pool) (err error) {
		p, err = queryProduct(ctx, pool, "", id)
		return err
	})
	if err != nil {
		return productForm{}, err
	}
	form := productForm{ID: p.ID, Name: p.Name, Description: p.Description, TaxonID: p.TaxonID, Active: p.Active}
	for _, v := range p.Variants {
		form.Price = plainEuros(v.PriceCents)
		form.Stock = append(form.Stock, stockField{v.ID, "Stock, " + v.Name, v.OnHand})
	}
	return form, nil
}

func (s *Store) renderForm(w http.ResponseWriter, r *http.Request, status int, form productForm) error {
	err := s.read(r, func(ctx context.Context, pool *pgxpool.Pool) (err error) {
		form.Taxons, err = queryTaxons(ctx, pool)
		return err
	})
	if err != nil {
		return err
	}
	title := "Add a product"
	if form.ID != 0 {
		title = "Edit product"
	}
	return s.render(w, r, status, "edit", title, form)
}

// fill takes over what was sent and says what is wrong with it.
func (f *productForm) fill(r *http.Request) (err error) {
	f.Name = strings.TrimSpace(r.PostFormValue("name"))
	f.Description = strings.TrimSpace(r.PostFormValue("description"))
	f.Price = r.PostFormValue("price")
	f.Active = r.PostFormValue("active") != ""
	if f.Name == "" || !shortText(f.Name) {
		return invalid("a product needs a name of at most %d bytes", maxText)
	}
	if len(f.Description) > 5000 || !utf8.ValidString(f.Description) || strings.ContainsRune(f.Description, 0) {
		return invalid("the description is too long or not text")
	}
	if f.cents, err = parseEuros(f.Price); err != nil {
		return invalid("price: %v", err)
	}
	if f.cents < 1 || f.cents > 100_000_000 {
		return invalid("a price is more than nothing and at most a million")
	}
	if f.TaxonID, err = number("taxon", r.PostFormValue("taxon_id"), 1, maxID); err != nil {
		return err
	}
	for i := range f.Stock {
		field := &f.Stock[i]
		if field.OnHand, err = number("stock", r.PostFormValue(field.Input()), 0, 1_000_000); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) createProduct(w http.ResponseWriter, r *http.Request) error {
	form := productForm{Stock: []stockField{{Label: "Stock"}}}
	return s.save(w, r, &form, notRepeatable, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, createProductSQL,
			slugOf(form.Name), form.Name, form.Description, form.TaxonID, form.cents, form.Stock[0].OnHand, form.Active)
		return err
	})
}

const (
	updateProductSQL = `
UPDATE shop.products
SET    name = $2, description = $3, active = $4
WHERE  id = $1`

	updateTaxonSQL = `
WITH moved AS (
    DELETE FROM shop.product_taxons
    WHERE  product_id = $1
    AND    taxon_id <> $2
)
INSERT INTO shop.product_taxons (product_id, taxon_id)
VALUES ($1, $2)
ON CONFLICT DO NOTHING`

	updatePricesSQL = `
UPDATE shop.prices
SET    amount_cents = $2
WHERE  currency = 'EUR'
AND    variant_id IN (SELECT id FROM shop.variants WHERE product_id = $1)`

	updateStockSQL = `
UPDATE shop.stock
SET    on_hand = $2
WHERE  variant_id = $1`
)

// updateProduct leaves the slug: links to a product outlive its name.
func (s *Store) updateProduct(w http.ResponseWriter, r *http.Request) error {
	form, err := s.formOf(r)
	if err != nil {
		return err
	}
	return s.save(w, r, &form, repeatable, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, updateProductSQL, form.ID, form.Name, form.Description, form.Active); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, updateTaxonSQL, form.ID, form.TaxonID); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, updatePricesSQL, form.ID, form.cents); err != nil {
			return err
		}
		for _, field := range form.Stock {
			if _, err := tx.Exec(ctx, updateStockSQL, field.VariantID, field.OnHand); err != nil {
				return err
			}
		}
		return nil
	})
}

// save fills the form, writes it, and shows it again where something is wrong
// with it.
func (s *Store) save(w http.ResponseWriter, r *http.Request, form *productForm, again repeat,
	write func(ctx context.Context, tx pgx.Tx) error,
) error {
	err := form.fill(r)
	if err == nil {
		err = s.write(r, again, write)
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		switch refused.ConstraintName {
		case "products_slug_key":
			err = invalid("there is a product of that name already")
		case "product_taxons_taxon_id_fkey":
			err = invalid("there is no such taxon")
		}
	}
	if status, text := statusOf(err); err != nil && status == http.StatusUnprocessableEntity {
		form.Problem = text
		return s.renderForm(w, r, status, *form)
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/admin", http.StatusSeeOther)
	return nil
}
