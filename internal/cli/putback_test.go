package cli_test

import (
	"slices"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// disturbed makes tables, triggers and grants that a migration changes for its time,
// and of which each is met by something else meanwhile.
func (m *move) disturbed() {
	m.t.Helper()
	m.loadApp()
	pgtest.Exec(m.t, m.source.ConnString("postgres"), `CREATE ROLE leaver`)
	pgtest.Exec(m.t, m.target.ConnString("postgres"), `CREATE ROLE leaver`)
	pgtest.Exec(m.t, m.sourceURI(), `GRANT CONNECT ON DATABASE app TO leaver`,
		`CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
	for _, table := range []string{"a_gone_index", "b_dropped", "c_renamed", "d_changed", "e_plain"} {
		table = "app." + table
		pgtest.Exec(m.t, m.sourceURI(), `CREATE TABLE `+table+` (a int NOT NULL)`, `INSERT INTO `+table+` VALUES (1), (2)`,
			`CREATE TRIGGER always_one AFTER INSERT ON `+table+` FOR EACH ROW EXECUTE PROCEDURE app.nothing()`,
			`CREATE TRIGGER always_two AFTER INSERT ON `+table+` FOR EACH ROW EXECUTE PROCEDURE app.nothing()`,
			`ALTER TABLE `+table+` ENABLE ALWAYS TRIGGER always_one`, `ALTER TABLE `+table+` ENABLE ALWAYS TRIGGER always_two`)
	}
	pgtest.Exec(m.t, m.sourceURI(), `CREATE UNIQUE INDEX gone ON app.a_gone_index (a)`,
		`ALTER TABLE app.a_gone_index REPLICA IDENTITY USING INDEX gone`, `DROP INDEX app.gone`)
	m.result(0, "start")
}

// people does what people do to a side.
func people(t *testing.T, conn postgres.DB) {
	t.Helper()
	for _, sql := range []string{
		`SET default_transaction_read_only = off`,
		`DROP TABLE app.b_dropped`,
		`ALTER TABLE app.c_renamed RENAME TO c_other`,
		`ALTER TABLE app.d_changed REPLICA IDENTITY NOTHING`,
		`DROP TRIGGER always_one ON app.e_plain`,
		`ALTER TRIGGER always_two ON app.d_changed RENAME TO renamed`,
		`CREATE SUBSCRIPTION someone CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false, slot_name = NONE)`,
	} {
		mustExec(t, conn, sql)
	}
}

// asBefore requires a side to be as it was, but for what people did.
func asBefore(t *testing.T, conn postgres.DB) {
	t.Helper()
	identities := pgtest.QueryValue[string](t, conn, `SELECT string_agg(relname || ' ' || relreplident::text, ', ' ORDER BY relname)
		FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r' AND relname ~ '^[a-e]_'`)
	if want := "a_gone_index d, c_other d, d_changed n, e_plain d"; identities != want {
		t.Errorf("replica identities: %s; want %s", identities, want)
	}
	if n := pgtest.QueryValue[int](t, conn, `SELECT count(*)::int FROM pg_trigger WHERE NOT tgisinternal AND tgname IN ('always_one', 'always_two', 'renamed') AND tgenabled <> 'A'`); n != 0 {
		t.Errorf("%d triggers are not ENABLE ALWAYS", n)
	}
	if n := pgtest.QueryValue[int](t, conn, `SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgbaton')::int
		+ (SELECT count(*) FROM pg_publication)::int + (SELECT count(*) FROM pg_subscription WHERE subname <> 'someone')::int
		+ (SELECT count(*) FROM pg_replication_slots)::int`); n != 0 {
		t.Errorf("%d things of ours are left", n)
	}
}

// said requires that each text is in exactly one of the notes.
func said(t *testing.T, result map[string]any, texts ...string) {
	t.Helper()
	var notes []string
	for _, n := range result["left"].([]any) {
		notes = append(notes, n.(map[string]any)["text"].(string))
	}
	if len(notes) != len(texts) {
		t.Errorf("left: %q", notes)
	}
	for _, text := range texts {
		if !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, text) }) {
			t.Errorf("nothing of %q in %q", text, notes)
		}
	}
}

// TestPutBackByItself: finish and reset put each thing back by itself, and say once
// what cannot be.
func TestPutBackByItself(t *testing.T) {
	t.Parallel()
	t.Run("finish", func(t *testing.T) {
		t.Parallel()
		m := newMove(t, 13, 15)
		m.disturbed()
		// Nothing depends on a role that the fence has taken its grant from.
		pgtest.Exec(t, m.target.ConnString("postgres"), `DROP ROLE leaver`)
		m.run(0, "switchover", "--yes")
		if sides := m.writable(t.Context()); !slices.Equal(sides, []string{"target"}) {
			t.Fatalf("writable: %v", sides)
		}
		pgtest.Exec(t, m.source.ConnString("postgres"), `DROP ROLE leaver`, `ALTER DATABASE app OWNER TO postgres`)
		source, target := pgtest.Connect(t, m.sourceURI()), pgtest.Connect(t, m.targetURI())
		people(t, source)
		people(t, target)
		mustExec(t, target, `DO $$DECLARE p text; BEGIN FOR p IN SELECT pubname FROM pg_publication LOOP EXECUTE format('DROP PUBLICATION %I', p); END LOOP; END$$`)
		said(t, m.result(0, "finish", "--yes", "--unfence"), `source: role "leaver"`, `source: replica identity of "app"."a_gone_index"`, `target: replica identity of "app"."a_gone_index"`)
		asBefore(t, source)
		asBefore(t, target)
		said(t, m.result(0, "finish", "--yes"))
	})
	t.Run("reset", func(t *testing.T) {
		t.Parallel()
		m := newMove(t, 13, 17)
		pgtest.Exec(t, m.target.ConnString("postgres"), `CREATE ROLE of_public`, `CREATE DATABASE app`)
		pgtest.Exec(t, m.targetURI(), `GRANT USAGE ON SCHEMA public TO of_public`)
		m.disturbed()
		source, target := pgtest.Connect(t, m.sourceURI()), pgtest.Connect(t, m.targetURI())
		people(t, source)
		mustExec(t, target, `SET default_transaction_read_only = off`)
		mustExec(t, target, `REVOKE USAGE ON SCHEMA public FROM of_public`)
		mustExec(t, target, `DROP ROLE of_public`)
		said(t, m.result(0, "reset", "--yes"), `source: replica identity of "app"."a_gone_index"`, `of_public`)
		asBefore(t, source)
		if n := pgtest.QueryValue[int](t, target, `SELECT count(*)::int FROM pg_namespace WHERE nspname IN ('app', 'pgbaton')`); n != 0 {
			t.Errorf("%d schemas are left on the target", n)
		}
		said(t, m.result(0, "reset", "--yes"))
	})
}
