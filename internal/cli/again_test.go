package cli_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
)

// TestAnotherTable: between an interrupted copy and the next run a table becomes another
// one under the same name and of the same shape, or leaves the publication for a while.
// Nothing that was copied of it counts then.
func TestAnotherTable(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, change string }{
		{"made again", `DROP TABLE load.b; CREATE TABLE load.b (id int PRIMARY KEY, t text); INSERT INTO load.b SELECT i, 'another' FROM generate_series(1, 50) i`},
		{"names exchanged", `ALTER TABLE load.b RENAME TO b3; ALTER TABLE load.b2 RENAME TO b; ALTER TABLE load.b3 RENAME TO b2`},
		{"taken out of the publication", `DO $$ BEGIN EXECUTE format('ALTER PUBLICATION %I DROP TABLE load.b', (SELECT pubname FROM pg_publication)); END $$;
			UPDATE load.b SET t = 'was not published'`},
		{"not logged before", `UPDATE load.u SET t = 'was not logged'; ALTER TABLE load.u SET LOGGED`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			m := newMove(t, 15, 17)
			sql := []string{`CREATE SCHEMA load`}
			for i, name := range []string{"u", "b", "b2", "z"} {
				unlogged := ""
				if name == "u" && test.name == "not logged before" {
					unlogged = "UNLOGGED"
				}
				sql = append(sql, fmt.Sprintf(`CREATE %s TABLE load.%s (id int PRIMARY KEY, t text)`, unlogged, name),
					fmt.Sprintf(`INSERT INTO load.%s SELECT i, repeat('%s ', 50) FROM generate_series(1, %d) i`, name, name, 20000-4000*i))
			}
			m.load(sql...)
			p := pgtest.Spawn(t, m.options("start", "--accept", "unlogged-tables", "--jobs", "1", "--max-rate", "1MB", "--json"))
			p.AwaitStdout(t, `"step_began","step":"rows, indexes, keys"`)
			pgtest.UntilTrue(t, m.targetURI(), time.Minute, "u, b and b2 are copied",
				`SELECT count(*) = 3 FROM pgbaton.journal WHERE kind = 'copied' AND key IN ('"load"."u"', '"load"."b"', '"load"."b2"')`)
			p.Signal(t, syscall.SIGKILL)
			p.Wait(t)
			source := writer(t, m.sourceURI())
			if _, err := source.Exec(ctx, test.change); err != nil {
				t.Fatal(err)
			}
			m.run(0, "start")
			mustExec(t, source, `UPDATE load.b SET t = t || 'streamed' WHERE id = 1`)
			m.run(0, "switchover", "--yes")
			m.same()
		})
	}
}

// TestForeignKeyOfLostGroup: a foreign key that was made goes with the rows when these are
// copied again, because their group's slot is gone, and comes back with them.
func TestForeignKeyOfLostGroup(t *testing.T) {
	t.Parallel()
	m := newMove(t, 15, 17)
	m.load(`CREATE SCHEMA load; CREATE TABLE load.a (id int PRIMARY KEY); CREATE TABLE load.b (id int PRIMARY KEY, a int REFERENCES load.a);
		CREATE TABLE load.c (id int PRIMARY KEY, t text); CREATE TABLE load.d (id int PRIMARY KEY, c int REFERENCES load.c, t text)`,
		`INSERT INTO load.a SELECT generate_series(1, 100); INSERT INTO load.b SELECT i, i FROM generate_series(1, 100) i;
		INSERT INTO load.c SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i; INSERT INTO load.d SELECT i, i, repeat('x', 400) FROM generate_series(1, 20000) i`)
	p := pgtest.Spawn(t, m.options("start", "--groups", "2", "--jobs", "1", "--json"))
	p.AwaitStdout(t, `"step_began","step":"other definitions"`)
	p.Signal(t, syscall.SIGKILL)
	p.Wait(t)
	const keys = `SELECT string_agg(conrelid::regclass || ' ' || conname || ' ' || convalidated, ', ' ORDER BY conname) FROM pg_constraint WHERE contype = 'f'`
	target := pgtest.Connect(t, m.targetURI())
	if got := pgtest.QueryValue[string](t, target, keys); got != "load.b b_a_fkey true, load.d d_c_fkey true" {
		t.Fatalf("foreign keys after the kill: %s", got)
	}
	slot := pgtest.QueryValue[string](t, target, `SELECT value ->> 'group' FROM pgbaton.journal WHERE kind = 'copied' AND key LIKE '%"b"'`)
	source := pgtest.Connect(t, m.sourceURI())
	pgtest.UntilTrue(t, m.sourceURI(), time.Minute, "nobody has the slot", fmt.Sprintf(`SELECT NOT active FROM pg_replication_slots WHERE slot_name = '%s'`, slot))
	mustExec(t, source, fmt.Sprintf(`SELECT pg_drop_replication_slot('%s')`, slot))
	m.run(0, "start")
	target = pgtest.Connect(t, m.targetURI())
	if got := pgtest.QueryValue[string](t, target, keys); got != "load.b b_a_fkey true, load.d d_c_fkey true" {
		t.Errorf("foreign keys: %s", got)
	}
	m.run(0, "switchover", "--yes")
	m.same()
}
