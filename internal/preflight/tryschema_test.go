package preflight_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/preflight"
)

// TestTrySchema: what the target cannot restore is found without a trace, in a
// database that is there as in one that is still to be made; what a dead process has
// left is removed; and who may not create a database is told so.
func TestTrySchema(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 12), pgtest.Start(t, 17)
	pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE app`, `ALTER DATABASE app SET check_function_bodies = off`)
	pgtest.Exec(t, target.ConnString("postgres"), `CREATE ROLE plain LOGIN`, `GRANT pg_monitor, pg_create_subscription TO plain`)
	pgtest.Exec(t, source.ConnString("app"), `CREATE TABLE t (i int PRIMARY KEY, x text)`,
		`CREATE FUNCTION later() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM nowhere'`)
	try := func(o options, how preflight.TrySchema) preflight.Report {
		t.Helper()
		in := input(t, source, target, o)
		in.TrySchema = how
		r := runInput(t, in)
		if n := value[int](t, target.ConnString("postgres"), `SELECT count(*)::int FROM pg_database WHERE datname LIKE 'pgbaton%'`); n != 0 {
			t.Errorf("%d throw-away databases are left", n)
		}
		return r
	}
	for _, exists := range []bool{false, true} {
		if exists {
			pgtest.Exec(t, target.ConnString("postgres"), `CREATE DATABASE app`)
			pgtest.Exec(t, target.ConnString("app"), `ALTER DATABASE app SET check_function_bodies = off`)
		}
		pgtest.Exec(t, source.ConnString("app"), `DROP VIEW IF EXISTS "Old view"`)
		r := try(options{db: "app"}, preflight.TryFew)
		wantNot(t, r, "schema-restore", tgt)
		wantNot(t, r, "schema-untried", tgt)
		pgtest.Exec(t, source.ConnString("app"), `CREATE VIEW "Old view" AS SELECT datname, datlastsysoid FROM pg_database`)
		wantNot(t, try(options{db: "app"}, preflight.TryNever), "schema-restore", tgt)
		f := want(t, try(options{db: "app"}, preflight.TryAlways), "schema-restore", tgt, blocker)
		if !strings.Contains(f.Text, `VIEW "public.Old view"`) || !strings.Contains(f.Text, "datlastsysoid") || strings.Contains(f.Text, "\n") {
			t.Errorf("%+v", f)
		}
	}
	if n := len(slices.DeleteFunc(try(options{db: "app"}, preflight.TryAlways).Findings, func(f preflight.Finding) bool { return f.Code != "schema-restore" })); n != 1 {
		t.Errorf("one view is told %d times", n)
	}
	pgtest.Exec(t, target.ConnString("postgres"), `CREATE DATABASE pgbaton_try_0123456789ab`)
	try(options{db: "app"}, preflight.TryNever)

	r := try(options{db: "app", targetUser: "plain"}, preflight.TryFew)
	if f := want(t, r, "schema-untried", tgt, info); !strings.Contains(f.Remedy, `ALTER ROLE "plain" CREATEDB`) {
		t.Errorf("%+v", f)
	}
	apply(t, target.ConnString("postgres"), find(r, "schema-untried", tgt).Remedy)
	wantNot(t, try(options{db: "app", targetUser: "plain"}, preflight.TryAlways), "schema-untried", tgt)

	pgtest.Exec(t, source.ConnString("app"), `DO $$ BEGIN FOR i IN 1..1001 LOOP EXECUTE format('CREATE SEQUENCE s%s', i); END LOOP; END $$`)
	if f := want(t, try(options{db: "app"}, preflight.TryFew), "schema-untried", tgt, info); !strings.Contains(f.Text, "objects are more") {
		t.Errorf("%+v", f)
	}

	// Its lock is in one database for all; without that one, nobody could tell a trial
	// from what a dead process left.
	pgtest.Exec(t, source.ConnString("app"), `DROP VIEW "Old view"`)
	pgtest.Exec(t, target.ConnString("app"), `ALTER DATABASE postgres ALLOW_CONNECTIONS false`)
	in := input(t, source, target, options{db: "app"})
	in.TrySchema = preflight.TryAlways
	if f := want(t, runInput(t, in), "schema-untried", tgt, warn); !strings.Contains(f.Text, `/postgres`) {
		t.Errorf("%+v", f)
	}
}

