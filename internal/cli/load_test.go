package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// loadSQL makes tables of some size that foreign keys connect, partitions, small
// tables, and every kind of index and key that a load has to make.
const loadSQL = `
CREATE SCHEMA load;
CREATE FUNCTION load.twice(i bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
CREATE TABLE load.a (id bigint PRIMARY KEY, t text, n int, UNIQUE (n) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE load.b (id bigint PRIMARY KEY, a bigint REFERENCES load.a ON DELETE CASCADE, t text);
CREATE TABLE load.c (id bigint PRIMARY KEY, b bigint, t text);
ALTER TABLE load.c ADD CONSTRAINT "c's b" FOREIGN KEY (b) REFERENCES load.b DEFERRABLE;
CREATE TABLE load.d (id bigint, c bigint REFERENCES load.c, t text, span int4range, EXCLUDE USING gist (span WITH &&));
CREATE UNIQUE INDEX "d's identity" ON load.d (id) WHERE id IS NOT NULL;
CREATE INDEX d_t ON load.d USING hash (t) WITH (fillfactor = 60);
CREATE INDEX d_expression ON load.d (lower(t) text_pattern_ops DESC NULLS LAST, load.twice(id)) INCLUDE (c) WHERE id > 10;
ALTER INDEX load.d_expression ALTER COLUMN 1 SET STATISTICS 37;
CREATE STATISTICS load.d_stats (dependencies) ON id, c FROM load.d;
ALTER TABLE load.a CLUSTER ON a_pkey;
ALTER TABLE load.b REPLICA IDENTITY USING INDEX b_pkey;
CREATE TABLE load.p (id bigint, a bigint REFERENCES load.a, t text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE load.p1 PARTITION OF load.p FOR VALUES FROM (0) TO (10000);
CREATE TABLE load.p2 PARTITION OF load.p FOR VALUES FROM (10000) TO (20000);
CREATE TABLE load.p3 PARTITION OF load.p DEFAULT;
CREATE INDEX p_t ON load.p (t);
CREATE TABLE load.q (p bigint REFERENCES load.p, id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
CREATE TABLE load.parent (id int PRIMARY KEY, t text);
CREATE TABLE load.child (x int) INHERITS (load.parent);
CREATE TABLE load.bare ();
COMMENT ON CONSTRAINT "c's b" ON load.c IS 'kept';
COMMENT ON INDEX load.d_t IS 'kept too';
INSERT INTO load.a SELECT i, repeat('a' || i, 20), i FROM generate_series(1, 30000) i;
INSERT INTO load.b SELECT i, i, repeat('b' || i, 20) FROM generate_series(1, 30000) i;
INSERT INTO load.c SELECT i, i, repeat('c' || i, 20) FROM generate_series(1, 30000) i;
INSERT INTO load.d SELECT i, i, repeat('d' || i, 20), int4range(i, i + 1) FROM generate_series(1, 30000) i;
INSERT INTO load.p SELECT i, i, repeat('p' || i, 20) FROM generate_series(1, 30000) i;
INSERT INTO load.q SELECT i FROM generate_series(1, 30000, 3) i;
INSERT INTO load.parent SELECT i, 'parent' FROM generate_series(1, 1000) i;
INSERT INTO load.child SELECT i, 'child', i FROM generate_series(1, 1000) i;
ALTER TABLE load.c ADD CONSTRAINT late CHECK (id > 10) NOT VALID;
DO $$ BEGIN
	FOR i IN 1..120 LOOP
		EXECUTE format('CREATE TABLE load.small%s (id int PRIMARY KEY, t text UNIQUE, a bigint REFERENCES load.a)', i);
		EXECUTE format('INSERT INTO load.small%s SELECT s, s, s FROM generate_series(1, %s) s', i, i);
	END LOOP;
END $$;`

// loadWrites changes what loadSQL made, in one transaction that spans tables.
func loadWrites(ctx context.Context, conn postgres.DB, i int) error {
	id := 100000 + i
	_, err := conn.Exec(ctx, fmt.Sprintf(`
		BEGIN;
		INSERT INTO load.a VALUES (%[1]d, 'new', %[1]d);
		INSERT INTO load.b VALUES (%[1]d, %[1]d, 'new');
		INSERT INTO load.c VALUES (%[1]d, %[1]d, 'new');
		INSERT INTO load.p VALUES (%[1]d, %[1]d, 'new');
		UPDATE load.a SET t = 'changed' WHERE id = %[2]d;
		UPDATE load.p SET t = 'changed' WHERE id = %[2]d;
		UPDATE load.small%[3]d SET t = t || 'x' WHERE id = 1;
		DELETE FROM load.q WHERE p = %[2]d;
		DELETE FROM load.c WHERE id = %[1]d - 5;
		COMMIT`, id, 20+i*7%29000, 1+i%120))
	return err
}

