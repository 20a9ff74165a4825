package preflight_test

import (
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgbaton/internal/catalog"
	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
	"pgbaton/internal/schema"
)

// webSQL is a database in which much depends on something else, in every way
// that a filter can cut. Schema app needs something of each of the others.
const webSQL = `
CREATE SCHEMA app; CREATE SCHEMA types; CREATE SCHEMA code; CREATE SCHEMA store; CREATE SCHEMA ext; CREATE SCHEMA lone; CREATE SCHEMA "log s";
CREATE EXTENSION citext WITH SCHEMA ext;
CREATE EXTENSION hstore;

CREATE TYPE types.mood AS ENUM ('good', 'bad'); CREATE DOMAIN types.positive AS int CHECK (VALUE > 0);
CREATE COLLATION types."C copy" (locale = 'C');
CREATE FUNCTION code.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION code.allowed() RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION code.one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE SEQUENCE store.numbers; CREATE TABLE store.goods (id serial PRIMARY KEY, name ext.citext);
CREATE TABLE store.base (i int); CREATE TABLE store.root (i int NOT NULL) PARTITION BY RANGE (i);
CREATE TABLE lone.t (id serial PRIMARY KEY, c ext.citext, h public.hstore);
CREATE STATISTICS public.lone_stats (dependencies) ON id, c FROM lone.t;
CREATE VIEW lone.v AS SELECT id FROM lone.t;
CREATE TABLE "log s"."Entry.*" (i int PRIMARY KEY);

CREATE TABLE app.typed (i int PRIMARY KEY, m types.mood, p types.positive, t text COLLATE types."C copy");
CREATE TABLE app.triggered (i int PRIMARY KEY);
CREATE TRIGGER touch BEFORE UPDATE ON app.triggered FOR EACH ROW EXECUTE FUNCTION code.touch();
CREATE TABLE app.secured (i int PRIMARY KEY); ALTER TABLE app.secured ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON app.secured USING (code.allowed());
CREATE TABLE app.indexed (i int PRIMARY KEY); CREATE INDEX ON app.indexed (code.one(i));
CREATE TABLE app.numbered (i int PRIMARY KEY DEFAULT nextval('store.numbers'), g int DEFAULT code.one(3) CHECK (code.one(4) = 1));
CREATE TABLE app.orders (i int PRIMARY KEY, good int CONSTRAINT "Good" REFERENCES store.goods, up int REFERENCES app.orders);
CREATE TABLE app.child () INHERITS (store.base);
CREATE TABLE app.part PARTITION OF store.root FOR VALUES FROM (0) TO (10);
CREATE TABLE app.ruled (i int PRIMARY KEY); CREATE RULE also AS ON INSERT TO app.ruled DO ALSO INSERT INTO "log s"."Entry.*" VALUES (NEW.i);
CREATE VIEW app.v_goods AS SELECT id FROM store.goods;
CREATE MATERIALIZED VIEW app.m_goods AS SELECT id FROM app.v_goods;
CREATE VIEW app.v_code AS SELECT code.one(1) AS one;
CREATE TABLE app.plain (id serial PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, name ext.citext);
CREATE TABLE app.events (day date NOT NULL, id int NOT NULL, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE app.events_2020 PARTITION OF app.events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE app.events_2021 PARTITION OF app.events FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE TRIGGER touch BEFORE UPDATE ON app.events_2021 FOR EACH ROW EXECUTE FUNCTION code.touch();
CREATE TABLE app.seen (day date, id int, CONSTRAINT event FOREIGN KEY (day, id) REFERENCES app.events);

CREATE SCHEMA fn;
CREATE FUNCTION fn.of_row(app.ruled) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION fn.of_view(app.m_goods) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION public.of_mood(types.mood) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE CAST (types.mood AS int) WITH FUNCTION public.of_mood(types.mood);
CREATE PUBLICATION mine FOR TABLE app.plain;
`