// TestTrySchemaExtensions: an extension that the server allows in one database only,
// as pg_cron, and what needs it, keep nobody from starting.
func TestTrySchemaExtensions(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "pgbaton-extension-") // the server's account must get there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.MkdirAll(filepath.Join(dir, "extension"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"only_here.control": "default_version = '1.0'\n", "only_here--1.0.sql": `
DO $$ BEGIN
	IF pg_catalog.current_database() <> 'app' THEN RAISE 'can only create extension in database app'; END IF;
END $$;
CREATE DOMAIN @extschema@.job AS text;`} {
		if err := os.WriteFile(filepath.Join(dir, "extension", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := map[string]string{"extension_control_path": "$system:" + dir}
	source, target := pgtest.Start(t, 18, path), pgtest.Start(t, 18, path)
	pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE app`)
	pgtest.Exec(t, source.ConnString("app"), `CREATE EXTENSION only_here`, `COMMENT ON EXTENSION only_here IS 'jobs'`,
		`CREATE TABLE jobs (i int PRIMARY KEY, j job)`)
	for _, exists := range []bool{false, true} {
		if exists {
			pgtest.Exec(t, target.ConnString("postgres"), `CREATE DATABASE app`)
			pgtest.Exec(t, target.ConnString("app"), `CREATE EXTENSION only_here`)
		}
		in := input(t, source, target, options{db: "app"})
		in.TrySchema = preflight.TryFew
		r := runInput(t, in)
		if blockers := r.Blockers(); len(blockers) > 0 {
			t.Errorf("blockers: %+v", blockers)
		}
		f := want(t, r, "schema-untried", tgt, warn)
		if len(f.Objects) != 1 || !strings.Contains(f.Objects[0], `EXTENSION "only_here": ERROR: can only create extension in database app`) || !strings.Contains(f.Remedy, "--try-schema=false") {
			t.Errorf("%+v", f)
		}
		if f := want(t, r, "schema-restore", tgt, warn); !strings.Contains(f.Text, `TABLE "public.jobs"`) {
			t.Errorf("%+v", f)
		}
		in = input(t, source, target, options{db: "app"}) // the remedy
		wantNot(t, runInput(t, in), "schema-untried", tgt)
	}
}

// TestTrySchemaRights: a dump that the source refuses, and a throw-away database that
// cannot be removed, are told; where it says how, neither is there any more.
func TestTrySchemaRights(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 12), pgtest.Start(t, 17)
	pgtest.Exec(t, source.ConnString("postgres"), `CREATE ROLE mover LOGIN REPLICATION`, `CREATE ROLE keeper`, `GRANT pg_monitor TO mover`, `CREATE DATABASE app OWNER mover`)
	pgtest.Exec(t, source.ConnString("app"), `CREATE TABLE t (i int PRIMARY KEY)`, `ALTER TABLE t OWNER TO keeper`)
	pgtest.Exec(t, target.ConnString("postgres"), `CREATE ROLE maker LOGIN REPLICATION CREATEDB`, `GRANT pg_monitor, pg_signal_backend, pg_create_subscription TO maker`)
	try := func() preflight.Report {
		t.Helper()
		in := input(t, source, target, options{db: "app", user: "mover", targetUser: "maker"})
		in.TrySchema = preflight.TryAlways
		return runInput(t, in)
	}
	r := try()
	f := want(t, r, "schema-archive", src, blocker)
	if !strings.Contains(f.Text, "permission denied for table t") || f.Remedy != "remove what pg_dump complains about; missing privileges are findings of their own" {
		t.Errorf("%+v", f)
	}
	apply(t, source.ConnString("app"), want(t, r, "privilege-owner", src, blocker).Remedy)
	wantNot(t, try(), "schema-archive", src)

	pgtest.Exec(t, target.ConnString("postgres"), `CREATE DATABASE pgbaton_try_0123456789ab OWNER maker`)
	visitor := pgtest.Hold(t, target.ConnString("pgbaton_try_0123456789ab")) // maker may not end a superuser's session
	f = want(t, try(), "throw-away-database", tgt, warn)
	drop, says := strings.CutPrefix(f.Remedy, "end the sessions in it, then ")
	if !says || !strings.Contains(f.Text, `dropping the throw-away database "pgbaton_try_0123456789ab"`) {
		t.Errorf("%+v", f)
	}
	visitor.Release()
	apply(t, target.ConnStringAs("maker", "", "postgres"), drop)
	wantNot(t, try(), "throw-away-database", tgt)
}