// keepWriting does so until it is stopped, and returns how often.
func keepWriting(t *testing.T, uri string, first int) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	conn := pgtest.Connect(t, uri)
	go func() {
		n := 0
		for ctx.Err() == nil {
			if err := loadWrites(ctx, conn, first+n); err != nil {
				if ctx.Err() == nil {
					t.Errorf("write %d: %v", n, err)
				}
				break
			}
			n++
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond): // a rate, not a wait
			}
		}
		conn.Close(context.Background())
		done <- n
	}()
	return func() int { cancel(); return <-done }
}

// definitions is the schema as pg_dump prints it, without pgbaton's.
func definitions(t *testing.T, c *cluster.Cluster, db string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(c.BinDir(), "pg_dump"), "--schema-only", "--no-publications", "--no-subscriptions",
		"--exclude-schema=pgbaton", "--dbname="+c.ConnString(db)).CombinedOutput()
	if err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, out)
	}
	var text strings.Builder
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, `\`) && !strings.HasPrefix(line, "--") && strings.TrimSpace(line) != "" {
			text.WriteString(line)
		}
	}
	return text.String()
}

// meanwhile is what differs as long as the target receives rows: the replica
// identity of tables without a key, triggers that would fire twice, and event triggers.
var meanwhile = regexp.MustCompile(`(?m)^ALTER (TABLE (ONLY .* REPLICA IDENTITY|.* (EN|DIS)ABLE .*TRIGGER) .*|EVENT TRIGGER .* (EN|DIS)ABLE.*);\n`)

// unchecked lists what a load must not leave: invalid indexes, and constraints that
// are not validated although the source's are. (VALIDATE leaves the parts of a key to a
// partitioned table marked as they were; nothing depends on that.)
const unchecked = `SELECT coalesce(string_agg(name, ', ' ORDER BY name), '') FROM (
	SELECT indexrelid::regclass::text AS name FROM pg_index WHERE NOT indisvalid
	UNION ALL SELECT conname FROM pg_constraint WHERE NOT convalidated AND conparentid = 0) x`

// TestDefinitions: everything that a load makes by itself is as pg_dump would have
// made it, statistics included. Servers of one version print it alike.
func TestDefinitions(t *testing.T) {
	t.Parallel()
	for _, major := range []int{12, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			m := newMove(t, major, major)
			m.load(pgtest.NastySQL(major), loadSQL)
			if major >= 18 {
				pgtest.Exec(t, m.sourceURI(), `DROP TABLE nasty.only_generated`)
			}
			pgtest.Exec(t, m.sourceURI(), `ALTER SEQUENCE load.q_id_seq RESTART`)
			m.result(0, "start", "--roles", "--hold")
			pgtest.Exec(t, m.target.ConnString("postgres"), `CREATE DATABASE restored`)
			restore := exec.Command("sh", "-c", `"$0/pg_dump" --format=custom --schema-only --dbname="$1" | "$0/pg_restore" --dbname="$2"`,
				m.source.BinDir(), m.sourceURI(), m.target.ConnString("restored"))
			if out, err := restore.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			want := definitions(t, m.target, "restored")
			m.run(0, "resume")
			equal(t, "definitions", meanwhile.ReplaceAllString(want, ""), meanwhile.ReplaceAllString(definitions(t, m.target, m.db), ""))
			m.run(0, "switchover", "--yes", "--no-rollback")
			m.same()
			target := pgtest.Connect(t, m.targetURI())
			equal(t, "what is not valid", pgtest.QueryValue[string](t, pgtest.Connect(t, m.sourceURI()), unchecked), pgtest.QueryValue[string](t, target, unchecked))
			if n := pgtest.QueryValue[int](t, target, `SELECT count(*)::int FROM pg_class c WHERE relnamespace = 'load'::regnamespace AND relkind IN ('r', 'p')
				AND NOT EXISTS (SELECT FROM pg_statistic WHERE starelid = c.oid) AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0)`); n > 0 {
				t.Errorf("%d tables have no statistics", n)
			}
			extended := pgtest.QueryValue[int](t, target, `SELECT count(*)::int FROM pg_statistic_ext_data WHERE stxddependencies IS NOT NULL`)
			if extended == 0 {
				t.Errorf("extended statistics were not gathered")
			}
		})
	}
}

// copiedTables lists the tables that a run announced as copied.
func copiedTables(t *testing.T, stdout string) (names []string) {
	t.Helper()
	for line := range strings.Lines(stdout) {
		var e struct{ Type, Table string }
		if json.Unmarshal([]byte(line), &e) == nil && e.Type == "table_copied" {
			names = append(names, e.Table)
		}
	}
	return names
}

// TestResume kills a load while rows are copied, in every part of it, once or
// several times, under writes. What was complete is kept, and nothing is lost or
// doubled; a handover drains all groups, adds the foreign keys between them, and
// what it leaves is one group.
func TestResume(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		from, to int
		kills    []string // what is waited for
		groups   []int    // what there may be after that
	}{
		{"early", 12, 15, []string{`"table_copied","table":"\"load\".\"a\""`}, []int{2}},
		{"apart from what it refers to", 15, 17, []string{`"table_copied","table":"\"load\".\"c\""`}, []int{2}},
		{"late", 15, 18, []string{`"table_copied","table":"\"load\".\"small`}, []int{1, 2}},
		{"often", 13, 17, []string{`"table_copied","table":"\"load\".\"a\""`, `"table_copied"`, `"table_copied"`}, []int{2, 3, 4}},
		{"in the rest", 12, 15, []string{`"step_began","step":"other definitions"`}, []int{1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			m := newMove(t, test.from, test.to)
			m.load(pgtest.WriterSchema, loadSQL)
			w := pgtest.StartWriters(ctx, t, m.sourceURI(), 2, pgtest.WritersOptions{Rate: 40})
			stop := keepWriting(t, m.sourceURI(), 0)
			slow := []string{"start", "--jobs", "1", "--max-rate", "3MB"}
			kept := map[string]bool{}
			for _, until := range test.kills {
				p := pgtest.Spawn(t, m.options(append(slow, "--json")...))
				p.AwaitStdout(t, until)
				p.Signal(t, syscall.SIGKILL)
				for _, name := range copiedTables(t, p.Wait(t).Stdout) {
					if kept[name] {
						t.Errorf("%s was complete and was copied again", name)
					}
					kept[name] = true
				}
				if s := m.result(0, "status"); s["phase"] != "copying" {
					t.Errorf("after a kill: %v", s["phase"])
				}
				m.run(3, "switchover", "--yes")
			}
			r := m.run(0, "start", "--json")
			for _, name := range copiedTables(t, r.Stdout) {
				if kept[name] {
					t.Errorf("%s was complete and was copied again", name)
				}
			}
			source := pgtest.Connect(t, m.sourceURI())
			groups := pgtest.QueryValue[int](t, source, `SELECT count(*)::int FROM pg_replication_slots`)
			if !slices.Contains(test.groups, groups) {
				t.Errorf("%d groups, want %v", groups, test.groups)
			}
			s := m.result(0, "status")
			if s["phase"] != "streaming" || len(s["groups"].([]any)) != groups || len(s["slots"].([]any)) != groups {
				t.Errorf("status: %v", s)
			}
			mustExec(t, source, `TRUNCATE load.b, load.c, load.d`) // across groups, with foreign keys between them
			if err := w.Await(ctx, 10); err != nil {
				t.Fatal(err)
			}
			if n := stop(); n < 10 {
				t.Errorf("only %d writes", n)
			}
			m.handOver(ctx, w, "switchover", m.targetURI())
			target := pgtest.Connect(t, m.targetURI())
			source = pgtest.Connect(t, m.sourceURI()) // the fence ended the one before
			equal(t, "what is not valid", pgtest.QueryValue[string](t, source, unchecked), pgtest.QueryValue[string](t, target, unchecked))
			const keys = `SELECT string_agg(conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) || coalesce(obj_description(oid), ''), E'\n' ORDER BY conrelid::regclass::text COLLATE "C", conname)
				FROM pg_constraint WHERE contype = 'f' AND conislocal AND coninhcount = 0`
			equal(t, "foreign keys", pgtest.QueryValue[string](t, source, keys), pgtest.QueryValue[string](t, target, keys))
			stop = keepWriting(t, m.targetURI(), 1000000)
			mustExec(t, target, `TRUNCATE load.b, load.c, load.d`)
			stop()
			m.handOver(ctx, w, "rollback", m.sourceURI())
			m.handOver(ctx, w, "switchover", m.targetURI(), "--no-rollback")
			w.Stop()
			source, target = pgtest.Connect(t, m.sourceURI()), pgtest.Connect(t, m.targetURI())
			if problems := w.Check(ctx, target); len(problems) > 0 {
				t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
			}
			m.run(0, "finish", "--yes", "--unfence")
			for side, conn := range map[string]postgres.DB{"source": source, "target": target} {
				if n := pgtest.QueryValue[int](t, conn, `SELECT (SELECT count(*) FROM pg_publication)::int + (SELECT count(*) FROM pg_replication_slots)::int + (SELECT count(*) FROM pg_subscription)::int`); n != 0 {
					t.Errorf("%d objects are left on the %s", n, side)
				}
			}
		})
	}
}