// filters are selections with what check says of them.
var filters = map[string]struct {
	catalog.Selection
	needs       []string // of selection-dependency, exactly
	foreignKeys []string
	views       []string
	unused      []string
	empty       bool
}{
	"a schema, and a cast that has no schema": {
		Selection: catalog.Selection{Schemas: []string{"lone"}},
		needs:     []string{"cast from types.mood to integer needs function public.of_mood(types.mood)", "cast from types.mood to integer needs type types.mood"},
	},
	"a schema that needs nobody": {
		Selection: catalog.Selection{Schemas: []string{"lone", "types", "public"}},
	},
	"tables": {
		Selection: catalog.Selection{Tables: []string{"app.plain", "lone.*", "app.e*", "seen"}, ExcludeSchemas: []string{"log*"}},
		needs:     []string{"function fn.of_row(app.ruled) needs type app.ruled", "function fn.of_view(app.m_goods) needs type app.m_goods"},
	},
	"tables with what they need": {
		Selection:   catalog.Selection{Tables: []string{"app.plain", "lone.*", "app.e*", "seen", "ruled", `"Entry"*`, "Entry*"}, ExcludeSchemas: []string{"code", "FN"}, ExcludeTables: []string{"events_2021"}},
		foreignKeys: []string{`"event" on "app"."seen" references "app"."events", of which partitions are left out`},
		unused:      []string{"--table Entry*"},
	},
	"views without what they read": {
		Selection:   catalog.Selection{Schemas: []string{"app", "log*", "types", "public"}, Tables: []string{"app.?_goods", "plain", "app.orders"}},
		foreignKeys: []string{`"Good" on "app"."orders" references "store"."goods"`},
		views:       []string{`"app"."m_goods"`, `"app"."v_goods"`},
	},
	"nothing": {
		Selection: catalog.Selection{Tables: []string{"store.numbers"}},
		empty:     true,
	},
	"without types": {
		Selection: catalog.Selection{ExcludeSchemas: []string{"types"}},
		needs: []string{`cast from types.mood to integer needs type types.mood`, `column m of table app.typed needs type types.mood`, `column p of table app.typed needs type types.positive`,
			`column t of table app.typed needs collation types."C copy"`, `function public.of_mood(types.mood) needs type types.mood`},
	},
	"without code": {
		Selection: catalog.Selection{ExcludeSchemas: []string{"code"}},
		needs: []string{"constraint numbered_check on table app.numbered needs function code.one(integer)",
			"default value for column g of table app.numbered needs function code.one(integer)", "index app.indexed_one_idx needs function code.one(integer)", "policy p on table app.secured needs function code.allowed()",
			"trigger touch on table app.events_2021 needs function code.touch()", "trigger touch on table app.triggered needs function code.touch()", "view app.v_code needs function code.one(integer)"},
	},
	"without store": {
		Selection:   catalog.Selection{ExcludeSchemas: []string{"store"}},
		foreignKeys: []string{`"Good" on "app"."orders" references "store"."goods"`},
		views:       []string{`"app"."m_goods"`, `"app"."v_goods"`},
		needs: []string{"default value for column i of table app.numbered needs sequence store.numbers", "function fn.of_view(app.m_goods) needs type app.m_goods",
			"table app.child needs table store.base", "table app.part needs table store.root"},
	},
	"without what store is needed for": {
		Selection:   catalog.Selection{ExcludeSchemas: []string{"store", "fn"}, ExcludeTables: []string{"app.child", "part", "numbered", "app.?_goods", "none"}, Schemas: []string{"app", "log*", "types", "code", "public"}},
		foreignKeys: []string{`"Good" on "app"."orders" references "store"."goods"`},
		unused:      []string{"--exclude-table none"},
	},
	"without an extension's schema": {
		Selection: catalog.Selection{ExcludeSchemas: []string{"ext", "lone"}},
	},
	"without a partition": {
		Selection:   catalog.Selection{ExcludeTables: []string{"events_2021"}},
		foreignKeys: []string{`"event" on "app"."seen" references "app"."events", of which partitions are left out`},
	},
	"without a log": {
		Selection: catalog.Selection{ExcludeTables: []string{`"log s"."Entry.*"`}},
		needs:     []string{`table app.ruled needs table "log s"."Entry.*"`},
	},
	"without a sequence": {
		Selection: catalog.Selection{ExcludeTables: []string{"numbers"}},
		needs:     []string{"default value for column i of table app.numbered needs sequence store.numbers"},
	},
	"a table with statistics stays behind": {
		Selection: catalog.Selection{ExcludeTables: []string{"lone.t"}},
		views:     []string{`"lone"."v"`},
	},
}

