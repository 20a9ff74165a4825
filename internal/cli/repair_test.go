package cli_test

import (
	"slices"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// broken are rows that do not satisfy what the source's catalogs call valid, and how
// they are repaired there. In each database there is a table of some size, which is
// not to blame.
var broken = []struct {
	name, sql, says, repair string
	again                   []string // tables that are copied anew
}{
	{"a foreign key",
		`CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, pid int REFERENCES p);
		INSERT INTO p SELECT generate_series(1, 100); INSERT INTO c SELECT g, g FROM generate_series(1, 100) g;
		CREATE TABLE other (id int PRIMARY KEY, pid int REFERENCES p); INSERT INTO other VALUES (1, 1);
		SET session_replication_role = replica; DELETE FROM p WHERE id IN (17, 42); RESET session_replication_role`,
		`c_pid_fkey`, `INSERT INTO p VALUES (17); DELETE FROM c WHERE pid = 42`, []string{"c", "p"}},
	{"a unique index",
		`CREATE TABLE u (i int, t text); INSERT INTO u VALUES (1, 'a'), (1, 'b'), (2, 'c'); CREATE INDEX "U x" ON u (i);
		UPDATE pg_index SET indisunique = true WHERE indexrelid = '"U x"'::regclass`,
		`U x`, `DELETE FROM u WHERE t = 'b'`, []string{"u"}},
	{"a unique index of a large table",
		`UPDATE pad SET i = 7 WHERE i = 8; CREATE INDEX px ON pad (i); UPDATE pg_index SET indisunique = true WHERE indexrelid = 'px'::regclass;
		CREATE TABLE pad2 AS SELECT * FROM pad`,
		`px`, `UPDATE pad SET i = 8 WHERE ctid = (SELECT max(ctid) FROM pad WHERE i = 7)`, []string{"pad"}},
	{"a check",
		`CREATE TABLE k (i int); INSERT INTO k VALUES (1), (-1); ALTER TABLE k ADD CONSTRAINT positive CHECK (i > 0) NOT VALID;
		UPDATE pg_constraint SET convalidated = true WHERE conname = 'positive'`,
		`positive`, `UPDATE k SET i = 1 WHERE i = -1`, []string{"k"}},
	{"an index's function",
		`CREATE FUNCTION strict_root(i int) RETURNS float8 IMMUTABLE LANGUAGE sql AS 'SELECT 0.0::float8';
		CREATE TABLE f (i int PRIMARY KEY); INSERT INTO f VALUES (4), (-4); CREATE INDEX ON f (strict_root(i));
		CREATE OR REPLACE FUNCTION strict_root(i int) RETURNS float8 IMMUTABLE LANGUAGE sql AS 'SELECT sqrt(i)'`,
		`square root of a negative number`, `DELETE FROM f WHERE i < 0`, []string{"f"}},
}

// TestRepaired: start says which rows do not satisfy what, and which definitions the target
// cannot hold; repaired on the source, and start run again, they do. What was complete is
// not copied again.
func TestRepaired(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 13), pgtest.Start(t, 17)
	for i, b := range broken {
		t.Run(b.name, func(t *testing.T) {
			m := &move{t: t, source: source, target: target, db: "repair" + string(rune('a'+i))}
			m.load(`CREATE TABLE pad AS SELECT i, repeat('x', 200) AS x FROM generate_series(1, 20000) i`, b.sql)
			r := m.run(1, "start")
			if !strings.Contains(r.Stderr, b.says) || !strings.Contains(r.Stderr, "on the source, then run start again") {
				t.Errorf("%s", r)
			}
			if i == 0 { // not repaired yet
				if r := m.run(1, "start"); !strings.Contains(r.Stderr, b.says) {
					t.Errorf("%s", r)
				}
			}
			pgtest.Exec(t, m.sourceURI(), b.repair)
			target := pgtest.Connect(t, m.targetURI())
			const complete = `SELECT coalesce(array_agg(key), '{}') FROM pgbaton.journal WHERE kind = 'copied'`
			kept := pgtest.QueryValue[[]string](t, target, complete)
			again := copiedTables(t, m.run(0, "start", "--json").Stdout)
			for _, name := range b.again {
				if name = `"public"."` + name + `"`; slices.Contains(kept, name) || !slices.Contains(again, name) {
					t.Errorf("%s was not copied again, but %q", name, again)
				}
			}
			for _, name := range []string{`"public"."pad"`, `"public"."pad2"`} { // what is small is not worth it
				if slices.Contains(kept, name) && slices.Contains(again, name) {
					t.Errorf("%s was complete and was copied again", name)
				}
			}
			pgtest.Exec(t, m.sourceURI(), `INSERT INTO pad VALUES (-1, 'late')`)
			m.run(0, "switchover", "--yes", "--no-rollback")
			m.same()
			if n := pgtest.QueryValue[string](t, pgtest.Connect(t, m.targetURI()), unchecked); n != "" {
				t.Errorf("not valid on the target: %s", n)
			}
			m.run(0, "finish", "--yes")
		})
	}
	t.Run("definitions", func(t *testing.T) {
		m := &move{t: t, source: source, target: target, db: "definitions"}
		m.load(`CREATE TABLE pad AS SELECT i, repeat('x', 200) AS x FROM generate_series(1, 20000) i`,
			`CREATE VIEW old AS SELECT datname, datlastsysoid FROM pg_database`,                             // restored before the rows,
			`CREATE RULE "Old" AS ON INSERT TO pad DO ALSO SELECT max(datlastsysoid::int) FROM pg_database`) // and after them
		for _, repair := range []string{`DROP VIEW old`, `DROP RULE "Old" ON pad`} {
			r := m.run(1, "start")
			if !strings.Contains(r.Stderr, `column "datlastsysoid" does not exist`) && !strings.Contains(r.Stderr, "datlastsysoid does not exist") ||
				!strings.Contains(r.Stderr, "hint: the target cannot hold the source's definitions as they are: change them on the source, then run start again") {
				t.Errorf("%s", r)
			}
			pgtest.Exec(t, m.sourceURI(), repair)
		}
		if again := copiedTables(t, m.run(0, "start", "--json").Stdout); len(again) > 0 {
			t.Errorf("copied again: %q", again)
		}
		m.same()
		m.run(0, "reset", "--yes")
	})
	t.Run("a table dropped meanwhile", func(t *testing.T) {
		m := &move{t: t, source: source, target: target, db: "meanwhile"}
		m.load(gatedSQL, `CREATE TABLE stays AS SELECT 1 AS i`, `CREATE TABLE "Goes" (i int PRIMARY KEY)`)
		r := m.startMeanwhile(func() { pgtest.Exec(t, m.sourceURI(), `DROP TABLE "Goes"`) })
		if r.Code != 1 || !strings.Contains(r.Stderr, `hint: "public"."Goes" was changed on one side after start began: run start again`) {
			t.Errorf("%s", r)
		}
		m.run(0, "start")
		m.same()
		m.run(0, "reset", "--yes")
	})
}

// TestNativeNotValid: rows that the servers' own copy refuses are named by start; they are
// repaired, or moved by another method.
func TestNativeNotValid(t *testing.T) {
	t.Parallel()
	m := &move{t: t, source: pgtest.Start(t, 15, faultSettings), target: pgtest.Start(t, 17, faultSettings), db: "app"}
	const broken = `INSERT INTO k VALUES (-1); ALTER TABLE k ADD CONSTRAINT k CHECK (i > 0) NOT VALID`
	m.load(`CREATE TABLE k (i int PRIMARY KEY)`, broken)
	hint := hintBelow(t, m.run(1, "start", "--method", "native").Stderr, `the servers' own copy of "public"."k" does not get on`)
	if !strings.HasSuffix(hint, "repair them on the source, then run start again; or pgbaton reset, and start with --method stream") {
		t.Error(hint)
	}
	pgtest.Exec(t, m.sourceURI(), `DELETE FROM k WHERE i < 0`)
	m.run(0, "start", "--method", "native")
	m.same()
	pgtest.Exec(t, m.sourceURI(), `ALTER TABLE k DROP CONSTRAINT k`, broken)
	m.run(0, "reset", "--yes")
	m.run(0, "start", "--method", "stream")
	m.same()
}