// TestGroups begins with several groups; reset removes all of them.
func TestGroups(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	m := newMove(t, 13, 18)
	m.load(pgtest.WriterSchema, loadSQL)
	before := dump(t, m.source, m.db)
	m.result(0, "start", "--groups", "3")
	m.run(0, "reset", "--yes", "--drop-database")
	equal(t, "the source", before, dump(t, m.source, m.db))
	m.result(0, "start", "--groups", "auto")
	if groups := m.result(0, "status")["groups"].([]any); len(groups) != 1 {
		t.Errorf("nothing is written, and there are %d groups", len(groups))
	}
	m.run(0, "reset", "--yes", "--drop-database")
	w := pgtest.StartWriters(ctx, t, m.sourceURI(), 3, pgtest.WritersOptions{Rate: 50})
	m.result(0, "start", "--groups", "3")
	groups := m.result(0, "status")["groups"].([]any)
	if len(groups) != 3 {
		t.Fatalf("groups: %v", groups)
	}
	m.run(0, "pause")
	if err := w.Await(ctx, 10); err != nil {
		t.Fatal(err)
	}
	m.run(0, "resume")
	m.run(0, "rehearse")
	m.handOver(ctx, w, "switchover", m.targetURI())
	m.handOver(ctx, w, "rollback", m.sourceURI())
	m.handOver(ctx, w, "switchover", m.targetURI())
	w.Stop()
	if problems := w.Check(ctx, pgtest.Connect(t, m.targetURI())); len(problems) > 0 {
		t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
	}
	m.run(0, "finish", "--yes")
}