// TestSelection: check says of each filter what it takes along, and blocks what
// could not be restored: pg_dump and pg_restore are asked whether that is true.
func TestSelection(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{12, 15}, {17, 18}} {
		t.Run(fmt.Sprintf("%d to %d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Start(t, pair[0]), pgtest.Start(t, pair[1])
			pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE web`)
			pgtest.Exec(t, source.ConnString("web"), webSQL)
			whole := run(t, source, target, options{db: "web"})
			for _, f := range whole.Findings {
				if strings.HasPrefix(f.Code, "selection-") {
					t.Errorf("without filters: %+v", f)
				}
			}
			n := 0
			for name, test := range filters {
				in := input(t, source, target, options{db: "web"})
				in.Selection = test.Selection
				r := runInput(t, in)
				compare := func(code string, severity preflight.Severity, objects []string) {
					t.Helper()
					f := find(r, code, src)
					switch {
					case f == nil && objects == nil:
					case f == nil:
						t.Errorf("%s: no finding %s", name, code)
					case f.Severity != severity, !slices.Equal(f.Objects, objects):
						t.Errorf("%s: %s %s\n%s\nexpected\n%s", name, f.Severity, code, strings.Join(f.Objects, "\n"), strings.Join(objects, "\n"))
					}
				}
				compare("selection-dependency", blocker, test.needs)
				compare("selection-foreign-keys", warn, test.foreignKeys)
				compare("selection-views", warn, test.views)
				compare("selection-unused", warn, test.unused)
				if empty := find(r, "selection-empty", src) != nil; empty != test.empty {
					t.Errorf("%s: empty is %t", name, empty)
				}
				n++
				failures := restore(t, in, target, fmt.Sprintf("restored_%d", n))
				if (len(failures) > 0) != (test.needs != nil) && !test.empty {
					t.Errorf("%s: a restore fails of %q", name, failures)
				}
			}
		})
	}
}

// restore brings the definitions that a selection leaves over into a database,
// without the foreign keys that it takes along, and returns what failed.
func restore(t *testing.T, in preflight.Input, target *cluster.Cluster, db string) (failures []string) {
	t.Helper()
	conn, err := in.Source.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	x, err := catalog.Excluded(t.Context(), conn, in.Selection)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := catalog.LostForeignKeys(t.Context(), conn, x)
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "archive")
	if err := schema.Dump(t.Context(), schema.Tools{Dir: target.BinDir()}, schema.DumpSchema(in.Source, "", archive, x)); err != nil {
		t.Fatal(err)
	}
	pgRestore := filepath.Join(target.BinDir(), "pg_restore")
	out, err := osexec.Command(pgRestore, "--list", archive).Output()
	if err != nil {
		t.Fatal(err)
	}
	list := string(out)
	for _, k := range keys {
		entry := fmt.Sprintf(" FK CONSTRAINT %s %s %s ", k.Table.Schema, k.Table.Name, k.Name)
		if !strings.Contains(list, entry) {
			t.Errorf("%q is not in the archive", entry)
		}
		list = strings.Join(slices.DeleteFunc(strings.Split(list, "\n"), func(l string) bool { return strings.Contains(l, entry) }), "\n")
	}
	if err := os.WriteFile(archive+".list", []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, target.ConnString("postgres"), "CREATE DATABASE "+db)
	messages, _ := osexec.Command(pgRestore, "--use-list="+archive+".list", "--dbname="+target.ConnString(db), archive).CombinedOutput()
	for _, line := range strings.Split(string(messages), "\n") {
		if strings.Contains(line, "error: ") {
			failures = append(failures, line)
		}
	}
	return failures
}

// TestLeftOutDoesNotMatter: what stays behind raises no finding, be it in a
// schema or in tables that are left out.
func TestLeftOutDoesNotMatter(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 10), pgtest.Start(t, 17)
	pgtest.Exec(t, source.ConnString("postgres"), `CREATE ROLE mover LOGIN REPLICATION`, `CREATE DATABASE d OWNER mover`)
	pgtest.Exec(t, target.ConnString("postgres"), `CREATE ROLE mover LOGIN REPLICATION`)
	pgtest.Exec(t, source.ConnString("d"), `
		CREATE SCHEMA app AUTHORIZATION mover; CREATE TABLE app.t (i int PRIMARY KEY); ALTER TABLE app.t OWNER TO mover;
		CREATE SCHEMA bad; CREATE FUNCTION bad.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE UNLOGGED TABLE bad.unlogged (i int PRIMARY KEY);
		CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE bad.ft (i int) SERVER s;
		CREATE TABLE bad.oids (i int PRIMARY KEY) WITH OIDS;
		CREATE TABLE bad.types (i int PRIMARY KEY, a abstime);
		CREATE VIEW bad.fac AS SELECT 5 ! AS f;
		CREATE AGGREGATE bad.arr (anyarray) (sfunc = array_cat, stype = anyarray);
		CREATE TRIGGER tr BEFORE INSERT ON bad.types FOR EACH ROW EXECUTE PROCEDURE bad.f();
		ALTER TABLE bad.types ENABLE ALWAYS TRIGGER tr;
		CREATE TABLE bad.nothing_fits (j json);
		CREATE COLLATION pg_catalog."xx_XX" (locale = 'C'); CREATE TABLE bad.collated (i int PRIMARY KEY, v text COLLATE "xx_XX");
		CREATE FUNCTION bad.c() RETURNS trigger LANGUAGE c AS '$libdir/refint', 'check_primary_key';
		CREATE MATERIALIZED VIEW bad.mv AS SELECT 1 AS i;
		CREATE TABLE bad.unsure (i int PRIMARY KEY); ALTER TABLE bad.unsure ADD CONSTRAINT k CHECK (i > 0) NOT VALID;
		CREATE TABLE bad.secured (i int PRIMARY KEY); ALTER TABLE bad.secured ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
		CREATE TABLE bad.unreadable (i int PRIMARY KEY); ALTER TABLE bad.unreadable OWNER TO mover; REVOKE ALL ON bad.unreadable FROM mover`)
	type where struct {
		code string
		side postgres.Side
	}
	relations := []where{{"unlogged-tables", src}, {"foreign-tables", src}, {"with-oids", src}, {"removed-types", src}, {"apply-triggers", src},
		{"identity-impossible", src}, {"collation-missing", tgt}, {"materialized-views", src}, {"not-valid", src}}
	rights := []where{{"privilege-owner", src}, {"privilege-select", src}, {"row-security", src}, {"row-security", tgt}}
	for _, test := range []struct {
		user  string
		codes []where
		whole []where // gone with the schema alone
	}{
		{"postgres", relations, []where{{"removed-functions", src}, {"c-functions", tgt}}},
		{"mover", rights, []where{{"privilege-usage", src}}},
	} {
		in := input(t, source, target, options{db: "d", user: test.user, method: "native"})
		r := runInput(t, in)
		for _, f := range slices.Concat(test.codes, test.whole) {
			if find(r, f.code, f.side) == nil {
				t.Fatalf("no finding %s of the %s without a filter:\n%s", f.code, f.side, print(r))
			}
		}
		in.Selection = catalog.Selection{ExcludeTables: []string{"bad.*"}}
		r = runInput(t, in)
		for _, f := range test.codes {
			wantNot(t, r, f.code, f.side)
		}
		for _, f := range test.whole {
			if find(r, f.code, f.side) == nil {
				t.Errorf("no finding %s of the %s, although the schema stays", f.code, f.side)
			}
		}
		in.Selection = catalog.Selection{Schemas: []string{"app"}}
		r = runInput(t, in)
		for _, f := range slices.Concat(test.codes, test.whole) {
			wantNot(t, r, f.code, f.side)
		}
	}
}
