package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// dump is what pg_dump and pg_dumpall say of a database's definitions and its
// cluster's roles, without what differs from run to run.
func dump(t *testing.T, c *cluster.Cluster, db string) string {
	t.Helper()
	var text strings.Builder
	for _, args := range [][]string{
		{"pg_dump", "--schema-only", "--create", "--dbname=" + c.ConnString(db)},
		{"pg_dumpall", "--globals-only", "--dbname=" + c.ConnString("postgres")},
	} {
		out, err := exec.Command(filepath.Join(c.BinDir(), args[0]), args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, `\restrict`) && !strings.HasPrefix(line, `\unrestrict`) {
				text.WriteString(line)
			}
		}
	}
	for _, q := range []string{"slot_name FROM pg_replication_slots", "subname FROM pg_subscription", "external_id FROM pg_replication_origin_status"} {
		conn, err := pgx.Connect(t.Context(), c.ConnString("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		rows, err := conn.Query(t.Context(), "SELECT "+q)
		if err != nil {
			t.Fatal(err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(q + ": " + strings.Join(names, " ") + "\n")
		conn.Close(t.Context())
	}
	return text.String()
}

func equal(t *testing.T, what, before, after string) {
	t.Helper()
	if before == after {
		return
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"before": before, "after": after} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	diff, _ := exec.Command("diff", "-U2", filepath.Join(dir, "before"), filepath.Join(dir, "after")).Output()
	t.Errorf("%s is not as it was:\n%s", what, diff)
}

// TestResetLeavesNothing: after start and reset both sides are as they were,
// whether the target database was there, empty, or was made by start.
func TestResetLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"stream", "native", "dump"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			m := newMove(t, 12, 17)
			m.load(pgtest.NastySQL(12), `REVOKE CONNECT ON DATABASE app FROM PUBLIC; GRANT CONNECT ON DATABASE app TO postgres`)
			if method == "native" {
				pgtest.Exec(t, m.sourceURI(), nativeCannot)
			}
			// The roles exist on the target: a DBA made them.
			for _, role := range []string{`"nasty owner"`, `"nasty ""reader""; --"`} {
				pgtest.Exec(t, m.target.ConnString("postgres"), `CREATE ROLE `+role)
			}
			pgtest.Exec(t, m.target.ConnString("postgres"), `CREATE DATABASE app`, `GRANT CREATE ON DATABASE app TO "nasty owner"`)
			pgtest.Exec(t, m.targetURI(), `COMMENT ON SCHEMA public IS 'ours'`)
			source, target := dump(t, m.source, m.db), dump(t, m.target, m.db)
			m.run(0, "start", "--method", method)
			m.run(0, "reset", "--yes")
			equal(t, "the source", source, dump(t, m.source, m.db))
			equal(t, "the target", target, dump(t, m.target, m.db))
			if s := m.result(0, "status"); s["phase"] != "new" {
				t.Errorf("after reset: %v", s)
			}
			m.run(0, "reset", "--yes") // nothing to do is no failure

			pgtest.Exec(t, m.target.ConnString("postgres"), `DROP DATABASE app`)
			for _, role := range []string{`"nasty owner"`, `"nasty ""reader""; --"`} {
				pgtest.Exec(t, m.target.ConnString("postgres"), `DROP ROLE `+role)
			}
			cluster := dump(t, m.target, "postgres")
			m.run(0, "start", "--method", method, "--roles")
			m.run(0, "reset", "--yes", "--drop-database")
			equal(t, "the source", source, dump(t, m.source, m.db))
			equal(t, "the target's cluster", cluster, dump(t, m.target, "postgres"))
			exists := pgtest.QueryValue[bool](t, pgtest.Connect(t, m.target.ConnString("postgres")), `SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'app')`)
			if exists {
				t.Error("the database that start made is still there")
			}
		})
	}
}