// TestRestartInLoad restarts a server, as in a crash, while rows are copied: start
// goes on by itself.
func TestRestartInLoad(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"source", "target"} {
		t.Run(side, func(t *testing.T) {
			t.Parallel()
			m := newMove(t, 15, 17)
			m.load(loadSQL)
			c := map[string]*cluster.Cluster{"source": m.source, "target": m.target}[side]
			p := pgtest.Spawn(t, m.options("start", "--jobs", "1", "--max-rate", "4MB", "--json"))
			p.AwaitStdout(t, `"table_copied","table":"\"load\".\"c\""`)
			if err := c.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := c.Restart(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			r := p.Wait(t)
			if r.Code != 0 || !strings.Contains(r.Stdout, "interrupted: ") {
				t.Fatalf("%s", r)
			}
			again := map[string]int{}
			for _, name := range copiedTables(t, r.Stdout) {
				again[name]++
			}
			if again[`"load"."c"`] != 1 {
				t.Errorf("load.c was copied %d times", again[`"load"."c"`])
			}
			m.run(0, "switchover", "--yes")
			m.same()
		})
	}
}

// TestTimeouts: what a server or a role allows others does not end a slow copy.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	m := newMove(t, 17, 18)
	m.load(loadSQL)
	for _, c := range []*cluster.Cluster{m.source, m.target} {
		for _, timeout := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout", "wal_sender_timeout"} {
			pgtest.Exec(t, c.ConnString("postgres"), fmt.Sprintf("ALTER ROLE postgres SET %s = '500ms'", timeout))
		}
	}
	began := time.Now()
	m.run(0, "start", "--max-rate", "6MB", "--jobs", "1")
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it took only %v: --max-rate has no effect", took)
	}
}

