package catalog_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// TestCheck: what is not a pattern is refused, by its option and text.
func TestCheck(t *testing.T) {
	t.Parallel()
	type selection = catalog.Selection
	for text, test := range map[string]struct {
		make  func(string) selection
		wrong string // in the message; "" for a pattern that is right
	}{
		"":                     {tables, "empty"},
		`.`:                    {tables, "empty"},
		`s.`:                   {tables, "empty"},
		`.t`:                   {tables, "empty"},
		`""`:                   {tables, "empty"},
		`s.""`:                 {tables, "empty"},
		`d.s.t`:                {tables, "more than one dot"},
		`d."s.x".t`:            {tables, "more than one dot"},
		`"d.s".t`:              {tables, ""},
		`"d.s.t"`:              {tables, ""},
		`"t`:                   {tables, "not closed"},
		`s."t""`:               {tables, "not closed"},
		`(`:                    {tables, "regular expression"},
		`t\`:                   {tables, "regular expression"},
		`t**`:                  {tables, ""},
		`t+*`:                  {tables, ""},
		`t*+`:                  {tables, "regular expression"},
		"t\xff":                {tables, "regular expression"},
		`"("`:                  {tables, ""},
		`a|b`:                  {tables, ""},
		`\mt`:                  {tables, `\m is not supported`},
		`\bt`:                  {tables, `\b is not supported`},
		`(t)\1`:                {tables, `\1 is not supported`},
		`t\d\\"\m"`:            {tables, ""},
		`S.x`:                  {schemas, "no dot"},
		`"s.x"`:                {schemas, ""},
		`s*`:                   {schemas, ""},
		`[`:                    {schemas, "regular expression"},
		`a[]`:                  {schemas, ""},
		"no quote\" and then":  {schemas, "not closed"},
		"a name with a\nbreak": {schemas, ""},
	} {
		s := test.make(text)
		err := s.Check()
		if test.wrong == "" {
			if err != nil {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%q passes", text)
			continue
		}
		if !strings.Contains(err.Error(), test.wrong) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for option, s := range map[string]selection{
		"--schema": {Schemas: []string{"a.b"}}, "--exclude-schema": {ExcludeSchemas: []string{"a.b"}},
		"--table": {Tables: []string{"ok", "a.b.c"}}, "--exclude-table": {ExcludeTables: []string{"a.b.c"}},
	} {
		if err := s.Check(); err == nil || !strings.HasPrefix(err.Error(), option+" a.b") {
			t.Errorf("%s: %v", option, err)
		}
	}
	if !(selection{}).IsZero() || (selection{ExcludeTables: []string{"a"}}).IsZero() {
		t.Error("IsZero is wrong")
	}
}

func tables(text string) catalog.Selection  { return catalog.Selection{Tables: []string{text}} }
func schemas(text string) catalog.Selection { return catalog.Selection{Schemas: []string{text}} }

// database makes one on a server and connects to it, with the search_path of
// our own sessions.
func database(t *testing.T, major int, sql ...string) (*postgres.Session, string) {
	t.Helper()
	c := pgtest.Start(t, major)
	pgtest.Exec(t, c.ConnString("postgres"), `CREATE DATABASE d`)
	uri := c.ConnString("d")
	pgtest.Exec(t, uri, sql...)
	s, err := postgres.NewServer(postgres.Source, uri)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn, uri
}

// names are those that PostgreSQL's own patterns can be tried on.
var names = []string{
	"t", "T", "orders", "Orders", "order_items", "orders2020", "orders2021", "a.b", "a$b", "a$", "we*ird.Na\"me", "weird", "weXirdXNa\"me",
	"a[]", "a[b]", "ab", "aab", "a|b", "b", "x\\d", "x1", "ä", "Ä", "über uns", "line\nbreak", "(p)", "p", "q?", "qq", "a+", "aa", "^", "{1}", "aaa",
}

// created finds the tables in a plain dump.
var created = regexp.MustCompile(`(?s)CREATE TABLE "S\.x"\.(\w+|"(?:[^"]|"")+") \(`)

// TestPatterns compares with pg_dump, which is given the same patterns.
func TestPatterns(t *testing.T) {
	t.Parallel()
	conn, uri := database(t, 17)
	if _, err := conn.Exec(t.Context(), `CREATE SCHEMA "S.x"`); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := conn.Exec(t.Context(), `CREATE TABLE "S.x".`+postgres.QuoteIdent(name)+` (i int)`); err != nil {
			t.Fatal(err)
		}
	}
	pgDump := filepath.Join(pgtest.BinDir(t, 17), "pg_dump")
	found := 0
	for _, pattern := range []string{
		`t`, `T`, `"T"`, `ORD*`, `"Ord"*`, `orders????`, `orders202[01]`, `"a.b"`, `a"."b`, `a$b`, `a$`, `"a$"`,
		`"we*ird.Na""me"`, `we*`, `a[]`, `"a[b]"`, `a[b]`, `a|b`, `"a|b"`, `a+b`, `"a+"`, `x\d`, `"x\d"`, `X\D`, `x\\d`,
		`ä`, `Ä`, `?ber*`, `line*`, `line?break`, `line\sbreak`, `(p)`, `"(p)"`, `"q?"`, `q?`, `a{2}`, `a{2,}`, `"^"`, `[^a]`,
		`a[[:digit:]]*`, `x[[:digit:]]`, `*`, `nothing`, `a)|(p`, `(a|q)+`, `"{1}"`, `\(p\)`,
	} {
		out, err := exec.Command(pgDump, "--schema-only", "--no-owner", `--table="S.x".`+pattern, "--dbname="+uri).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "no matching tables were found") {
			t.Fatalf("%s: %v: %s", pattern, err, out)
		}
		var want []string
		for _, m := range created.FindAllStringSubmatch(string(out), -1) {
			name := m[1]
			if inner, ok := strings.CutPrefix(name, `"`); ok {
				name = strings.ReplaceAll(strings.TrimSuffix(inner, `"`), `""`, `"`)
			}
			want = append(want, name)
		}
		slices.Sort(want)
		found += len(want)
		for _, text := range []string{pattern, `"S.x".` + pattern, `"S.x"*.` + pattern} {
			got, err := catalog.Tables(t.Context(), conn, tables(text))
			if err != nil {
				t.Fatal(err)
			}
			var have []string
			for _, g := range got {
				have = append(have, g.Name)
			}
			if !slices.Equal(have, want) {
				t.Errorf("%s finds %q, pg_dump %q", text, have, want)
			}
		}
	}
	if found < 60 {
		t.Errorf("pg_dump found %d tables: the comparison compares nothing", found)
	}
}

