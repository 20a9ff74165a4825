package preflight_test

import (
	"fmt"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// searchPathHealthy: functions that find what they call wherever they are called
// from, and one that only the application calls.
const searchPathHealthy = `
CREATE SCHEMA "App s";
CREATE FUNCTION "App s".count_words(v text) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT array_length(string_to_array(v, ' '), 1) $$;
CREATE FUNCTION qualified(v text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN "App s".count_words(v); END $$;
CREATE FUNCTION settled(v text) RETURNS int LANGUAGE plpgsql IMMUTABLE SET search_path = "App s" AS $$ BEGIN RETURN count_words(v); END $$;
CREATE FUNCTION unrelated(v text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN count_words(v); END $$;
CREATE FUNCTION refuses(v text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE 'no'; END $$;
CREATE TABLE fine (id int PRIMARY KEY, v text CHECK (qualified(v) < 50), w text CHECK (settled(w) < 50), x text);
INSERT INTO fine VALUES (1, 'a b', 'c', NULL);
ALTER TABLE fine ADD CHECK (refuses(x)) NOT VALID`

// searchPathProblems: each kind of expression, with rows and without, and functions
// that call others in each way.
func searchPathProblems(major int) string {
	sql := `
CREATE FUNCTION "App s"."Is short"(v text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN count_words(v) < 50; END $$;
CREATE FUNCTION "App s".words(v text) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT "App s".count_words(v) $$;
CREATE FUNCTION "App s".inner_words(v text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN count_words(v); END $$;
CREATE FUNCTION "App s".outer_words(v text) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT "App s".inner_words(v) $$;
CREATE TABLE "App s".kinds (k text PRIMARY KEY);
CREATE FUNCTION "App s".known(v text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN EXISTS (SELECT FROM kinds WHERE k = v) OR true; END $$;
CREATE FUNCTION "App s".cast_it(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN v::"short text"; END $$;
SET search_path = "App s", public;
CREATE DOMAIN "short text" AS text CHECK ("Is short"(VALUE));
CREATE DOMAIN shorter AS "short text";
CREATE TABLE note (id int PRIMARY KEY, body text CHECK ("Is short"(body)));
CREATE TABLE with_rows (id int PRIMARY KEY, body text);
CREATE INDEX by_words ON with_rows (id, outer_words(body));
CREATE INDEX some_words ON with_rows (id) WHERE known(body);
CREATE TABLE with_domain (id int PRIMARY KEY, d shorter);
CREATE INDEX casts ON with_rows (cast_it(body));
INSERT INTO with_rows SELECT g, 'some words ' || g FROM generate_series(1, 20) AS g;
CREATE TABLE parts (id int, v text) PARTITION BY RANGE (inner_words(v));
RESET search_path`
	if major >= 12 {
		sql += `;
SET search_path = "App s";
CREATE TABLE generated (id int PRIMARY KEY, v text, n int GENERATED ALWAYS AS (inner_words(v)) STORED);
RESET search_path`
	}
	if major >= 14 {
		sql += `;
SET search_path = "App s";
CREATE STATISTICS expressed ON (inner_words(body)), id FROM with_rows;
RESET search_path`
	}
	return sql
}

// TestSearchPath: expressions that call functions which find others by a search_path
// are found, on rows or without, and the remedy mends them all.
func TestSearchPath(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{10, 12}, {13, 17}, {17, 18}} {
		t.Run(fmt.Sprintf("%d to %d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Start(t, pair[0]), pgtest.Start(t, pair[1])
			says := []string{`constraint note_body_check of "App s".note`, `index "App s".by_words`, `predicate of index "App s".some_words`,
				`domain "App s".shorter, the type of column d of "App s".with_domain`, `index "App s".casts`,
				`ALTER FUNCTION "App s"."Is short"(text) SET search_path = "App s"`, `ALTER FUNCTION "App s".outer_words(text) SET search_path = "App s"`}
			if pair[0] >= 11 {
				says = append(says, `partition key of "App s".parts`)
			}
			if pair[0] >= 12 {
				says = append(says, `generated column n of "App s".generated`)
			}
			if pair[0] >= 14 {
				says = append(says, `statistics "App s".expressed`)
			}
			scenario{
				healthy: searchPathHealthy,
				problems: []problem{
					{code: "search-path", side: src, severity: blocker, remedied: true, source: searchPathProblems(pair[0]), says: says,
						sourceAdmin: `ALTER DATABASE "its db" SET search_path = "App s", public`},
				},
			}.play(t, source, target)
			scenario{
				options: options{db: "suspects"},
				healthy: searchPathHealthy,
				problems: []problem{
					{code: "search-path-suspect", side: src, severity: warn, remedied: true, says: []string{"function public.rarely(text) calls count_words by a plain name", `SET search_path = "App s"`},
						source: `CREATE FUNCTION rarely(v text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN -- refuses(v) is in a comment
	IF v = 'once in a blue moon; unrelated(v)' THEN RETURN count_words ( v ) > 0; END IF; RETURN true; END $$;
CREATE TABLE rare (id int PRIMARY KEY, v text CHECK (rarely(v)));
INSERT INTO rare VALUES (1, 'a')`},
				},
			}.play(t, source, target)
		})
	}
}

// TestSearchPathLeavesNothing: what the functions would write is not written.
func TestSearchPathLeavesNothing(t *testing.T) {
	t.Parallel()
	source := pgtest.Start(t, 15)
	pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE d`)
	pgtest.Exec(t, source.ConnString("d"), `CREATE TABLE log (t text)`,
		`CREATE FUNCTION writes(v text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.log VALUES (v); RETURN true; END $$`,
		`CREATE TABLE t (id int PRIMARY KEY, v text CHECK (writes(v)))`, `CREATE TABLE u (id int PRIMARY KEY, v text)`, `INSERT INTO u VALUES (1, 'x')`,
		`ALTER TABLE u ADD CHECK (writes(v)) NOT VALID`)
	r := run(t, source, pgtest.Start(t, 15), options{db: "d"})
	wantNot(t, r, "search-path", src)
	if n := value[int64](t, source.ConnString("d"), `SELECT count(*) FROM log`); n != 0 {
		t.Errorf("the check has written %d rows\n%s", n, strings.TrimSpace(print(r)))
	}
}
