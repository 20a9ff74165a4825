package cli_test

import (
	"fmt"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// matviewSQL makes materialized views that a session of ours cannot refresh as it
// is: they need the database's search_path, or the settings or the row security of
// their owner; each reads the one before.
const matviewSQL = `
CREATE SCHEMA app;
CREATE SCHEMA shopkeeping;
CREATE ROLE shop;
GRANT USAGE, CREATE ON SCHEMA app TO shop;
ALTER ROLE shop SET search_path = app, shopkeeping;
ALTER ROLE shop SET DateStyle = 'German';
CREATE TABLE app.documents (id int PRIMARY KEY, own text, body text);
INSERT INTO app.documents SELECT i, CASE WHEN i % 2 = 0 THEN 'shop' ELSE 'x' END, 'body number ' || i % 7 FROM generate_series(1, 100) i;
CREATE TABLE shopkeeping.rates (rate int PRIMARY KEY);
INSERT INTO shopkeeping.rates VALUES (3);
GRANT USAGE ON SCHEMA shopkeeping TO shop;
GRANT SELECT ON shopkeeping.rates TO shop;
ALTER TABLE app.documents ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON app.documents USING (own = current_user);
GRANT SELECT ON app.documents TO shop;
SET search_path = app;
CREATE MATERIALIZED VIEW app.z_words AS SELECT word, ndoc FROM ts_stat('SELECT to_tsvector(''simple'', body) FROM documents');
CREATE FUNCTION app.rate() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT rate FROM rates); END';
CREATE VIEW app.between AS SELECT count(*) AS words FROM app.z_words;
GRANT SELECT ON app.between TO shop;
SET search_path = app, shopkeeping;
SET ROLE shop;
SET DateStyle = 'German';
CREATE MATERIALIZED VIEW app.y_own AS SELECT count(*) AS n, app.rate() AS rate, date '2026-11-30'::text AS day FROM app.documents;
CREATE MATERIALIZED VIEW app.a_both AS SELECT o.n, o.rate, o.day, b.words FROM app.y_own o, app.between b;
CREATE UNIQUE INDEX ON app.a_both (n);
RESET ALL;
RESET ROLE;
CREATE MATERIALIZED VIEW app.unpopulated AS SELECT 1 AS one WITH NO DATA;`

// farSQL makes a materialized view over a foreign table in a database called far.
const farSQL = `
CREATE EXTENSION postgres_fdw;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '%s', dbname 'far');
CREATE USER MAPPING FOR postgres SERVER far;
CREATE FOREIGN TABLE app.far (i int) SERVER far OPTIONS (schema_name 'public', table_name 'far');
CREATE MATERIALIZED VIEW app.mv_far AS SELECT count(*) AS n FROM app.far;`

// TestMaterializedViews: what the holder had populated is populated on the taker,
// with what its owner would see; what cannot be refreshed is a finding until it can.
func TestMaterializedViews(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"stream", "dump"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			m := newMove(t, 13, 15)
			m.load()
			far := func(from, to string) {
				pgtest.Exec(t, m.source.ConnString("postgres"), fmt.Sprintf(
					`DO $$ BEGIN PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%[1]s'; END $$; ALTER DATABASE %[1]s RENAME TO %[2]s`, from, to))
			}
			pgtest.Exec(t, m.source.ConnString("postgres"), `CREATE DATABASE far`, `ALTER DATABASE app SET search_path = app, public`)
			pgtest.Exec(t, m.source.ConnString("far"), `CREATE TABLE far AS SELECT 1 AS i`)
			pgtest.Exec(t, m.sourceURI(), matviewSQL, fmt.Sprintf(farSQL, port(m.source)))
			const content = `SELECT (SELECT string_agg(v::text, ' ') FROM app.a_both v) || (SELECT string_agg(w::text, ' ' ORDER BY word) FROM app.z_words w)`
			views := func(uri, want string) {
				t.Helper()
				equal(t, "the views", want, pgtest.QueryValue[string](t, pgtest.Connect(t, uri), content))
				if pgtest.QueryValue[bool](t, pgtest.Connect(t, uri), `SELECT relispopulated FROM pg_class WHERE oid = 'app.unpopulated'::regclass`) {
					t.Error("a view WITH NO DATA is populated")
				}
			}
			// finding returns what status says of the one view that could not be refreshed.
			finding := func() (found string) {
				t.Helper()
				for _, f := range m.result(0, "status")["findings"].([]any) {
					if text := f.(map[string]any)["text"].(string); strings.Contains(text, "materialized view") {
						found += text
					}
				}
				if strings.Contains(found, "a_both") || strings.Contains(found, "y_own") || strings.Contains(found, "z_words") {
					t.Errorf("status: %s", found)
				}
				return found
			}
			wants := func(when string, parts ...string) {
				t.Helper()
				found := finding()
				for _, p := range parts {
					if !strings.Contains(found, p) {
						t.Errorf("%s, status: %q, want %q", when, found, p)
					}
				}
				if len(parts) == 0 && found != "" {
					t.Errorf("%s, status: %q", when, found)
				}
			}
			source := pgtest.QueryValue[string](t, pgtest.Connect(t, m.sourceURI()), content)
			const away = `database "far" does not exist`

			far("far", "far_away")
			m.run(0, "start", "--method", method, "--roles")
			views(m.targetURI(), source)
			wants("with the foreign server away", `"mv_far"`, away, "not populated")
			m.run(0, "start", "--method", method)
			wants("after start again", `"mv_far"`, away)
			far("far_away", "far")
			m.run(0, "resume")
			wants("with the foreign server back")
			if n := pgtest.QueryValue[int](t, pgtest.Connect(t, m.targetURI()), `SELECT n::int FROM app.mv_far`); n != 1 {
				t.Errorf("%d rows", n)
			}

			far("far", "far_away")
			pgtest.Exec(t, m.sourceURI(), `INSERT INTO app.documents VALUES (101, 'shop', 'something new')`,
				`REFRESH MATERIALIZED VIEW app.unpopulated`, `REFRESH MATERIALIZED VIEW app.unpopulated WITH NO DATA`)
			m.run(0, "switchover", "--yes")
			views(m.targetURI(), strings.NewReplacer("(50,", "(51,", ",9)", ",11)", "(body,100)", "(body,100) (new,1)", "(number,100)", "(number,100) (something,1)").Replace(source))
			wants("behind the switchover", `"mv_far"`, away)
			m.run(0, "switchover", "--yes")
			wants("after a second one", `"mv_far"`, away)
			far("far_away", "far")
			m.run(0, "switchover", "--yes")
			wants("with the foreign server back")

			far("far", "far_away")
			pgtest.Exec(t, m.targetURI(), `DELETE FROM app.documents WHERE id > 100`)
			m.run(0, "rollback", "--yes")
			views(m.sourceURI(), source)
			wants("behind the rollback", `"mv_far"`, away)
			m.run(0, "rollback", "--yes")
			far("far_away", "far")
			m.run(0, "rollback", "--yes")
			wants("with the foreign server back")

			far("far", "far_away")
			pgtest.Exec(t, m.source.ConnString("far_away"), `INSERT INTO far VALUES (2)`)
			m.run(0, "switchover", "--yes")
			refresh, _, found := strings.Cut(remedyOf(t, m.result(0, "finish", "--yes")["left"], `target: materialized view "app"."mv_far" holds the rows of an earlier time`), ", when the cause is removed")
			far("far_away", "far")
			pgtest.Exec(t, m.targetURI(), refresh)
			if n := pgtest.QueryValue[int](t, pgtest.Connect(t, m.targetURI()), `SELECT n::int FROM app.mv_far`); n != 2 || !found {
				t.Errorf("%d rows after %s", n, refresh)
			}
		})
	}
}