// familySQL has relations that belong to others.
const familySQL = `
CREATE SCHEMA app; CREATE SCHEMA parts; CREATE SCHEMA ops; CREATE SCHEMA pgbaton; CREATE SCHEMA "Types"; CREATE SCHEMA ext;
CREATE TABLE pgbaton.journal (i int);
CREATE EXTENSION citext WITH SCHEMA ext;
CREATE TABLE ext.mine (i int);
CREATE TABLE ext.theirs (i int); ALTER EXTENSION citext ADD TABLE ext.theirs;
CREATE TYPE "Types".mood AS ENUM ('good');
CREATE TABLE app.orders (id serial PRIMARY KEY, at date NOT NULL, n int GENERATED ALWAYS AS IDENTITY);
CREATE TABLE app.customers (id int PRIMARY KEY);
CREATE TABLE app.events (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE app.events_2020 PARTITION OF app.events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE parts.mid PARTITION OF app.events FOR VALUES FROM ('2021-01-01') TO ('2022-01-01') PARTITION BY RANGE (at);
CREATE TABLE parts.leaf PARTITION OF parts.mid FOR VALUES FROM ('2021-01-01') TO ('2021-07-01');
CREATE INDEX ON app.events (at);
CREATE TABLE ops.base (i int); CREATE TABLE ops.other (j int);
CREATE TABLE ops.child () INHERITS (ops.base, ops.other); CREATE TABLE ops.grandchild () INHERITS (ops.child);
CREATE SEQUENCE ops.free; CREATE SEQUENCE app.owned; ALTER SEQUENCE app.owned OWNED BY app.customers.id;
CREATE VIEW app.v_orders AS SELECT id FROM app.orders;
CREATE MATERIALIZED VIEW app.m_orders AS SELECT id FROM app.v_orders;
CREATE MATERIALIZED VIEW ops.m_both AS SELECT m.id FROM app.m_orders m, ops.base;
CREATE VIEW ops.v_free AS SELECT last_value FROM ops.free;
CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE ops.ft (i int) SERVER s;
CREATE TEMP TABLE app_temp (i int);
`