// TestMaxSlotWAL: a copy that makes the source keep too much gives up, leaves no
// slot, and can be begun again.
func TestMaxSlotWAL(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 15)
	m.load(loadSQL, `CREATE TABLE load.noise (id bigint PRIMARY KEY, t text)`)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	conn := pgtest.Connect(t, m.sourceURI())
	p := pgtest.Spawn(t, m.options("start", "--jobs", "1", "--max-rate", "256kB", "--max-slot-wal", "20MB", "--json"))
	p.AwaitStdout(t, `"step_began","step":"rows, indexes, keys"`)
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := 0; ctx.Err() == nil; i++ {
			_, _ = conn.Exec(ctx, fmt.Sprintf(`INSERT INTO load.noise SELECT %d + i, repeat('x', 1000) FROM generate_series(1, 5000) i`, i*5000))
		}
	}()
	r := p.Wait(t)
	stop()
	<-written
	if r.Code != 1 || !strings.Contains(r.Stdout, "--max-slot-wal is reached") || !strings.Contains(r.Stdout, `"retained_wal"`) {
		t.Fatalf("%s", r)
	}
	source := pgtest.Connect(t, m.sourceURI())
	if n := pgtest.QueryValue[int](t, source, `SELECT count(*)::int FROM pg_replication_slots`); n != 0 {
		t.Errorf("%d slots are left", n)
	}
	if !strings.Contains(r.Stdout, "the slots were dropped, so that the source can remove its WAL; run start again, it copies all rows: allow more with --max-slot-wal, or copy faster (--jobs, no --max-rate), or when less is written") {
		t.Errorf("%s", r)
	}
	m.run(0, "start", "--max-slot-wal", "1GB", "--jobs", "4")
	m.run(0, "switchover", "--yes")
	m.same()
}

// TestInterrupted: Ctrl-C ends a copy in good order, and says how to go on.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	m := newMove(t, 15, 17)
	m.load(loadSQL)
	p := pgtest.Spawn(t, m.options("start", "--jobs", "2", "--max-rate", "2MB"))
	p.AwaitStderr(t, "tables without keys")
	pgtest.UntilTrue(t, m.targetURI(), time.Minute, "a table that is worth keeping is copied", `SELECT EXISTS (SELECT FROM pgbaton.journal WHERE kind = 'copied' AND (value ->> 'bytes')::bigint > 1000000)`)
	p.Signal(t, syscall.SIGINT)
	r := p.Wait(t)
	if r.Code != 1 || !strings.Contains(r.Stderr, "interrupted") || !strings.Contains(r.Stderr, "run the same command again") {
		t.Errorf("%s", r)
	}
	for _, uri := range []string{m.sourceURI(), m.targetURI()} {
		pgtest.UntilTrue(t, uri, 20*time.Second, "all sessions are gone",
			`SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'pgbaton%' AND datname = current_database())`)
	}
	// Somebody takes the name of an index that is still to be built.
	target := writer(t, m.targetURI())
	mustExec(t, target, `DROP INDEX IF EXISTS load.d_t`)
	mustExec(t, target, `CREATE SEQUENCE load.d_t`)
	if hint := hintBelow(t, m.run(1, "start").Stderr, `index "load"."d_t" is not there as on the source`); hint != "something else has its name there: drop that, then run start again" {
		t.Error(hint)
	}
	mustExec(t, target, `DROP SEQUENCE load.d_t`)
	m.run(0, "start")
	m.run(0, "switchover", "--yes")
	m.same()
}