// TestFinishLeavesNothing: after finish the target is what the source was, the
// source is as it was but for the fence, and the printed SQL lifts that.
func TestFinishLeavesNothing(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 15)
	m.loadApp()
	pgtest.Exec(t, m.source.ConnStringAs("app", "", m.db), `CREATE TABLE app.keyless (a int NOT NULL, b text)`,
		`CREATE TABLE app.by_index (a int NOT NULL UNIQUE)`)
	pgtest.Exec(t, m.sourceURI(), `CREATE ROLE other; GRANT CONNECT ON DATABASE app TO other WITH GRANT OPTION`,
		`ALTER DATABASE app SET work_mem = '7MB'`)
	pgtest.Exec(t, m.target.ConnString("postgres"), `CREATE ROLE other`)
	before := dump(t, m.source, m.db)
	m.run(0, "start")
	m.run(3, "finish", "--yes")
	m.run(0, "switchover", "--yes")
	m.run(3, "reset", "--yes")
	result := m.result(0, "finish", "--yes")
	var lift []string
	for _, s := range result["unfence"].([]any) {
		lift = append(lift, s.(string))
	}
	if sides := m.writable(t.Context()); len(sides) != 1 || sides[0] != "target" {
		t.Errorf("writable after finish: %v", sides)
	}
	pgtest.Exec(t, m.source.ConnString("postgres"), strings.Join(lift, ";"))
	equal(t, "the source", before, dump(t, m.source, m.db))

	// The target's definitions are the source's: a dump of either, by the same
	// program, shows it.
	for _, relation := range []string{"app.keyless", "app.by_index"} {
		conn := pgtest.Connect(t, m.targetURI())
		if id := pgtest.QueryValue[string](t, conn, `SELECT relreplident::text FROM pg_class WHERE oid = $1::regclass`, relation); id != "d" {
			t.Errorf("%s has replica identity %q on the target", relation, id)
		}
	}
	conn := pgtest.Connect(t, m.targetURI())
	acl := `SELECT datacl::text || datdba::regrole::text || (SELECT setconfig::text FROM pg_db_role_setting WHERE setdatabase = d.oid) FROM pg_database d WHERE datname = 'app'`
	was := pgtest.QueryValue[string](t, pgtest.Connect(t, m.sourceURI()), acl)
	if is := pgtest.QueryValue[string](t, conn, acl); is != was {
		t.Errorf("the database's grants, owner and settings are %s, on the source %s", is, was)
	}
}

