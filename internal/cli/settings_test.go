package cli_test

import (
	"path/filepath"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// TestSettingsTheTargetRefuses: settings of the database, of roles, and of roles in
// the database arrive as they are; what the target does not take is left out, and
// named.
func TestSettingsTheTargetRefuses(t *testing.T) {
	t.Parallel()
	m := newMove(t, 12, 17)
	m.load(`CREATE TABLE public.t (i int PRIMARY KEY)`, `CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'`)
	library := filepath.Join(m.source.BinDir(), "..", "lib", "postgresql", "plpgsql.so") // 17 cannot load it
	taken := []string{
		`DATABASE app SET temp_tablespaces = ''`,
		`DATABASE app SET search_path = "$user", 'public', 'a "quoted", name'`,
		`DATABASE app SET work_mem = '7MB'`,
		`DATABASE app SET my.own = 'it''s \ "mine", 1'`,
		`ROLE reader SET search_path = ''`,
		`ROLE reader IN DATABASE app SET temp_tablespaces = ''`,
	}
	refused := []string{
		`DATABASE app SET operator_precedence_warning = off`,
		`DATABASE app SET session_preload_libraries = '` + library + `'`,
		`ROLE reader SET force_parallel_mode = on`,
		`ROLE reader SET session_preload_libraries = 'plpgsql', '` + library + `'`,
		`ROLE reader IN DATABASE app SET vacuum_cleanup_index_scale_factor = 1`,
	}
	pgtest.Exec(t, m.sourceURI(), `CREATE ROLE reader LOGIN`)
	settings := `SELECT coalesce(pg_catalog.string_agg(line, E'\n' ORDER BY line), '') FROM (
		SELECT format('%s %s %s', setdatabase <> 0, coalesce(setrole::regrole::text, ''), unnest(setconfig)) AS line
		FROM pg_db_role_setting WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = 'app'))) s
		WHERE line NOT LIKE '%default_transaction_read_only%'`
	for _, s := range taken {
		pgtest.Exec(t, m.sourceURI(), `ALTER `+s)
	}
	// A list without any name; SET cannot say it.
	pgtest.Exec(t, m.sourceURI(), `DO $$BEGIN PERFORM set_config('search_path', '', true); ALTER ROLE reader IN DATABASE app SET search_path FROM CURRENT; END$$`)
	want := pgtest.QueryValue[string](t, pgtest.Connect(t, m.sourceURI()), settings)
	for _, s := range refused {
		pgtest.Exec(t, m.sourceURI(), `ALTER `+s)
	}
	r := m.run(0, "start", "--roles")
	for _, name := range []string{"operator_precedence_warning", "session_preload_libraries", "force_parallel_mode", "vacuum_cleanup_index_scale_factor", library} {
		if !strings.Contains(r.Stderr, name) {
			t.Errorf("no warning names %s:\n%s", name, r.Stderr)
		}
	}
	if got := pgtest.QueryValue[string](t, pgtest.Connect(t, m.targetURI()), settings); got != want {
		t.Errorf("the target's settings are\n%s\nwant\n%s", got, want)
	}
	// What 17 has in its place, as the hint begins.
	set, _, found := strings.Cut(strings.TrimPrefix(hintBelow(t, r.Stderr, "setting force_parallel_mode"), "if it is still needed, "), " what the target has in its place, there")
	if !found {
		t.Errorf("%q", set)
	}
	pgtest.Exec(t, m.target.ConnString("postgres"), set+` debug_parallel_query = on`)
	if on := pgtest.QueryValue[string](t, pgtest.Connect(t, m.target.ConnStringAs("reader", "", "postgres")), `SHOW debug_parallel_query`); on != "on" {
		t.Errorf("after %s: %s", set, on)
	}
}

// TestFunctionTheTargetRefuses: a function that cannot be brought up to the source's is
// told by each start, until somebody has changed it on the target as said.
func TestFunctionTheTargetRefuses(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 17)
	change := []string{`DROP FUNCTION IF EXISTS f()`, `CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT NULL::text'`}
	m.load(`CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'`, `CREATE TABLE t (i int PRIMARY KEY)`)
	m.run(0, "start")
	pgtest.Exec(t, m.sourceURI(), change...)
	const says = "function public.f() was changed on the source since an earlier run"
	hint := hintBelow(t, m.run(0, "start").Stderr, says)
	setting, _, found := strings.Cut(strings.TrimPrefix(hint, "change it on the target by hand, as pgbaton's role, after "), "; or ")
	if !found {
		t.Fatal(hint)
	}
	pgtest.Exec(t, m.targetURI(), append([]string{setting}, change...)...)
	if r := m.run(0, "start"); strings.Contains(r.Stderr, says) {
		t.Errorf("the remedy does not help:\n%s", r)
	}
}

// TestTargetDatabaseNotMade: what fails before there is a session on the target
// database is told; one that start made and nobody can connect to is dropped from
// another database.
func TestTargetDatabaseNotMade(t *testing.T) {
	t.Parallel()
	m := newMove(t, 12, 17)
	m.load(`CREATE TABLE public.t (i int PRIMARY KEY)`)
	postgres := pgtest.Connect(t, m.target.ConnString("postgres"))
	mustExec(t, postgres, `ALTER DATABASE template0 ALLOW_CONNECTIONS true`)
	inTheWay := pgtest.Connect(t, m.target.ConnString("template0"))
	r := m.run(1, "start")
	if hint := hintBelow(t, r.Stderr, `"template0" is being accessed by other users`); hint != "create the database, empty, by hand, then run start again" {
		t.Error(hint)
	}
	mustExec(t, postgres, `CREATE DATABASE app`)
	m.run(0, "start")
	m.run(0, "reset", "--yes")
	mustExec(t, postgres, `DROP DATABASE app`)
	m.run(1, "start")
	inTheWay.Close(t.Context())

	source := pgtest.Connect(t, m.sourceURI())
	if pgtest.QueryValue[bool](t, source, `SELECT EXISTS (SELECT FROM pgbaton.journal WHERE kind = 'target-database')`) {
		t.Error("start believes to have made the database")
	}
	// As after a death between making the database and entering it.
	mustExec(t, source, `INSERT INTO pgbaton.journal (kind, key, value) VALUES ('target-database', 'created', '"app"')`)
	source.Close(t.Context())
	mustExec(t, postgres, `CREATE DATABASE app`)
	const locked = `ALTER DATABASE app SET session_preload_libraries = 'no_such_library'`
	mustExec(t, postgres, locked)
	if r := m.run(1, "start"); !strings.Contains(r.Stderr, "no_such_library") {
		t.Errorf("start does not say why:\n%s", r.Stderr)
	}
	if r := m.result(0, "reset", "--yes"); r["dropped"] != "app" || len(r["left"].([]any)) != 0 {
		t.Errorf("reset: %v", r)
	}
	exists := func() bool {
		return pgtest.QueryValue[bool](t, postgres, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'app')`)
	}
	if exists() {
		t.Error("the target database is still there")
	}

	if s := m.result(0, "start"); s["phase"] != "streaming" {
		t.Fatalf("start: %v", s)
	}
	mustExec(t, postgres, locked) // now there are rows in it
	if r := m.result(0, "reset", "--yes", "--drop-database"); r["dropped"] != nil || len(r["left"].([]any)) == 0 || !exists() {
		t.Errorf("reset: %v", r)
	}
}