// TestFilters moves a part of a database by each method, there and back, and
// leaves the other part alone.
func TestFilters(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"stream", "native", "dump"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			m := newMove(t, 13, 17)
			m.load(pgtest.WriterSchema, loadSQL, `CREATE SCHEMA other; CREATE TABLE other.t AS SELECT 1 AS a; CREATE SEQUENCE other.s`,
				`CREATE MATERIALIZED VIEW other.mv AS SELECT count(*) FROM load.a`, `ALTER TABLE load.c DROP CONSTRAINT late`,
				`COMMENT ON CONSTRAINT b_a_fkey ON load.b IS 'left out with its key'`)
			filters := []string{"--method", method, "--exclude-schema", "other", "--exclude-table", "load.small*", "--exclude-table", "p", "--exclude-table", "load.(a|A)"}
			w := pgtest.StartWriters(ctx, t, m.sourceURI(), 2, pgtest.WritersOptions{Rate: 40})
			if r := m.run(0, append([]string{"check"}, filters...)...); !strings.Contains(r.Stdout, "selection-foreign-keys") {
				t.Errorf("%s", r)
			}
			if r := m.run(2, "start", "--table", `a"b`); !strings.Contains(r.Stderr, "--table") {
				t.Errorf("%s", r)
			}
			m.run(0, append([]string{"start"}, filters...)...)
			m.run(3, "start", "--method", method, "--exclude-schema", "load")
			m.run(0, "start", "--method", method) // it remembers
			source, target := pgtest.Connect(t, m.sourceURI()), pgtest.Connect(t, m.targetURI())
			const there = `SELECT coalesce(string_agg(c.oid::regclass::text, ' ' ORDER BY c.oid::regclass::text COLLATE "C"), '') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
				WHERE c.relkind IN ('r', 'p', 'S', 'm') AND n.nspname IN ('load', 'other')`
			if got, want := pgtest.QueryValue[string](t, target, there), "load.b load.bare load.c load.child load.d load.parent load.q load.q_id_seq"; got != want {
				t.Errorf("the target has %s, want %s", got, want)
			}
			mustExec(t, source, `INSERT INTO load.b SELECT i, 1, 'late' FROM generate_series(200000, 200100) i; INSERT INTO other.t VALUES (2); SELECT nextval('other.s')`)
			if s := m.result(0, "status"); s["phase"] != "streaming" {
				t.Errorf("status: %v", s)
			}
			m.run(0, "switchover", "--yes")
			target = pgtest.Connect(t, m.targetURI())
			if n := pgtest.QueryValue[int](t, target, `SELECT count(*)::int FROM load.b`); n != 30101 {
				t.Errorf("%d rows", n)
			}
			mustExec(t, target, `TRUNCATE load.d; DELETE FROM load.c; DELETE FROM load.b WHERE id < 200000`)
			w.Switch(m.targetURI())
			if err := w.Await(ctx, 10); err != nil {
				t.Fatal(err)
			}
			m.run(0, "rollback", "--yes")
			source = pgtest.Connect(t, m.sourceURI())
			if got := pgtest.QueryValue[string](t, source, `SELECT (SELECT count(*) FROM load.b) || ' ' || (SELECT count(*) FROM load.c) || ' ' || (SELECT count(*) FROM load.a) || ' ' || (SELECT count(*) FROM other.t)`); got != "101 0 30000 2" {
				t.Errorf("the source has %s", got)
			}
			w.Switch(m.sourceURI())
			if err := w.Await(ctx, 10); err != nil {
				t.Fatal(err)
			}
			w.Stop()
			if problems := w.Check(ctx, pgtest.Connect(t, m.sourceURI())); len(problems) > 0 {
				t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
			}
			m.run(0, "finish", "--yes", "--unfence")
		})
	}
}

// TestKilledWhileBuilding: a server goes on building an index when pgbaton was
// killed, and would make it although the next run does so too.
func TestKilledWhileBuilding(t *testing.T) {
	t.Parallel()
	m := newMove(t, 15, 17)
	m.load(`CREATE TABLE t AS SELECT i, repeat('x', 50) AS x FROM generate_series(1, 200000) i`,
		// The build stops when its lock is taken.
		`CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN IF i = 1000 THEN PERFORM pg_advisory_xact_lock_shared(1); END IF; RETURN i; END'`,
		`CREATE INDEX slow ON t (slow(i))`, `CREATE INDEX quick ON t (x)`)
	p := pgtest.Spawn(t, m.options("start", "--max-rate", "5MB", "--json"))
	p.AwaitStdout(t, `"step_began","step":"rows, indexes, keys"`)
	held := pgtest.Hold(t, m.targetURI(), `SELECT pg_advisory_xact_lock(1)`)
	const building = `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%CREATE INDEX%slow%' AND pid <> pg_backend_pid() AND wait_event_type = 'Lock')`
	pgtest.UntilTrue(t, m.targetURI(), time.Minute, "the index is being built", building)
	p.Signal(t, syscall.SIGKILL)
	p.Wait(t)
	pgtest.UntilTrue(t, m.targetURI(), time.Minute, "the build goes on", building)
	again := pgtest.Spawn(t, m.options("start", "--json"))
	again.AwaitStdout(t, `"step_began","step":"rows, indexes, keys"`)
	held.Release()
	if r := again.Wait(t); r.Code != 0 {
		t.Fatalf("%s", r)
	}
	m.run(0, "switchover", "--yes")
	m.same()
}
