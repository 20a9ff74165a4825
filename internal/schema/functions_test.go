package schema_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgbaton/internal/catalog"
	"pgbaton/internal/journal"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// TestFunctions: the target gets what has changed on the source since it got it, and
// nothing else; a new function with its owner, its grants and its comment, and never
// with the rights of a role that is not its owner.
func TestFunctions(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{10, 18}, {18, 18}} {
		t.Run(fmt.Sprintf("%d to %d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			conns, uris, servers := map[postgres.Side]*postgres.Session{}, map[postgres.Side]string{}, map[postgres.Side]*postgres.Server{}
			for i, side := range []postgres.Side{postgres.Source, postgres.Target} {
				uris[side] = pgtest.Start(t, pair[i]).ConnString("postgres")
				var err error
				if servers[side], err = postgres.NewServer(side, uris[side]); err != nil {
					t.Fatal(err)
				}
				if conns[side], err = servers[side].Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conns[side].Close(t.Context()) })
				pgtest.Exec(t, uris[side], `CREATE ROLE keeper`, `CREATE ROLE "a reader"`,
					`CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'`, `CREATE FUNCTION refused() RETURNS int LANGUAGE sql AS 'SELECT 1'`,
					`CREATE FUNCTION becomes() RETURNS text LANGUAGE sql AS 'SELECT current_user::text'`)
			}
			source, target := uris[postgres.Source], uris[postgres.Target]
			pgtest.Exec(t, source, `CREATE ROLE lost`, `ALTER FUNCTION becomes() OWNER TO lost`)
			pgtest.Exec(t, target, `CREATE ROLE greedy`, `ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO greedy`)
			if err := journal.Create(t.Context(), conns[postgres.Target], journal.Record{Name: "m", ID: "1", Side: postgres.Target, Method: "stream"}, nil); err != nil {
				t.Fatal(err)
			}
			read := func() *schema.Functions {
				t.Helper()
				f, err := schema.ReadFunctions(t.Context(), conns[postgres.Source], conns[postgres.Target], catalog.Exclusion{})
				if err != nil {
					t.Fatal(err)
				}
				return f
			}
			// apply gives the target what changed, and compares it and what failed.
			apply := func(when, changed, refused string) map[string]error {
				t.Helper()
				f := read()
				var names []string
				for _, c := range f.Changes {
					names = append(names, c.Signature)
				}
				failed, err := f.Apply(t.Context(), conns[postgres.Target])
				if err != nil {
					t.Fatal(err)
				}
				slices.Sort(names)
				if got := strings.Join(names, " "); got != changed {
					t.Errorf("%s: changed are %s, not %s", when, got, changed)
				}
				if got := strings.Join(slices.Sorted(maps.Keys(failed)), " "); got != refused {
					t.Errorf("%s: refused are %s (%v), not %s", when, got, failed, refused)
				}
				if got := read().Settled(); got != (refused == "") {
					t.Errorf("%s: settled is %v", when, got)
				}
				return failed
			}
			target1 := func(when, want, sql string) {
				t.Helper()
				if got := pgtest.QueryValue[string](t, pgtest.Connect(t, target), sql); got != want {
					t.Errorf("%s: %s, not %s", when, got, want)
				}
			}
			if read().Settled() {
				t.Error("settled before anything is remembered")
			}
			apply("the same", "", "")

			const config = `SELECT coalesce(proconfig::text, 'none') FROM pg_proc WHERE proname = 'f'`
			pgtest.Exec(t, target, `ALTER FUNCTION f() SET search_path = public`)
			apply("mended on the target", "", "")
			target1("mended on the target", "{search_path=public}", config)
			pgtest.Exec(t, source, `CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'`)
			apply("changed on the source", "public.f()", "")
			target1("changed on the source", "none", config)
			pgtest.Exec(t, target, `DROP FUNCTION f()`)
			apply("dropped on the target", "", "")

			pgtest.Exec(t, source, `DROP FUNCTION refused()`, `CREATE FUNCTION refused() RETURNS text LANGUAGE sql AS 'SELECT NULL::text'`)
			apply("refused", "public.refused()", "public.refused()")
			apply("refused again", "public.refused()", "public.refused()")
			pgtest.Exec(t, target, `DROP FUNCTION refused()`, `CREATE FUNCTION refused() RETURNS text LANGUAGE sql AS 'SELECT NULL::text'`)
			apply("done by hand", "", "")

			pgtest.Exec(t, source, `CREATE FUNCTION "Secret"(text) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'`, `ALTER FUNCTION "Secret"(text) OWNER TO keeper`,
				`REVOKE ALL ON FUNCTION "Secret"(text) FROM PUBLIC`, `GRANT EXECUTE ON FUNCTION "Secret"(text) TO "a reader" WITH GRANT OPTION`, `GRANT EXECUTE ON FUNCTION "Secret"(text) TO lost`,
				`COMMENT ON FUNCTION "Secret"(text) IS 'it''s secret'`,
				`CREATE FUNCTION plain() RETURNS int LANGUAGE sql AS 'SELECT 1'`,
				`CREATE FUNCTION orphan() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'`, `ALTER FUNCTION orphan() OWNER TO lost`,
				`ALTER FUNCTION becomes() SECURITY DEFINER`)
			failed := apply("new", `public."Secret"(text) public.becomes() public.orphan() public.plain()`, "public.becomes() public.orphan()")
			for name, err := range failed {
				var missing *schema.MissingOwner
				if !errors.As(err, &missing) || missing.Owner != "lost" {
					t.Errorf("%s: %v", name, err)
				}
			}
			const rights = `SELECT string_agg(concat_ws(' ', proname, pg_get_userbyid(proowner), prosecdef, proacl, obj_description(oid, 'pg_proc')), E'\n' ORDER BY proname)
				FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname IN ('Secret', 'plain', 'orphan', 'becomes')`
			target1("new", strings.Join([]string{`Secret keeper t {keeper=X/keeper,"\"a reader\"=X*/keeper"} it's secret`, `becomes postgres f`, `plain postgres f {postgres=X/postgres,=X/postgres}`}, "\n"), rights)

			pgtest.Exec(t, target, `CREATE ROLE lost`)
			apply("with the owner", "public.becomes() public.orphan()", "")
			target1("with the owner", strings.Join([]string{"becomes lost t {lost=X/lost,=X/lost}", "orphan lost t {lost=X/lost,=X/lost}"}, "\n"), strings.Replace(rights, "'Secret', 'plain', ", "", 1))
		})
	}
}
