package shop_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgbaton/internal/demo/shop"
	"pgbaton/internal/pgtest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	db := load(t, pgtest.Start(t, 15), "shop", shop.Size{Orders: 500})

	t.Run("pages", func(t *testing.T) {
		_, c := open(t, db.url, shop.Options{})
		contains(t, c.get("/", 200), "Best sellers", "<svg", "Page 1 of 5", "served by PostgreSQL 15.")
		contains(t, c.get("/?page=5", 200), "Page 5 of 5")
		boots := c.get("/?taxon=boots", 200)
		contains(t, boots, "Boots</strong>", `aria-current="page">Boots`)
		if strings.Contains(boots, "Jacket</strong>") {
			t.Error("jackets among the boots")
		}
		contains(t, c.get("/?taxon=clothing", 200), "Page 1 of 3")
		contains(t, c.get("/?q=PARKA", 200), "Parka</strong>")
		contains(t, c.get("/?q=%25", 200), "Nothing here matches")
		contains(t, c.get("/products/"+slug(t, db, 1), 200), "Add to cart", "XL", "warranty years", "kg")
		contains(t, c.get("/cart", 200), "Nothing in it yet")
		contains(t, c.get("/healthz", 200), `"server_version":"15.`)
		contains(t, c.get("/static/shop.css", 200), ".card")
		for _, path := range []string{"/products/no-such", "/products/%00", "/orders/1", "/nowhere", "/admin/products/99999"} {
			contains(t, c.get(path, 404), "That did not work")
		}
	})

	t.Run("escaping", func(t *testing.T) {
		_, c := open(t, db.url, shop.Options{})
		c.post("/admin/products", url.Values{
			"name": {`<script>"'`}, "description": {`</p><b>`}, "price": {"5"}, "stock_0": {"3"}, "taxon_id": {taxonID(t, db, "mugs")}, "active": {"on"},
		}, 200)
		for _, path := range []string{"/products/script", "/?q=" + url.QueryEscape(`<script>"'`), "/admin"} {
			body := c.get(path, 200)
			contains(t, body, "&lt;script&gt;&#34;&#39;")
			if strings.Contains(body, "<script>") || strings.Contains(body, "</p><b>") {
				t.Errorf("%s: not escaped", path)
			}
		}
	})

	t.Run("checkout", func(t *testing.T) {
		_, c := open(t, db.url, shop.Options{})
		c.post("/cart/items", url.Values{"variant_id": {"1"}, "quantity": {"2"}}, 200)
		body, _ := c.post("/cart/items", url.Values{"variant_id": {"1"}, "quantity": {"3"}}, 200)
		contains(t, body, `value="5"`)
		c.post("/cart/items", url.Values{"variant_id": {"7"}, "quantity": {"1"}}, 200)
		body, _ = c.post("/cart/items/7", url.Values{"quantity": {"0"}}, 200)
		if strings.Count(body, "<li>") != 1 {
			t.Errorf("removed, and still there:\n%s", body)
		}
		for _, wrong := range []url.Values{
			{"variant_id": {"1"}, "quantity": {"0"}}, {"variant_id": {"x"}, "quantity": {"1"}}, {},
		} {
			c.post("/cart/items", wrong, 422)
		}
		c.post("/cart/items", url.Values{"variant_id": {"99999"}, "quantity": {"1"}}, 404)

		stock := queryOne[int64](t, db.conn, `SELECT on_hand FROM shop.stock WHERE variant_id = 1`)
		form := url.Values{
			"token": {field(t, c.get("/checkout", 200), "token")}, "name": {"Åsa <b>"}, "email": {"asa"},
			"street": {"Kai 1"}, "postcode": {"5003"}, "city": {"Bergen"}, "country": {"Norway"},
		}
		body, _ = c.post("/checkout", form, 422)
		contains(t, body, "email does not look like an email address", `value="Åsa &lt;b&gt;"`)

		form.Set("email", "asa@example.com")
		body, response := c.post("/checkout", form, 200)
		contains(t, body, "Thank you, Åsa &lt;b&gt;.", "R100000")
		again, _ := c.post("/checkout", form, 200)
		if number := regexp.MustCompile(`R1\d{8}`); number.FindString(again) != number.FindString(body) {
			t.Error("the form sent twice made two orders")
		}
		contains(t, c.get("/cart", 200), "Nothing in it yet")
		contains(t, c.get(response.Request.URL.Path, 200), "Kai 1")
		if now := queryOne[int64](t, db.conn, `SELECT on_hand FROM shop.stock WHERE variant_id = 1`); now != stock-5 {
			t.Errorf("stock went from %d to %d", stock, now)
		}
		contains(t, c.get("/admin", 200), "Åsa &lt;b&gt; · 5 items")
	})

	t.Run("admin", func(t *testing.T) {
		_, c := open(t, db.url, shop.Options{})
		product := url.Values{
			"name": {"Summit Kettle"}, "description": {"Whistles."}, "price": {"42,50"}, "stock_0": {"7"},
			"taxon_id": {taxonID(t, db, "mugs")}, "active": {"on"},
		}
		body, _ := c.post("/admin/products", product, 200)
		contains(t, body, "Summit Kettle", "€42.50")
		body, _ = c.post("/admin/products", product, 422)
		contains(t, body, "a product of that name already", `value="42,50"`)

		id := queryOne[string](t, db.conn, `SELECT id::text FROM shop.products WHERE slug = 'summit-kettle'`)
		stockField := regexp.MustCompile(`stock_\d+`).FindString(c.get("/admin/products/"+id, 200))
		edit := url.Values{
			"name": {"Summit Kettle II"}, "price": {"45"}, stockField: {"0"}, "taxon_id": {taxonID(t, db, "bottles")}, "active": {"on"},
		}
		c.post("/admin/products/"+id, edit, 200)
		contains(t, c.get("/products/summit-kettle", 200), "Summit Kettle II", "€45.00", "in two weeks", "Bottles")
		if changes := queryOne[string](t, db.conn,
			`SELECT string_agg(action, ' ' ORDER BY at) FROM shop.audit_log WHERE product_id = $1::text::integer`, id); changes != "insert update" {
			t.Errorf("audit log has %q", changes)
		}
		edit.Del("active")
		c.post("/admin/products/"+id, edit, 200)
		c.get("/products/summit-kettle", 404)

		for field, wrong := range map[string]string{"price": "free", "name": " ", stockField: "-1", "taxon_id": "99999"} {
			bad := url.Values{}
			for key, values := range edit {
				bad[key] = values
			}
			bad.Set(field, wrong)
			body, _ = c.post("/admin/products/"+id, bad, 422)
			contains(t, body, `class="problem"`)
		}

		forged := c.request("POST", "/admin/products/"+id, "application/x-www-form-urlencoded", edit.Encode())
		forged.Header.Set("Sec-Fetch-Site", "cross-site")
		c.do(forged, 403)
	})

	t.Run("admin password", func(t *testing.T) {
		_, c := open(t, db.url, shop.Options{AdminPassword: "hush"})
		c.get("/admin", 401)
		c.post("/admin/products", url.Values{}, 401)
		for password, status := range map[string]int{"hush": 200, "": 401, "wrong": 401} {
			request := c.request("GET", "/admin", "", "")
			request.SetBasicAuth("admin", password)
			c.do(request, status)
		}
	})

	t.Run("order API", func(t *testing.T) {
		_, c := open(t, db.url, shop.Options{})
		place := func(o shop.Order, status int) string {
			t.Helper()
			sent, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := c.do(c.request("POST", "/api/orders", "application/json", string(sent)), status)
			return body
		}
		o := order("3F0C1D5E-0000-4000-8000-0000000000AA")
		first := place(o, 201)
		if second := place(o, 201); second != first {
			t.Errorf("the same token gave %s and then %s", first, second)
		}
		if n := queryOne[int64](t, db.conn, `SELECT count(*) FROM shop.orders WHERE token = $1::text::uuid`, o.Token); n != 1 {
			t.Errorf("the token has %d orders", n)
		}

		o.Token = "nonsense"
		contains(t, place(o, 422), "token must be a UUID", "not placed")
		o = order("3f0c1d5e-0000-4000-8000-0000000000bb")
		o.Lines[0].VariantID = 99999
		contains(t, place(o, 422), "does not exist")
		o.Lines = nil
		contains(t, place(o, 422), "at least one line")
		c.do(c.request("POST", "/api/orders", "application/json", `{"surprise":1}`), 400)
		if n := queryOne[int64](t, db.conn, `SELECT count(*) FROM shop.orders WHERE token = $1::text::uuid`, o.Token); n != 0 {
			t.Errorf("a refused order left %d rows", n)
		}

		// More than there is in stock is owed.
		o.Lines = []shop.Line{{VariantID: 3, Quantity: 99}, {VariantID: 3, Quantity: 99}, {VariantID: 3, Quantity: 99}}
		onHand := queryOne[int64](t, db.conn, `SELECT on_hand FROM shop.stock WHERE variant_id = 3`)
		place(o, 201)
		if owed := queryOne[int64](t, db.conn, `SELECT backordered FROM shop.stock WHERE variant_id = 3 AND on_hand = 0`); owed != 297-onHand {
			t.Errorf("%d owed of 297, with %d on hand", owed, onHand)
		}
	})

	t.Run("absent database", func(t *testing.T) {
		var log bytes.Buffer
		_, c := open(t, "postgres://shop:s3cret@127.0.0.1:1/shop", shop.Options{RetryFor: 30 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		page := c.get("/", 503)
		contains(t, page, "We’ll be right back")
		contains(t, c.get("/healthz", 503), "cannot be reached")
		body, response := c.do(c.request("POST", "/api/orders", "application/json", mustJSON(t, order("3f0c1d5e-0000-4000-8000-0000000000cc"))), 503)
		contains(t, body, "not placed")
		if response.Header.Get("Content-Type") != "application/json" {
			t.Error("the API does not answer in JSON")
		}
		for _, text := range []string{page, body, log.String()} {
			if strings.Contains(text, "s3cret") {
				t.Errorf("the password is in %s", text)
			}
		}
	})

	t.Run("wrong URL", func(t *testing.T) {
		if _, err := shop.NewStore("postgres://shop:s3cret@127.0.0.1:nonsense/shop", shop.Options{}); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("NewStore: %v", err)
		}
	})

	t.Run("closed", func(t *testing.T) {
		store, c := open(t, db.url, shop.Options{})
		store.Close()
		c.get("/", http.StatusServiceUnavailable)
		if store.Repoint(db.url) == nil {
			t.Error("a closed store was repointed")
		}
	})
}

func mustJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func slug(t *testing.T, db database, id int) string {
	t.Helper()
	return queryOne[string](t, db.conn, `SELECT slug FROM shop.products WHERE id = $1`, id)
}

func taxonID(t *testing.T, db database, slug string) string {
	t.Helper()
	return queryOne[string](t, db.conn, `SELECT id::text FROM shop.taxons WHERE slug = $1`, slug)
}

// field is the value of a hidden field.
func field(t *testing.T, body, name string) string {
	t.Helper()
	match := regexp.MustCompile(`name="` + name + `" value="([^"]*)"`).FindStringSubmatch(body)
	if match == nil {
		t.Fatalf("no field %s in\n%s", name, body)
	}
	return match[1]
}