// TestSelect: which relations a selection includes, and what it leaves out.
func TestSelect(t *testing.T) {
	t.Parallel()
	type selection = catalog.Selection
	for _, major := range []int{12, 19} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			conn, _ := database(t, major, familySQL)
			const everything = "app.customers app.events_2020 app.orders ext.mine ops.base ops.child ops.grandchild ops.other parts.leaf | app.orders_id_seq app.orders_n_seq app.owned ops.free | app.m_orders ops.m_both"
			for name, test := range map[string]struct {
				selection
				included  string // tables | sequences | materialized views
				schemas   string // left out as a whole
				relations string // left out of the others
				views     string
				unused    string
			}{
				"all": {selection{}, everything, "", "", "", ""},
				"a schema": {selection{Schemas: []string{"APP"}},
					"app.customers app.events_2020 app.orders | app.orders_id_seq app.orders_n_seq app.owned | app.m_orders",
					"Types ops parts public", "ext.mine", "", ""},
				"without a schema": {selection{ExcludeSchemas: []string{"app", "none"}},
					"ext.mine ops.base ops.child ops.grandchild ops.other parts.leaf | ops.free |",
					"app", "ops.m_both", "ops.m_both", "--exclude-schema none"},
				"with and without": {selection{Schemas: []string{"*p*", "nothing"}, ExcludeSchemas: []string{"?ps"}, ExcludeTables: []string{"app.orders"}},
					"app.customers app.events_2020 parts.leaf | app.owned |",
					"ops", "app.m_orders app.orders app.orders_id_seq app.orders_n_seq app.v_orders ext.mine", "app.m_orders app.v_orders", "--schema nothing"},
				"a table": {selection{Tables: []string{"orders"}}, "app.orders | app.orders_id_seq app.orders_n_seq |", "",
					"app.customers app.events app.events_2020 app.m_orders app.owned app.v_orders ext.mine ops.base ops.child ops.free ops.ft ops.grandchild ops.m_both ops.other ops.v_free parts.leaf parts.mid", "", ""},
				"a root": {selection{Tables: []string{"app.events", "parts.orders"}}, "app.events_2020 parts.leaf | |", "",
					"app.customers app.m_orders app.orders app.orders_id_seq app.orders_n_seq app.owned app.v_orders ext.mine ops.base ops.child ops.free ops.ft ops.grandchild ops.m_both ops.other ops.v_free", "", "--table parts.orders"},
				"a root in its schema": {selection{Schemas: []string{"app"}, Tables: []string{"events"}}, "app.events_2020 | |", "Types ops parts public",
					"app.customers app.m_orders app.orders app.orders_id_seq app.orders_n_seq app.owned app.v_orders ext.mine", "", ""},
				"without the middle": {selection{Schemas: []string{"app", "parts"}, ExcludeTables: []string{"mid", "o*"}}, "app.customers app.events_2020 | app.owned |", "Types ops public",
					"app.m_orders app.orders app.orders_id_seq app.orders_n_seq app.v_orders ext.mine parts.leaf parts.mid", "app.m_orders app.v_orders", ""},
				"a parent": {selection{Tables: []string{"other"}}, "ops.child ops.grandchild ops.other | |", "",
					"app.customers app.events app.events_2020 app.m_orders app.orders app.orders_id_seq app.orders_n_seq app.owned app.v_orders ext.mine ops.base ops.free ops.ft ops.m_both ops.v_free parts.leaf parts.mid", "", ""},
				"without a parent": {selection{Schemas: []string{"ops"}, ExcludeTables: []string{"base"}}, "ops.other | ops.free |", "Types app parts public",
					"ext.mine ops.base ops.child ops.grandchild ops.m_both", "ops.m_both", ""},
				"sequences": {selection{Tables: []string{"ops.free", "ops.v_free", "app.orders_id_seq"}, ExcludeTables: []string{"owned"}}, "| ops.free |", "",
					"app.customers app.events app.events_2020 app.m_orders app.orders app.orders_id_seq app.orders_n_seq app.owned app.v_orders ext.mine ops.base ops.child ops.ft ops.grandchild ops.m_both ops.other parts.leaf parts.mid", "", "--table app.orders_id_seq --exclude-table owned"},
				"without a sequence": {selection{Schemas: []string{"ops"}, ExcludeTables: []string{"free", "base"}}, "ops.other | |", "Types app parts public",
					"ext.mine ops.base ops.child ops.free ops.grandchild ops.m_both ops.v_free", "ops.m_both ops.v_free", ""},
				"views with what they read": {selection{Tables: []string{"m_orders", "v_orders", "orders"}}, "app.orders | app.orders_id_seq app.orders_n_seq | app.m_orders", "",
					"app.customers app.events app.events_2020 app.owned ext.mine ops.base ops.child ops.free ops.ft ops.grandchild ops.m_both ops.other ops.v_free parts.leaf parts.mid", "", ""},
				"a view without what it reads": {selection{Tables: []string{"m_orders", "orders"}}, "app.orders | app.orders_id_seq app.orders_n_seq |", "",
					"app.customers app.events app.events_2020 app.m_orders app.owned app.v_orders ext.mine ops.base ops.child ops.free ops.ft ops.grandchild ops.m_both ops.other ops.v_free parts.leaf parts.mid", "app.m_orders", ""},
				"nothing": {selection{Tables: []string{"journal", "theirs", "app_temp", "pg_class"}, ExcludeTables: []string{"pgbaton.*"}}, "| |", "",
					"app.customers app.events app.events_2020 app.m_orders app.orders app.orders_id_seq app.orders_n_seq app.owned app.v_orders ext.mine ops.base ops.child ops.free ops.ft ops.grandchild ops.m_both ops.other ops.v_free parts.leaf parts.mid", "",
					"--table journal --table theirs --table app_temp --table pg_class --exclude-table pgbaton.*"},
				"types alone": {selection{Schemas: []string{"app", `"Types"`}, ExcludeTables: []string{`"Types".*`}}, "app.customers app.events_2020 app.orders | app.orders_id_seq app.orders_n_seq app.owned | app.m_orders",
					"ops parts public", "ext.mine", "", `--exclude-table "Types".*`},
			} {
				list, err := catalog.Tables(t.Context(), conn, test.selection)
				if err != nil {
					t.Fatal(err)
				}
				var have []string
				for _, r := range list {
					have = append(have, r.Schema+"."+r.Name)
					if len(r.Columns) == 0 {
						t.Errorf("%s: %s has no columns", name, r.Ident)
					}
				}
				sequences, err := catalog.Sequences(t.Context(), conn, test.selection)
				if err != nil {
					t.Fatal(err)
				}
				have = append(have, "|")
				for _, r := range sequences {
					have = append(have, r.Schema+"."+r.Name)
				}
				views, err := catalog.MatViews(t.Context(), conn, test.selection)
				if err != nil {
					t.Fatal(err)
				}
				have = append(have, "|")
				for _, r := range views {
					have = append(have, r.Schema+"."+r.Name)
				}
				equal := func(what, have, want string) {
					if have != want {
						t.Errorf("%s: %s:\n%s\nexpected\n%s", name, what, have, want)
					}
				}
				equal("included", strings.Join(have, " "), test.included)
				x, err := catalog.Excluded(t.Context(), conn, test.selection)
				if err != nil {
					t.Fatal(err)
				}
				equal("schemas", strings.Join(x.Schemas, " "), test.schemas)
				equal("relations", idents(x.Relations), test.relations)
				equal("views", idents(x.Views), test.views)
				if x.IsZero() != (name == "all") {
					t.Errorf("%s: %+v", name, x)
				}
				unused, err := test.Unused(t.Context(), conn)
				if err != nil {
					t.Fatal(err)
				}
				equal("unused", strings.Join(unused, " "), test.unused)
				oids, err := x.OIDs(t.Context(), conn)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range list {
					if slices.Contains(oids, r.OID) {
						t.Errorf("%s: %s is included and left out", name, r.Ident)
					}
				}
			}
			if _, err := catalog.Tables(t.Context(), conn, tables("(")); err == nil {
				t.Error("a pattern that is none is taken")
			}
		})
	}
}

