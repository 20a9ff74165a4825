package cli_test

import (
	"fmt"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// TestSearchPath: a database whose functions find each other by a search_path is
// stopped by check, with the statements that mend it; what no check can see stops the
// copy, or the stream, and is mended on the source, after which start goes on.
func TestSearchPath(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{12, 15}, {15, 17}} {
		t.Run(fmt.Sprintf("%d to %d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			m := newMove(t, pair[0], pair[1])
			m.load(`CREATE EXTENSION unaccent`,
				`CREATE FUNCTION slugify(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$ BEGIN RETURN regexp_replace(lower(unaccent(v)), '[^a-z0-9]+', '-', 'g'); END $$`,
				`CREATE TABLE article (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL, slug text GENERATED ALWAYS AS (slugify(title)) STORED)`,
				`INSERT INTO article (title) SELECT 'Été numéro ' || g FROM generate_series(1, 200) AS g`,
				`CREATE FUNCTION word_count(v text) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT array_length(string_to_array(v, ' '), 1) $$`,
				`CREATE FUNCTION is_short(v text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN word_count(v) < 50; END $$`,
				`CREATE TABLE note (id int PRIMARY KEY, body text CHECK (is_short(body)))`,
				`CREATE TABLE tag (id int PRIMARY KEY, name text)`,
				`CREATE INDEX tag_slug ON tag (slugify(name))`,
				`INSERT INTO tag SELECT g, 'Tag ' || g FROM generate_series(1, 100) AS g`,
				// Rows that fail lie behind those that are tried, or are still to come.
				`CREATE FUNCTION far(v int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN IF v > 2000 THEN RETURN word_count('a') > 0; END IF; RETURN true; END $$`,
				`CREATE TABLE far_rows (id int PRIMARY KEY, f boolean GENERATED ALWAYS AS (far(id)) STORED)`,
				`INSERT INTO far_rows SELECT generate_series(1, 3000)`,
				`CREATE FUNCTION later(v int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN IF v > 2000 THEN RETURN word_count('a') > 0; END IF; RETURN true; END $$`,
				`CREATE TABLE later_rows (id int PRIMARY KEY CHECK (later(id)))`)
			r := m.run(3, "start")
			mend := func(output string, functions ...string) {
				t.Helper()
				for _, f := range functions {
					sql := "ALTER FUNCTION public." + f + ` SET search_path = "public";`
					if !strings.Contains(output, sql) {
						t.Fatalf("%s is not in\n%s", sql, output)
					}
					pgtest.Exec(t, m.sourceURI(), sql)
				}
			}
			mend(r.Stdout+r.Stderr, "slugify(text)", "is_short(text)")
			r = m.run(1, "start")
			mend(r.Stdout+r.Stderr, "far(integer)")
			r = m.run(0, "start")
			if !strings.Contains(r.Stdout+r.Stderr, "the target has them now: public.far(integer)") {
				t.Errorf("not said what was changed:\n%s", r)
			}
			// What is mended on the target stays; what is new on the source comes with its rights.
			pgtest.Exec(t, m.targetURI(), `SET default_transaction_read_only = off`, `ALTER FUNCTION word_count(text) SET search_path = "public"`)
			if r := m.run(0, "start"); strings.Contains(r.Stdout+r.Stderr, "functions were changed") {
				t.Errorf("said although nothing was changed:\n%s", r)
			}

			// The stream stops at a row that comes later, until start brings the function.
			pgtest.Exec(t, m.sourceURI(), `INSERT INTO later_rows VALUES (1), (2001)`, `INSERT INTO note VALUES (1, 'a b')`)
			pgtest.Exec(t, m.sourceURI(), `ALTER FUNCTION later(int) SET search_path = "public"`,
				`CREATE FUNCTION secret() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'`, `REVOKE ALL ON FUNCTION secret() FROM PUBLIC`)
			m.run(0, "start")
			equal(t, "functions on the target", "secret {postgres=X/postgres}, word_count {search_path=public}", pgtest.QueryValue[string](t, pgtest.Connect(t, m.targetURI()),
				`SELECT string_agg(concat_ws(' ', proname, proacl, proconfig), ', ' ORDER BY proname) FROM pg_proc WHERE proname IN ('secret', 'word_count')`))
			m.run(0, "switchover", "--yes")
			m.same()
			if n := pgtest.QueryValue[int64](t, pgtest.Connect(t, m.targetURI()), `SELECT count(*) FROM later_rows`); n != 2 {
				t.Errorf("%d of the rows that came later", n)
			}
			m.run(0, "finish", "--yes")
		})
	}
}
