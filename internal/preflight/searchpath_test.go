package preflight_test

import (
	"fmt"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/preflight"
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
CREATE FUNCTION "App s".doubled(k "App s".kinds) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT k.k || k.k $$;
CREATE FUNCTION "App s".twins(v text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN EXISTS (SELECT FROM "App s".kinds AS x WHERE x.doubled = v) OR true; END $$;
SET search_path = "App s", public;
CREATE DOMAIN "short text" AS text CHECK ("Is short"(VALUE));
CREATE DOMAIN shorter AS "short text";
CREATE TABLE note (id int PRIMARY KEY, body text CHECK ("Is short"(body)));
CREATE TABLE with_rows (id int PRIMARY KEY, body text);
CREATE INDEX by_words ON with_rows (id, outer_words(body));
CREATE INDEX some_words ON with_rows (id) WHERE known(body);
CREATE INDEX twin_words ON with_rows (id) WHERE twins(body);
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
			says := []string{`constraint note_body_check of "App s".note`, `index "App s".by_words`, `predicate of index "App s".some_words`, `predicate of index "App s".twin_words`,
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
					{code: "search-path-extension", side: src, severity: warn, says: []string{`index public.by_extension`, `constraint extended_v_check of public.extended`, "wrap the function in one of your own with SET search_path, and use that; or drop what uses it"},
						source: `SET search_path = "App s", public;
CREATE EXTENSION citext SCHEMA public;
CREATE FUNCTION public.of_extension(v text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN count_words(v); END $$;
ALTER EXTENSION citext ADD FUNCTION public.of_extension(text);
CREATE TABLE public.extended (id int PRIMARY KEY, v text CHECK (public.of_extension(v) < 50));
CREATE INDEX by_extension ON public.extended (public.of_extension(v));
INSERT INTO public.extended VALUES (1, 'a b')`,
						asSaid: `CREATE FUNCTION wrapped(v text) RETURNS int LANGUAGE sql IMMUTABLE SET search_path = "App s" AS $$ SELECT public.of_extension(v) $$;
DROP INDEX by_extension;
CREATE INDEX by_extension ON extended (wrapped(v));
ALTER TABLE extended DROP CONSTRAINT extended_v_check`},
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

// escape is a function body that tries to get at the rights of the session: as a
// superuser it writes a file. (A function that is not VOLATILE may not, but call one.)
const escape = `$$ DECLARE how text; BEGIN
	FOREACH how IN ARRAY '{SELECT,RESET ROLE,SET ROLE NONE,SET LOCAL ROLE postgres,RESET SESSION AUTHORIZATION,SET SESSION AUTHORIZATION postgres}'::text[] LOOP
		BEGIN
			EXECUTE how;
			EXECUTE format('COPY (SELECT 1) TO %L', current_setting('data_directory') || '/escaped ' || name || ' ' || how);
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
	END LOOP;
	RETURN true;
END $$`

// TestSearchPathRights: what is evaluated has the rights of the table's owner and no
// way to others, and only finds what nobody else may have put there. Whose rights we
// cannot have is not evaluated, but read.
func TestSearchPathRights(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 17} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Start(t, major), pgtest.Start(t, 17)
			escaping := func(name string) string {
				return `CREATE FUNCTION ` + name + `(name text) RETURNS boolean LANGUAGE plpgsql AS ` + escape
			}
			pgtest.Exec(t, source.ConnString("postgres"), `CREATE ROLE bob LOGIN`, `CREATE ROLE eve LOGIN`, `CREATE ROLE mover LOGIN REPLICATION`,
				`GRANT pg_monitor TO mover`, `CREATE DATABASE d`, `ALTER DATABASE d SET search_path = public, app`)
			pgtest.Exec(t, source.ConnString("d"), `GRANT CREATE ON SCHEMA public TO bob`, `CREATE SCHEMA app`, `CREATE SCHEMA eve AUTHORIZATION eve`,
				// His own table, with his own function.
				`SET ROLE bob`, escaping("public.his"), `CREATE TABLE public.his (v text CHECK (his(v)))`,
				// His function, which another's would find first, and one in a schema of hers that is in no path.
				escaping("public.helper"), `SET ROLE eve`, escaping("eve.lost"), `RESET ROLE`,
				`CREATE FUNCTION app.helper(v text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'`,
				`CREATE FUNCTION app.victim(v text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN helper(v); END $$`,
				`CREATE FUNCTION app.lacks(v text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN lost(v); END $$`,
				`CREATE FUNCTION public.shared(v text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'`,
				`CREATE FUNCTION app.uses_shared(v text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN shared(v); END $$`,
				`CREATE TABLE app.t (v text CHECK (app.victim(v)), w text CHECK (app.uses_shared(w)))`,
				`CREATE TABLE app.u (v text CHECK (app.lacks(v)))`)
			check := func(o options) preflight.Report {
				t.Helper()
				r := run(t, source, target, o)
				if files := value[string](t, source.ConnString("postgres"), `SELECT coalesce(string_agg(f, ', '), '') FROM pg_ls_dir('.') AS f WHERE f LIKE 'escaped%'`); files != "" {
					t.Fatalf("a function had our rights: %s", files)
				}
				return r
			}
			r := check(options{db: "d"})
			wantNot(t, r, "search-path-untried", src)
			f := want(t, r, "search-path", src, blocker)
			for _, line := range []string{`ALTER FUNCTION app.victim(text) SET search_path = "app";`,
				"-- not tried, as others may create objects in \"public\":\nALTER FUNCTION app.uses_shared(text) SET search_path = \"public\", \"app\";"} {
				if !strings.Contains(f.Remedy, line) {
					t.Errorf("%q is not in\n%s", line, f.Remedy)
				}
			}
			pgtest.Exec(t, source.ConnString("d"), `DROP TABLE app.u`)
			apply(t, source.ConnString("d"), f.Remedy)
			wantNot(t, check(options{db: "d"}), "search-path", src)

			// A role without the owners' rights.
			pgtest.Exec(t, source.ConnString("d"), `ALTER FUNCTION app.victim(text) RESET search_path`, `ALTER TABLE app.t OWNER TO eve`)
			mover := options{db: "d", user: "mover", targetUser: "postgres"}
			r = check(mover)
			wantNot(t, r, "search-path", src)
			if f := want(t, r, "search-path-untried", src, info); len(f.Objects) != 2 || !strings.Contains(strings.Join(f.Objects, ";"), `role "mover" may not become the table's owner "eve"`) {
				t.Errorf("%+v", f)
			}
			want(t, r, "search-path-suspect", src, warn)
			pgtest.Exec(t, source.ConnString("d"), `GRANT bob, eve TO mover`, `GRANT USAGE ON SCHEMA app TO eve`) // as the remedy says
			r = check(mover)
			wantNot(t, r, "search-path-untried", src)
			want(t, r, "search-path", src, blocker)

			// A table that is dropped while the check is at it.
			conn := pgtest.Connect(t, source.ConnString("d"))
			if failure, refusal, err := preflight.TryExpression(t.Context(), conn, 1, "1"); failure != nil || refusal != nil || err != nil {
				t.Errorf("a table that is gone: %v, %v, %v", failure, refusal, err)
			}
		})
	}
}