func idents(list []postgres.Ident) string {
	var names []string
	for _, i := range list {
		names = append(names, i.Schema+"."+i.Name)
	}
	return strings.Join(names, " ")
}

// counting is a Querier that counts what it is asked.
type counting struct {
	*postgres.Session
	queries int
}

func (c *counting) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	c.queries++
	return c.Session.Query(ctx, sql, args...)
}

// TestZeroCostsNothing: these run while applications wait.
func TestZeroCostsNothing(t *testing.T) {
	t.Parallel()
	conn, _ := database(t, 12)
	q := &counting{Session: conn}
	var zero catalog.Selection
	_, err := catalog.Tables(t.Context(), q, zero)
	_, err2 := catalog.Sequences(t.Context(), q, zero)
	_, err3 := catalog.MatViews(t.Context(), q, zero)
	x, err4 := catalog.Excluded(t.Context(), q, zero)
	if err != nil || err2 != nil || err3 != nil || err4 != nil {
		t.Fatal(err, err2, err3, err4)
	}
	if q.queries != 2+1+1 || !x.IsZero() {
		t.Errorf("%d queries, %+v", q.queries, x)
	}
}

// TestLostForeignKeys: a foreign key goes when rows that it needs do, and what
// is shown is the one that can be dropped.
func TestLostForeignKeys(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 12, 19} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			sql := `CREATE SCHEMA a; CREATE SCHEMA b;
				CREATE TABLE b.gone (i int PRIMARY KEY); CREATE TABLE a.kept (i int PRIMARY KEY REFERENCES a.kept, j int CONSTRAINT "K 1" REFERENCES b.gone);
				CREATE TABLE b.also (i int REFERENCES b.gone, j int REFERENCES a.kept)`
			want := []string{`"a"."kept" K 1 "b"."gone" false`}
			if major >= 12 {
				sql += `;
				CREATE TABLE a.root (i int PRIMARY KEY, j int CONSTRAINT part REFERENCES b.gone) PARTITION BY RANGE (i);
				CREATE TABLE a.leaf1 PARTITION OF a.root FOR VALUES FROM (0) TO (1);
				CREATE TABLE b.leaf2 PARTITION OF a.root FOR VALUES FROM (1) TO (2) PARTITION BY RANGE (i);
				CREATE TABLE b.leaf3 PARTITION OF b.leaf2 FOR VALUES FROM (1) TO (2);
				CREATE TABLE a.refers (i int CONSTRAINT whole REFERENCES a.root) PARTITION BY RANGE (i);
				CREATE TABLE a.refers1 PARTITION OF a.refers FOR VALUES FROM (0) TO (2)`
				want = append(want, `"a"."refers" whole "a"."root" true`, `"a"."root" part "b"."gone" false`)
			}
			conn, _ := database(t, major, sql)
			x, err := catalog.Excluded(t.Context(), conn, catalog.Selection{ExcludeSchemas: []string{"b"}})
			if err != nil {
				t.Fatal(err)
			}
			keys, err := catalog.LostForeignKeys(t.Context(), conn, x)
			if err != nil {
				t.Fatal(err)
			}
			var have []string
			for _, k := range keys {
				have = append(have, fmt.Sprintf("%s %s %s %t", k.Table, k.Name, k.References, k.Partly))
			}
			if !slices.Equal(have, want) {
				t.Errorf("found\n%s\nexpected\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
			}
			if keys, err := catalog.LostForeignKeys(t.Context(), conn, catalog.Exclusion{}); err != nil || keys != nil {
				t.Error(keys, err)
			}
		})
	}
}
