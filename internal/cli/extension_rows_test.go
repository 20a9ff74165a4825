package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// stuffSQL is the script of an extension that keeps rows for the user: all of a
// table, some of one, one that refers to another, one without a key, sequences; and
// a table that is its own.
const stuffSQL = `
CREATE TABLE stuff.jobs (id serial PRIMARY KEY, "its what" text, twice int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE stuff.a_run (job int REFERENCES stuff.jobs ON DELETE CASCADE, n int GENERATED ALWAYS AS IDENTITY);
CREATE TABLE stuff.setup (name text PRIMARY KEY, value text, standard bool NOT NULL DEFAULT false);
CREATE TABLE stuff.keyless (v text);
CREATE TABLE stuff.internal (i int);
CREATE TABLE stuff.heard (what text);
CREATE FUNCTION stuff.hear() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO stuff.heard VALUES (TG_ARGV[0]); RETURN NULL; END $$;
CREATE TRIGGER hear AFTER INSERT OR UPDATE OR DELETE ON stuff.jobs EXECUTE FUNCTION stuff.hear('jobs');
CREATE TRIGGER hear AFTER UPDATE OF value ON stuff.setup EXECUTE FUNCTION stuff.hear('setup');
CREATE TRIGGER hear_rows AFTER INSERT OR DELETE ON stuff.setup FOR EACH ROW EXECUTE FUNCTION stuff.hear('a row');
CREATE TRIGGER "hear a run" AFTER INSERT ON stuff.a_run EXECUTE FUNCTION stuff.hear('a_run');
CREATE SEQUENCE stuff.counter;
CREATE SEQUENCE stuff.its_own;
INSERT INTO stuff.internal VALUES (1);
INSERT INTO stuff.setup VALUES ('default', 'of the extension', true), ('new', 'of the extension', true);
INSERT INTO stuff.keyless VALUES ('made by the extension');
SELECT pg_catalog.pg_extension_config_dump('stuff.jobs', '');
SELECT pg_catalog.pg_extension_config_dump('stuff.jobs_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('stuff.a_run', '');
SELECT pg_catalog.pg_extension_config_dump('stuff.setup', 'WHERE NOT standard');
SELECT pg_catalog.pg_extension_config_dump('stuff.keyless', '');
SELECT pg_catalog.pg_extension_config_dump('stuff.counter', '');`

// extensionFiles writes the files of an extension, and returns the setting with which a
// server finds them.
func extensionFiles(t *testing.T, files map[string]string) map[string]string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgbaton-extension-") // the server's account must get there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.MkdirAll(filepath.Join(dir, "extension"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, "extension", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"extension_control_path": "$system:" + dir}
}

// TestExtensionOfAnotherVersion: rows that the target's newer version of an extension does
// not take arrive when the source has been updated.
func TestExtensionOfAnotherVersion(t *testing.T) {
	t.Parallel()
	path := extensionFiles(t, map[string]string{"kinds.control": "default_version = '1.1'\nschema = kinds\n",
		"kinds--1.0.sql":      `CREATE TABLE kinds.kind (name text PRIMARY KEY); SELECT pg_catalog.pg_extension_config_dump('kinds.kind', '')`,
		"kinds--1.0--1.1.sql": `ALTER TABLE kinds.kind ADD COLUMN of_what text NOT NULL DEFAULT 'all'; ALTER TABLE kinds.kind ALTER COLUMN of_what DROP DEFAULT`})
	m := &move{t: t, source: pgtest.Start(t, 18, path), target: pgtest.Start(t, 18, path), db: "app"}
	m.load(`CREATE EXTENSION kinds VERSION '1.0'`, `INSERT INTO kinds.kind VALUES ('mine')`)
	hint := hintBelow(t, m.run(1, "start").Stderr, "writing the rows of extensions")
	sql, _, found := strings.Cut(strings.TrimPrefix(hint, "the extension's version may not be the source's: "), " on the source, where packages allow; then run start again")
	if !found {
		t.Fatal(hint)
	}
	pgtest.Exec(t, m.sourceURI(), sql)
	m.run(0, "start")
	if got := pgtest.QueryValue[string](t, pgtest.Connect(t, m.targetURI()), `SELECT string_agg(k::text, ' ') FROM kinds.kind k`); got != "(mine,all)" {
		t.Errorf("after %s: %s", sql, got)
	}
}