// TestMaterializedViewThatTheTargetRefuses: from 17 on REFRESH has a search_path
// of its own. The view is a finding until its function is mended, and no handover
// fails because of it.
func TestMaterializedViewThatTheTargetRefuses(t *testing.T) {
	t.Parallel()
	m := newMove(t, 12, 17)
	m.load(`CREATE TABLE public.documents AS SELECT i FROM generate_series(1, 5) i`, `ALTER TABLE public.documents ADD PRIMARY KEY (i)`,
		`CREATE FUNCTION public.mentions() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT count(*) FROM documents); END'`,
		`CREATE MATERIALIZED VIEW public.mv AS SELECT public.mentions() AS n`)
	m.run(0, "start")
	m.run(0, "switchover", "--yes")
	status := m.run(0, "status").Stdout
	for _, s := range []string{`"public"."mv"`, `relation "documents" does not exist`,
		"since 17 REFRESH finds what a function calls by a plain name only with ALTER FUNCTION … SET search_path, there; pgbaton switchover, run again, tries it again"} {
		if !strings.Contains(status, s) {
			t.Errorf("%q is not in\n%s", s, status)
		}
	}
	m.run(0, "switchover", "--yes")
	pgtest.Exec(t, m.targetURI(), `ALTER FUNCTION public.mentions() SET search_path = public`)
	m.run(0, "switchover", "--yes")
	if n := pgtest.QueryValue[int](t, pgtest.Connect(t, m.targetURI()), `SELECT n::int FROM public.mv`); n != 5 {
		t.Errorf("%d rows", n)
	}
	if status := m.run(0, "status").Stdout; strings.Contains(status, `"mv"`) {
		t.Errorf("%s", status)
	}
}
