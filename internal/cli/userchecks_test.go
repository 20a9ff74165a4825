package cli_test

import (
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// userChecksSQL makes CHECK constraints that look into other tables, smaller and
// larger ones, of a table, of a domain and of a partitioned table; one whose rows no
// longer satisfy it, which the source does not notice; a label of a provider that no
// server here has, and statistics of a partitioned table with a foreign partition
// that cannot be reached.
const userChecksSQL = `
CREATE TABLE public.a_kinds (kind text PRIMARY KEY);
CREATE TABLE public.z_big (kind text PRIMARY KEY, pad text);
CREATE FUNCTION public.known_kind(k text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.a_kinds WHERE kind = k)';
CREATE FUNCTION public.known_big(k text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.z_big WHERE kind = k)';
CREATE DOMAIN public.kind AS text CONSTRAINT is_known CHECK (public.known_kind(VALUE));
CREATE DOMAIN public.big AS text CONSTRAINT is_known CHECK (public.known_big(VALUE));
INSERT INTO public.a_kinds SELECT 'k' || i FROM generate_series(1, 30) i;
INSERT INTO public.z_big SELECT 'k' || i, repeat(md5(i::text), 30) FROM generate_series(1, 3000) i;
CREATE TABLE public.item (id int PRIMARY KEY, kind text CONSTRAINT "it's known" CHECK (public.known_kind(kind)), pad text);
COMMENT ON CONSTRAINT "it's known" ON public.item IS 'kept';
INSERT INTO public.item SELECT i, 'k' || 1 + i % 30, repeat(md5(i::text), 10) FROM generate_series(1, 5000) i;
CREATE TABLE public.small (id int PRIMARY KEY, kind public.kind, big public.big, CHECK (public.known_big(big)));
INSERT INTO public.small SELECT i, 'k' || i, 'k' || 100 * i FROM generate_series(1, 30) i;
CREATE TABLE public.parted (id int PRIMARY KEY, kind text, CONSTRAINT parted_known CHECK (public.known_big(kind))) PARTITION BY RANGE (id);
CREATE TABLE public.parted1 PARTITION OF public.parted FOR VALUES FROM (0) TO (100);
INSERT INTO public.parted SELECT i, 'k' || i FROM generate_series(1, 50) i;
CREATE TABLE public.outdated (id int PRIMARY KEY, kind text CHECK (public.known_kind(kind)));
INSERT INTO public.a_kinds VALUES ('gone');
INSERT INTO public.outdated VALUES (1, 'gone');
DELETE FROM public.a_kinds WHERE kind = 'gone';
CREATE EXTENSION postgres_fdw;
CREATE SERVER nowhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');
CREATE USER MAPPING FOR postgres SERVER nowhere;
CREATE TABLE public.measured (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE public.measured_here PARTITION OF public.measured FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE FOREIGN TABLE public.measured_there PARTITION OF public.measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') SERVER nowhere;
INSERT INTO public.measured VALUES (1, '2026-11-30');
CREATE FUNCTION public.shy(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
	'BEGIN IF current_query() LIKE ''%ANALYZE%'' THEN RAISE ''no statistics of me''; END IF; RETURN i; END';
CREATE TABLE public.shy_rows (i int PRIMARY KEY);
INSERT INTO public.shy_rows VALUES (1);
INSERT INTO pg_catalog.pg_seclabel SELECT 'public.item'::regclass, 'pg_class'::regclass, 0, 'no_provider', 'secret';`

// TestWhatOnlyHelps: what only helps does not stop a start, and constraints that
// call the user's functions are added when all rows are there.
func TestWhatOnlyHelps(t *testing.T) {
	t.Parallel()
	const checks = `SELECT string_agg(conname || ' ' || convalidated || ' ' || coalesce(obj_description(oid, 'pg_constraint'), ''), ', ' ORDER BY conname, conrelid::regclass::text, contypid::regtype::text)
		FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace`
	for _, c := range []struct{ method, groups string }{{"stream", "1"}, {"stream", "3"}, {"native", ""}, {"dump", ""}} {
		t.Run(strings.TrimSpace(c.method+" "+c.groups), func(t *testing.T) {
			t.Parallel()
			m := newMove(t, 15, 17)
			m.load(userChecksSQL, `CREATE INDEX shy_index ON public.shy_rows (public.shy(i))`)
			want := strings.Replace(pgtest.QueryValue[string](t, pgtest.Connect(t, m.sourceURI()), checks), "outdated_kind_check true", "outdated_kind_check false", 1)
			args := []string{"start", "--method", c.method}
			if c.groups != "" {
				args = append(args, "--groups", c.groups)
			}
			started := m.run(0, args...)
			several := c.groups == "3"
			told := []string{"no_provider", `"public"."measured"`, `"public"."shy_rows"`}
			if !several {
				told = append(told, "outdated_kind_check")
			}
			for _, s := range told {
				if !strings.Contains(started.Stderr, s) {
					t.Errorf("%q is not in\n%s", s, started.Stderr)
				}
			}
			target := pgtest.Connect(t, m.targetURI())
			has := pgtest.QueryValue[*string](t, target, checks)
			if !several {
				equal(t, "checks", want, *has)
			} else if has != nil {
				t.Errorf("with several groups there are checks: %s", *has)
			}
			if n := pgtest.QueryValue[int](t, target, `SELECT count(*)::int FROM pg_stats WHERE schemaname = 'public' AND tablename IN ('item', 'measured_here')`); n == 0 {
				t.Error("there are no statistics")
			}
			// Groups are not at one position: the order of these is kept in one only.
			pgtest.Exec(t, m.sourceURI(), `INSERT INTO public.a_kinds VALUES ('late')`, `INSERT INTO public.item VALUES (100001, 'late', '')`)
			m.run(0, "switchover", "--yes")
			target = pgtest.Connect(t, m.targetURI())
			equal(t, "checks", want, pgtest.QueryValue[string](t, target, checks))
			_, err := target.Exec(t.Context(), `INSERT INTO public.item VALUES (100002, 'unknown')`)
			if err == nil || !strings.Contains(err.Error(), "it's known") {
				t.Errorf("%v", err)
			}
			m.same()
			if left := pgtest.QueryValue[string](t, target, `SELECT coalesce(string_agg(key, ', '), '') FROM pgbaton.journal WHERE kind = 'check'`); left != "" {
				t.Errorf("the journal holds checks: %s", left)
			}
			analyze := strings.TrimPrefix(hintBelow(t, started.Stderr, `gathering statistics: ANALYZE "public"."measured"`), "the planner guesses until they are there: remove the cause, then ")
			analyze, _, found := strings.Cut(analyze, " on the target")
			pgtest.Exec(t, m.targetURI(), `DROP FOREIGN TABLE public.measured_there`, analyze)
			if n := pgtest.QueryValue[int](t, target, `SELECT count(*)::int FROM pg_stats WHERE tablename = 'measured' AND inherited`); n == 0 || !found {
				t.Errorf("there are no statistics after %s", analyze)
			}
		})
	}
}
