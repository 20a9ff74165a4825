package shop

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"pgbaton/internal/routine"
)

// Options of a store. The zero value is a shop that anybody may administer.
type Options struct {
	AdminPassword string        // asked for under /admin, user admin; empty asks for none
	RetryFor      time.Duration // how long a request outlasts an absent database; 0 means 5 s
	MaxConns      int32         // size of a pool; 0 leaves it to the URL or pgx
	Logger        *slog.Logger  // nil logs nothing
}

// A Store is the shop's website: an [http.Handler], and the database it
// points to, which can be changed while it serves.
type Store struct {
	options Options
	handler http.Handler

	mu       sync.Mutex
	current  *generation // nil once closed
	retiring routine.Group
}

// NewStore makes a store on the database of a URL, which need not be up yet
// and may be a transaction pooler.
func NewStore(databaseURL string, options Options) (*Store, error) {
	if options.RetryFor == 0 {
		options.RetryFor = 5 * time.Second
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{options: options}
	current, err := newGeneration(databaseURL, options.MaxConns)
	if err != nil {
		return nil, err
	}
	s.current = current
	s.handler = s.routes()
	return s, nil
}

// ServeHTTP serves a page or an API request.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.handler.ServeHTTP(w, r)
}

func (s *Store) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", s.page(s.listProducts))
	mux.Handle("GET /products/{slug}", s.page(s.showProduct))
	mux.Handle("GET /cart", s.page(s.showCart))
	mux.Handle("POST /cart/items", s.page(s.addToCart))
	mux.Handle("POST /cart/items/{variant}", s.page(s.changeCart))
	mux.Handle("GET /checkout", s.page(s.showCheckout))
	mux.Handle("POST /checkout", s.page(s.checkout))
	mux.Handle("GET /orders/{token}", s.page(s.showOrder))

	mux.Handle("GET /admin", s.admin(s.listAdmin))
	mux.Handle("GET /admin/products/new", s.admin(s.showNewProduct))
	mux.Handle("POST /admin/products", s.admin(s.createProduct))
	mux.Handle("GET /admin/products/{id}", s.admin(s.showEditProduct))
	mux.Handle("POST /admin/products/{id}", s.admin(s.updateProduct))

	mux.Handle("GET /api/products", s.api(s.apiProducts))
	mux.Handle("POST /api/orders", s.api(s.apiOrder))
	mux.Handle("GET /healthz", s.api(s.health))

	mux.HandleFunc("GET /static/shop.css", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFileFS(w, r, web, "web/static/shop.css")
	})
	mux.Handle("/", s.page(func(http.ResponseWriter, *http.Request) error { return notFound("page") }))

	// Forms are accepted from our own pages only (CSRF).
	return secure(http.NewCrossOriginProtection().Handler(mux))
}

// secure says to browsers that the shop loads nothing from elsewhere, runs no
// scripts, and is not to be framed.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy",
			"default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// admin is a page behind the admin password, where there is one.
func (s *Store) admin(handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	page := s.page(handle)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		allowed := user == "admin" &&
			subtle.ConstantTimeCompare([]byte(password), []byte(s.options.AdminPassword)) == 1
		if s.options.AdminPassword != "" && !allowed {
			w.Header().Set("WWW-Authenticate", `Basic realm="shop admin", charset="UTF-8"`)
			http.Error(w, "user and password, please", http.StatusUnauthorized)
			return
		}
		page.ServeHTTP(w, r)
	})
}

// A requestError is the client's to mend; its text is shown to the client.
type requestError struct {
	status int
	text   string
}

func (e *requestError) Error() string { return e.text }

func invalid(format string, args ...any) error {
	return &requestError{http.StatusUnprocessableEntity, fmt.Sprintf(format, args...)}
}

func notFound(what string) error {
	return &requestError{http.StatusNotFound, "there is no such " + what}
}

// statusOf says how an error is answered, and with which words. What the
// database said goes to the log only.
func statusOf(err error) (status int, text string) {
	var request *requestError
	switch {
	case errors.Is(err, ErrOutcomeUnknown):
		return http.StatusServiceUnavailable, ErrOutcomeUnknown.Error()
	case errors.As(err, &request):
		return request.status, request.text
	case errors.Is(err, ErrUnavailable), errors.Is(err, errClosed):
		return http.StatusServiceUnavailable, ErrUnavailable.Error()
	default:
		return http.StatusInternalServerError, "something went wrong on our side"
	}
}

func (s *Store) logFailure(r *http.Request, status int, err error) {
	if status >= http.StatusInternalServerError {
		s.options.Logger.Warn("request failed", "method", r.Method, "path", r.URL.Path, "status", status, "error", err)
	}
}
