package shop

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed web
var web embed.FS

// templates holds one set per page: its "main" inside the common layout.
var templates = parseTemplates("products", "product", "cart", "checkout", "order", "admin", "edit", "error")

func parseTemplates(pages ...string) map[string]*template.Template {
	base := template.Must(template.New("layout.html").Funcs(template.FuncMap{
		"euros":        euros,
		"illustration": illustration,
		"label":        func(key string) string { return strings.ReplaceAll(key, "_", " ") },
	}).ParseFS(web, "web/templates/layout.html", "web/templates/parts.html"))
	sets := map[string]*template.Template{}
	for _, page := range pages {
		sets[page] = template.Must(template.Must(base.Clone()).ParseFS(web, "web/templates/"+page+".html"))
	}
	return sets
}

// page answers in HTML, errors included.
func (s *Store) page(handle func(w http.ResponseWriter, r *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		err := handle(w, r)
		if err == nil {
			return
		}
		status, text := statusOf(err)
		s.logFailure(r, status, err)
		headline := "That did not work"
		if status == http.StatusServiceUnavailable {
			headline = "We’ll be right back"
			w.Header().Set("Retry-After", "5")
		}
		data := struct{ Headline, Text string }{headline, strings.ToUpper(text[:1]) + text[1:]}
		if err := s.render(w, r, status, "error", headline, data); err != nil {
			http.Error(w, text, status)
		}
	})
}

// render writes nothing before the page is complete, so that a page which
// fails can still be answered with an error.
func (s *Store) render(w http.ResponseWriter, r *http.Request, status int, page, title string, data any) error {
	var body bytes.Buffer
	err := templates[page].Execute(&body, struct {
		Title   string
		Version string
		Search  string
		Data    any
	}{title, s.footerVersion(r.Context(), status), r.URL.Query().Get("q"), data})
	if err != nil {
		return fmt.Errorf("render %s: %w", page, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = body.WriteTo(w) // what fails here is the way to the client
	return nil
}

// footerVersion is a courtesy: without it the page is shown all the same.
func (s *Store) footerVersion(ctx context.Context, status int) string {
	if status >= http.StatusInternalServerError {
		return ""
	}
	g, err := s.acquire()
	if err != nil {
		return ""
	}
	defer g.users.Done()
	version, err := g.serverVersion(ctx, time.Second)
	if err != nil {
		s.options.Logger.Debug("server version unknown", "error", err)
	}
	return version
}

// read runs queries that change nothing.
func (s *Store) read(r *http.Request, fn func(ctx context.Context, pool *pgxpool.Pool) error) error {
	return s.attempt(r.Context(), repeatable, fn)
}

// write runs statements in one transaction.
func (s *Store) write(r *http.Request, again repeat, fn func(ctx context.Context, tx pgx.Tx) error) error {
	return s.attempt(r.Context(), again, func(ctx context.Context, pool *pgxpool.Pool) error {
		return inTx(ctx, pool, func(tx pgx.Tx) error { return fn(ctx, tx) })
	})
}

func orNotFound(err error, what string) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return notFound(what)
	}
	return err
}

const (
	shopPageSize  = 24
	adminPageSize = 40
)

// paging links one page of a list with its neighbours.
type paging struct {
	Page, Pages    int
	Previous, Next string // empty where there is none
}

func newPaging(u *url.URL, page int, cards []card, pageSize int) paging {
	p := paging{Page: page, Pages: 1}
	if len(cards) > 0 {
		p.Pages = (int(cards[0].Matches) + pageSize - 1) / pageSize
	}
	link := func(page int) string {
		if page < 1 || page > p.Pages {
			return ""
		}
		query := u.Query()
		query.Set("page", strconv.Itoa(page))
		return u.Path + "?" + query.Encode()
	}
	p.Previous, p.Next = link(page-1), link(page+1)
	return p
}

// pageNumber is 1 where the URL says nothing sensible.
func pageNumber(r *http.Request) int {
	page, err := strconv.Atoi(r.FormValue("page"))
	if err != nil || page < 1 || page > 100_000 {
		return 1
	}
	return page
}

func (s *Store) listProducts(w http.ResponseWriter, r *http.Request) error {
	l := listing{
		taxon:    r.FormValue("taxon"),
		search:   strings.TrimSpace(r.FormValue("q")),
		page:     pageNumber(r),
		pageSize: shopPageSize,
	}
	if !shortText(l.taxon) || !shortText(l.search) {
		return invalid("that is too long to search for")
	}
	data := struct {
		Front       bool
		Taxon       string
		Taxons      []taxon
		Cards       []card
		BestSellers []card
		Paging      paging
	}{Front: r.URL.RawQuery == "", Taxon: l.taxon}
	err := s.read(r, func(ctx context.Context, pool *pgxpool.Pool) (err error) {
		if data.Taxons, err = queryTaxons(ctx, pool); err != nil {
			return err
		}
		if data.Front {
			if data.BestSellers, err = queryBestSellers(ctx, pool); err != nil {
				return err
			}
		}
		data.Cards, err = queryCards(ctx, pool, l)
		return err
	})
	if err != nil {
		return err
	}
	data.Paging = newPaging(r.URL, l.page, data.Cards, l.pageSize)
	return s.render(w, r, http.StatusOK, "products", "Outdoor goods that last", data)
}

func (s *Store) showProduct(w http.ResponseWriter, r *http.Request) error {
	slug := r.PathValue("slug")
	if !shortText(slug) {
		return notFound("product")
	}
	var p product
	err := s.read(r, func(ctx context.Context, pool *pgxpool.Pool) (err error) {
		p, err = queryProduct(ctx, pool, slug, 0)
		return err
	})
	if err != nil {
		return err
	}
	if !p.Active || len(p.Variants) == 0 {
		return notFound("product")
	}
	s.countView(r, p.ID)
	return s.render(w, r, http.StatusOK, "product", p.Name, p)
}

// countView is not worth a failed page: a view that cannot be written now is
// not counted.
func (s *Store) countView(r *http.Request, productID int32) {
	g, err := s.acquire()
	if err != nil {
		return
	}
	defer g.users.Done()
	if _, err := g.pool.Exec(r.Context(), `INSERT INTO shop.page_views (product_id) VALUES ($1)`, productID); err != nil {
		s.options.Logger.Debug("page view not counted", "error", err)
	}
}
