package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// TestDumpDir: the archive of method dump can be kept, is made anew when start
// begins anew, and nothing else is ever removed for it.
func TestDumpDir(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 17)
	m.loadApp()
	dir := filepath.Join(t.TempDir(), "archive")
	m.run(0, "start", "--method", "dump", "--dump-dir", dir)
	if _, err := os.Stat(filepath.Join(dir, "toc.dat")); err != nil {
		t.Fatal(err)
	}
	m.run(0, "reset", "--yes", "--drop-database")
	m.run(0, "start", "--method", "dump", "--dump-dir", dir)
	m.run(0, "reset", "--yes", "--drop-database")

	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := m.run(3, "start", "--method", "dump", "--dump-dir", other); !strings.Contains(r.Stderr, "holds no pg_dump archive") {
		t.Errorf("%s", r)
	}
	if _, err := os.Stat(filepath.Join(other, "precious")); err != nil {
		t.Fatal(err)
	}
	m.run(0, "start", "--method", "dump", "--dump-dir", dir) // the refused run is continued
	m.run(0, "switchover", "--yes")
	m.same()
}

// TestHold: with --hold the subscription is there and disabled, for each method;
// resume lets it run.
func TestHold(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"stream", "native", "dump"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			m := newMove(t, 12, 15)
			m.loadApp()
			if r := m.result(0, "start", "--hold", "--method", method); r["phase"] != "held" {
				t.Fatalf("%v", r)
			}
			pgtest.Exec(t, m.source.ConnStringAs("app", "", m.db), `INSERT INTO public.probe DEFAULT VALUES`)
			s := m.result(0, "status")
			if s["phase"] != "held" || s["lag_bytes"] != nil || s["lag_seconds"] != nil {
				t.Errorf("held: %v", s)
			}
			target := pgtest.Connect(t, m.targetURI())
			if n := pgtest.QueryValue[int](t, target, `SELECT count(*)::int FROM public.probe`); n != 0 {
				t.Errorf("%d rows have arrived", n)
			}
			m.run(0, "resume")
			if r := m.result(0, "start", "--method", method); r["phase"] != "streaming" {
				t.Fatalf("%v", r)
			}
			if n := pgtest.QueryValue[bool](t, target, `SELECT (SELECT reltuples FROM pg_class WHERE oid = 'app.filler'::regclass) = 20000`); !n {
				t.Error("there are no statistics")
			}
			m.run(0, "switchover", "--yes")
			m.same()
		})
	}
}

// TestDatabaseProperties: encoding, locale, owner, settings, comment and grants
// of the target database are the source's.
func TestDatabaseProperties(t *testing.T) {
	t.Parallel()
	m := newMove(t, 12, 17)
	for _, c := range []string{m.source.ConnString("postgres"), m.target.ConnString("postgres")} {
		pgtest.Exec(t, c, `CREATE ROLE app LOGIN`, `CREATE ROLE reader LOGIN`)
	}
	pgtest.Exec(t, m.source.ConnString("postgres"),
		`CREATE DATABASE app OWNER app TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' CONNECTION LIMIT 50`,
		`COMMENT ON DATABASE app IS 'the shop''s'`, `ALTER DATABASE app SET search_path = "$user", public, "a b"`,
		`ALTER DATABASE app SET work_mem = '8MB'`, `ALTER ROLE reader IN DATABASE app SET statement_timeout = '1min'`,
		`REVOKE ALL ON DATABASE app FROM PUBLIC`, `GRANT CONNECT ON DATABASE app TO reader`)
	pgtest.Exec(t, m.sourceURI(), `CREATE TABLE t (i int PRIMARY KEY, "größe" text); INSERT INTO t VALUES (1, 'äöü')`)
	m.run(0, "start")
	pgtest.Exec(t, m.sourceURI(), `INSERT INTO t VALUES (2, 'ß')`)
	m.run(0, "switchover", "--yes")
	m.same()
	m.run(0, "finish", "--yes", "--unfence")
	properties := `SELECT concat_ws(' | ', pg_encoding_to_char(encoding), datcollate, datctype, datconnlimit, datdba::regrole, datacl,
			shobj_description(d.oid, 'pg_database'),
			(SELECT string_agg(coalesce(r.rolname, '') || ':' || s.setconfig::text, ' ' ORDER BY r.rolname) FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE s.setdatabase = d.oid))
		FROM pg_database d WHERE datname = 'app'`
	want := pgtest.QueryValue[string](t, pgtest.Connect(t, m.sourceURI()), properties)
	if got := pgtest.QueryValue[string](t, pgtest.Connect(t, m.targetURI()), properties); got != want {
		t.Errorf("the target database is\n%s, the source\n%s", got, want)
	}
}

// TestStatusDuringCopy: another process sees how far a copy is, with rate and
// what is left, and that somebody is at work.
func TestStatusDuringCopy(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 15)
	m.load(`CREATE TABLE big AS SELECT i, repeat(i::text, 20) AS t FROM generate_series(1, 2000000) i`)
	p := pgtest.Spawn(t, m.options("start", "--json"))
	p.AwaitStdout(t, `"step_began","step":"rows, indexes, keys"`)
	for {
		select {
		case <-p.Done():
			t.Fatal("the copy ended before status saw it in progress")
		default:
		}
		s := m.result(0, "status")
		if s["phase"] != "copying" {
			continue
		}
		copied, total := s["bytes_copied"].(float64), s["bytes_total"].(float64)
		if copied > 0 && copied < total && s["bytes_per_second"].(float64) > 0 && s["eta_seconds"].(float64) > 0 && s["working"] == true {
			break
		}
	}
	if r := p.Wait(t); r.Code != 0 {
		t.Fatalf("%s", r)
	}
}

// TestSource10: the oldest source moves, too; it does not publish TRUNCATE, so a
// table that was truncated keeps the handover from happening.
func TestSource10(t *testing.T) {
	t.Parallel()
	m := newMove(t, 10, 17)
	m.loadApp()
	app := m.source.ConnStringAs("app", "", m.db)
	w := pgtest.StartWriters(t.Context(), t, app, 2, pgtest.WritersOptions{Rate: 40})
	m.run(0, "start")
	pgtest.Exec(t, app, `TRUNCATE public.probe`)
	// Its definition is the same on both sides, and nothing but a new start helps.
	if r := m.run(3, "switchover", "--yes"); !strings.Contains(r.Stderr, `"public"."probe" was truncated or rewritten`) ||
		!strings.Contains(r.Stderr, "hint: pgbaton reset, then start again") {
		t.Errorf("%s", r)
	}
	if r := m.run(0, "status"); !strings.Contains(r.Stdout, `"public"."probe" was truncated or rewritten`) ||
		!strings.Contains(r.Stdout, "if it was a TRUNCATE, the target still has the rows") {
		t.Errorf("%s", r)
	}
	m.run(0, "reset", "--yes")
	m.run(0, "start")
	if err := w.Await(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	m.run(0, "switchover", "--yes")
	w.Stop()
	if problems := w.Check(t.Context(), pgtest.Connect(t, m.targetURI())); len(problems) > 0 {
		t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
	}
	m.run(0, "finish", "--yes")
}