// TestRowsOfExtensions: what extensions keep for the user is there after start, with
// what changed since after each handover, both ways, and refers and is referred to.
func TestRowsOfExtensions(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"stream", "native", "dump"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			path := extensionFiles(t, map[string]string{"stuff.control": "default_version = '1.0'\nschema = stuff\n", "stuff--1.0.sql": stuffSQL})
			m := &move{t: t, source: pgtest.Start(t, 18, path), target: pgtest.Start(t, 18, path), db: "app"}
			m.load(`CREATE EXTENSION stuff`, `INSERT INTO stuff.jobs ("its what") VALUES (E'a\tb\\'), (NULL), ('third')`, `INSERT INTO stuff.a_run (job) VALUES (1), (2), (3)`,
				`INSERT INTO stuff.setup VALUES ('mine', 'of the user')`, `DELETE FROM stuff.keyless`, `INSERT INTO stuff.keyless VALUES ('twice'), ('twice')`,
				`INSERT INTO stuff.internal VALUES (2)`, `SELECT setval('stuff.counter', 77), setval('stuff.its_own', 5)`,
				// As from an earlier version of the extension, in which this row was the user's.
				`UPDATE stuff.setup SET standard = false, value = 'of the user' WHERE name = 'new'`,
				`CREATE TABLE public.uses (id int PRIMARY KEY, job int REFERENCES stuff.jobs ON DELETE CASCADE)`, `INSERT INTO public.uses VALUES (1, 1), (2, 2)`,
				`CREATE FUNCTION public.mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO stuff.heard VALUES ('of the user'); RETURN NULL; END $$`,
				`CREATE TRIGGER mine AFTER DELETE ON stuff.jobs EXECUTE FUNCTION public.mine()`, `CREATE TRIGGER mine AFTER INSERT ON stuff.a_run EXECUTE FUNCTION public.mine()`)
			const content = `SELECT concat_ws(E'\n', (SELECT string_agg(x::text, ' ' ORDER BY id) FROM stuff.jobs x), (SELECT string_agg(x::text, ' ' ORDER BY n) FROM stuff.a_run x),
				(SELECT string_agg(x::text, ' ' ORDER BY name) FROM stuff.setup x WHERE name <> 'new'), (SELECT string_agg(x::text, ' ' ORDER BY v) FROM stuff.keyless x),
				(SELECT string_agg(x::text, ' ' ORDER BY id) FROM public.uses x))`
			const sequences = `SELECT (SELECT last_value FROM stuff.jobs_id_seq) || ' ' || (SELECT last_value FROM stuff.counter)`
			same := func(when string, query string) {
				t.Helper()
				equal(t, when, pgtest.QueryValue[string](t, pgtest.Connect(t, m.sourceURI()), query), pgtest.QueryValue[string](t, pgtest.Connect(t, m.targetURI()), query))
			}
			// heard: whom the triggers of the extension told since the last time. What the
			// user has there is not moved with an extension, and must not fire on the source.
			heard := func(when, uri, want string) {
				t.Helper()
				equal(t, "heard "+when, want, pgtest.QueryValue[string](t, pgtest.Connect(t, uri), `SELECT string_agg(DISTINCT what, ' ' ORDER BY what) FROM stuff.heard`))
			}
			deafen := func(uri string) {
				t.Helper()
				pgtest.Exec(t, uri, `SET default_transaction_read_only = off`, `TRUNCATE stuff.heard`)
			}
			write := func(uri string) {
				t.Helper()
				pgtest.Exec(t, uri, `INSERT INTO stuff.jobs ("its what") VALUES ('later')`, `DELETE FROM stuff.jobs WHERE id = (SELECT min(id) FROM stuff.jobs)`, `UPDATE stuff.jobs SET "its what" = 'changed' WHERE id = 2`,
					`INSERT INTO stuff.a_run (job) SELECT max(id) FROM stuff.jobs`, `DELETE FROM stuff.keyless WHERE ctid = (SELECT min(ctid) FROM stuff.keyless)`, `INSERT INTO stuff.keyless VALUES ('more')`,
					`UPDATE stuff.setup SET value = value || '!' WHERE NOT standard`, `INSERT INTO public.uses SELECT 10 + max(id), max(id) FROM stuff.jobs`, `SELECT nextval('stuff.counter')`)
			}
			m.run(0, "start", "--method", method)
			same("after start", content)
			heard("after start", m.targetURI(), "a_run jobs setup")
			equal(t, "the extension's own", "1", pgtest.QueryValue[string](t, pgtest.Connect(t, m.targetURI()), `SELECT string_agg(i::text, ' ') FROM stuff.internal`))
			equal(t, "what is the extension's own on the target", "of the extension", pgtest.QueryValue[string](t, pgtest.Connect(t, m.targetURI()), `SELECT value FROM stuff.setup WHERE name = 'new'`))
			write(m.sourceURI())
			deafen(m.targetURI())
			m.run(0, "switchover", "--yes")
			heard("after the switchover", m.targetURI(), "a_run jobs setup")
			same("after the switchover", content)
			same("after the switchover", sequences)
			write(m.targetURI())
			deafen(m.sourceURI())
			r := m.run(0, "rollback", "--yes")
			heard("after the rollback", m.sourceURI(), "jobs setup")
			if out := r.Stdout + r.Stderr; !strings.Contains(out, `its trigger "hear a run" fire would`) || strings.Contains(out, "stuff.jobs have changed") {
				t.Errorf("not said of what the extension was not told:\n%s", r)
			}
			same("after the rollback", content)
			same("after the rollback", sequences)
		})
	}
}