// TestOneSideGone: reset and finish clean the side that is there, and say what
// they could not clean.
func TestOneSideGone(t *testing.T) {
	t.Parallel()
	t.Run("reset without the target", func(t *testing.T) {
		t.Parallel()
		m, w := streaming(t, 13, 17)
		w.Stop()
		if err := m.target.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := m.result(0, "status"); s["target"].(map[string]any)["reachable"] != false {
			t.Errorf("%v", s)
		}
		if r := m.result(0, "reset", "--yes"); len(r["left"].([]any)) == 0 {
			t.Errorf("reset does not say what is left: %v", r)
		}
		source := pgtest.Connect(t, m.sourceURI())
		if n := pgtest.QueryValue[int](t, source, `SELECT (SELECT count(*) FROM pg_replication_slots)::int + (SELECT count(*) FROM pg_publication)::int
			+ (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgbaton')::int`); n != 0 {
			t.Errorf("%d things of ours are left on the source", n)
		}
		if err := m.target.Restart(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		m.refusedUntil(map[string]string{"the target has a record of this migration and the source has none": "pgbaton reset removes what is left of an earlier run"},
			func() { m.run(0, "reset", "--yes") }, "plan") // the target is back: now it is cleaned, too
		target := pgtest.Connect(t, m.targetURI())
		if n := pgtest.QueryValue[int](t, target, `SELECT (SELECT count(*) FROM pg_subscription)::int + (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgbaton')::int`); n != 0 {
			t.Errorf("%d things of ours are left on the target", n)
		}
	})
	t.Run("reset without the source", func(t *testing.T) {
		t.Parallel()
		m, w := streaming(t, 13, 17)
		w.Stop()
		if err := m.source.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := m.result(0, "reset", "--yes"); len(r["left"].([]any)) == 0 {
			t.Errorf("reset does not say what is left: %v", r)
		}
		// The source might have passed the baton: the target's rows are kept.
		target := pgtest.Connect(t, m.targetURI())
		if n := pgtest.QueryValue[int](t, target, `SELECT count(*)::int FROM app.filler`); n != 20000 {
			t.Errorf("%d rows are left on the target", n)
		}
		if n := pgtest.QueryValue[int](t, target, `SELECT count(*)::int FROM pg_subscription`); n != 0 {
			t.Error("the subscription is left")
		}
		if sides := m.writable(t.Context()); len(sides) != 0 {
			t.Errorf("the source may be serving, and yet %v can be written to", sides)
		}
		if err := m.source.Restart(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		m.run(0, "reset", "--yes")
		for _, uri := range []string{m.sourceURI(), m.targetURI()} {
			if n := pgtest.QueryValue[int](t, pgtest.Connect(t, uri), `SELECT count(*)::int FROM pg_namespace WHERE nspname = 'pgbaton'`); n != 0 {
				t.Error("schema pgbaton is left")
			}
		}
	})
	t.Run("finish without the source", func(t *testing.T) {
		t.Parallel()
		m, w := streaming(t, 13, 17)
		w.Stop()
		m.run(0, "switchover", "--yes")
		if err := m.source.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := m.result(0, "finish", "--yes"); len(r["left"].([]any)) == 0 {
			t.Errorf("finish does not say what is left: %v", r)
		}
		if sides := m.writable(t.Context()); len(sides) != 1 || sides[0] != "target" {
			t.Errorf("writable after finish: %v", sides)
		}
		if err := m.source.Restart(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		m.run(0, "status")
		r := m.result(0, "finish", "--yes")
		if len(r["left"].([]any)) != 0 || r["fenced"] != "source" {
			t.Errorf("finish with the source back: %v", r)
		}
		var lift []string
		for _, s := range r["unfence"].([]any) {
			lift = append(lift, s.(string))
		}
		pgtest.Exec(t, m.sourceURI(), strings.Join(lift, ";")) // in the fenced database itself
		if sides := m.writable(t.Context()); len(sides) != 2 {
			t.Errorf("writable after the fence was lifted by hand: %v", sides)
		}
	})
	t.Run("finish without the target", func(t *testing.T) {
		t.Parallel()
		m, w := streaming(t, 13, 17)
		w.Stop()
		m.run(0, "switchover", "--yes")
		if err := m.target.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.run(3, "finish", "--yes") // the source's record keeps the source closed
	})
}

// TestResetWithWrongSource: when the true source may have passed the baton, a
// reset that is given another one must not empty the target.
func TestResetWithWrongSource(t *testing.T) {
	t.Parallel()
	m, w := streaming(t, 13, 17)
	w.Stop()
	m.kill(`"phase_ended","phase":"pass"`, "switchover", "--yes", "--on-switch", "sleep 5")
	pgtest.Exec(t, m.source.ConnString("postgres"), `CREATE DATABASE another`)
	m.env = []string{"PGBATON_SOURCE=" + m.source.ConnString("another"), "PGBATON_TARGET=" + m.targetURI()}
	m.run(3, "reset", "--yes")
	target := pgtest.Connect(t, m.targetURI())
	if n := pgtest.QueryValue[int](t, target, `SELECT count(*)::int FROM app.filler`); n != 20000 {
		t.Errorf("%d rows are left on the target", n)
	}
	m.env = nil
	m.run(0, "switchover", "--yes")
}

// TestOneOperator: a second command that changes something is refused while one
// is at work, and not any more when that one is gone.
func TestOneOperator(t *testing.T) {
	t.Parallel()
	m := newMove(t, 15, 18)
	m.loadApp()
	p := pgtest.Spawn(t, m.options("start", "--json"))
	p.AwaitStdout(t, `"step":"replica identities"`)
	p.Signal(t, syscall.SIGINT)
	if r := p.Wait(t); r.Code != 1 || !strings.Contains(r.Stdout, "run the same command again") {
		t.Errorf("interrupted: %s", r)
	}
	m.run(0, "start")

	gate := fifo(t)
	p = pgtest.Spawn(t, m.options("switchover", "--yes", "--json", "--max-pause", "1m", "--on-pause", "echo paused; read _ <"+gate))
	p.AwaitStderr(t, "paused")
	for _, command := range [][]string{{"start"}, {"pause"}, {"reset", "--yes"}} {
		if r := m.run(3, command...); !strings.Contains(r.Stderr, "another pgbaton is at work") {
			t.Errorf("%s", r)
		}
	}
	open(t, gate)
	if r := p.Wait(t); r.Code != 0 {
		t.Errorf("%s", r)
	}
	m.run(0, "finish", "--yes")
}

// TestTargetDiesInCopy: a target that goes away in the middle of the copy is
// named, nothing is left half-made without status showing it, and the same
// command again ends well.
func TestTargetDiesInCopy(t *testing.T) {
	t.Parallel()
	m := newMove(t, 12, 17)
	m.loadApp()
	pgtest.Exec(t, m.sourceURI(), `CREATE TABLE app.big AS SELECT i, repeat(i::text, 20) t FROM generate_series(1, 1000000) i`)
	options := m.options("start", "--json")
	options.Timeout = 4 * time.Minute // it waits two for the server
	p := pgtest.Spawn(t, options)
	p.AwaitStdout(t, `"step_began","step":"rows, indexes, keys"`)
	if err := m.target.Kill(); err != nil {
		t.Fatal(err)
	}
	r := p.Wait(t)
	if r.Code != 1 || !strings.Contains(r.Stdout, `"side":"target"`) {
		t.Fatalf("%s", r)
	}
	if s := m.result(0, "status"); s["phase"] != "copying" {
		t.Errorf("with the target gone: %v", s)
	}
	if err := m.target.Restart(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s := m.result(0, "status")
	if f := s["findings"].([]any); s["phase"] != "copying" || len(f) == 0 {
		t.Errorf("with the target back: %v", s)
	}
	m.run(0, "start")
	m.run(0, "switchover", "--yes")
	m.same()
}
