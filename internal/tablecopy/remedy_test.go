package tablecopy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"pgbaton/internal/event"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// again follows "run start again": with what tables and indexes there are by now, under a
// new snapshot.
func (m *move) again(t *testing.T) outcome {
	t.Helper()
	job := m.job(t, 2)
	m.addIndexes(t, &job)
	o := <-start(t.Context(), job)
	if o.err != nil {
		t.Errorf("the remedy does not help: %v", o.err)
	}
	return o
}

// wantHint checks that a hint has each of these parts.
func wantHint(t *testing.T, err error, parts ...string) string {
	t.Helper()
	hint := postgres.Hint(err)
	for _, p := range parts {
		if !strings.Contains(hint, p) {
			t.Errorf("hint %q, want %q", hint, p)
		}
	}
	return hint
}

// testRemedies: what ends a load does so no more when its hint was followed.
func testRemedies(t *testing.T, l lab) {
	t.Run("a function without a search_path", func(t *testing.T) {
		t.Parallel()
		m := l.move(t, 12, 15)
		m.both(t, `CREATE TABLE conf (k int); CREATE TABLE a (i int);
			CREATE FUNCTION weight(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN i * (SELECT k FROM conf); END'`)
		pgtest.Exec(t, m.sourceURI, `INSERT INTO conf VALUES (2); INSERT INTO a SELECT generate_series(1, 10); CREATE INDEX ON a (weight(i))`)
		job := m.job(t, 2)
		m.addIndexes(t, &job)
		o := <-start(t.Context(), job)
		wantError(t, o.err, postgres.Target, postgres.UndefinedTable)
		wantHint(t, o.err, "remove the cause, then run start again")
		pgtest.Exec(t, m.targetURI, `ALTER FUNCTION weight(int) SET search_path = public`)
		m.again(t)
	})
	// The source's server compresses it in the index, the target's does not.
	t.Run("a value too long for an index", func(t *testing.T) {
		t.Parallel()
		m := l.move(t, 12, 15)
		m.both(t, `CREATE TABLE w (t text)`)
		pgtest.Exec(t, m.targetURI, `ALTER TABLE w ALTER t SET STORAGE EXTERNAL`)
		pgtest.Exec(t, m.sourceURI, `INSERT INTO w VALUES (repeat('x', 5000)), ('short'); CREATE INDEX ON w (t)`)
		job := m.job(t, 2)
		m.addIndexes(t, &job)
		o := <-start(t.Context(), job)
		wantError(t, o.err, postgres.Target, "54000")
		var rows *RowsError // or else the row that is copied already would stay as it is
		if !errors.As(o.err, &rows) || len(rows.Tables) != 1 || rows.Tables[0].Name != "w" {
			t.Errorf("to blame: %+v", rows)
		}
		wantHint(t, o.err, `repair the rows of "public"."w" on the source, then run start again`)
		pgtest.Exec(t, m.sourceURI, `UPDATE w SET t = 'shortened' WHERE t <> 'short'`)
		m.again(t)
	})
	t.Run("statistics", func(t *testing.T) {
		t.Parallel()
		m := l.move(t, 12, 15)
		m.both(t, `CREATE TABLE "S" (i int); CREATE FUNCTION shy(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
			'BEGIN IF current_query() LIKE ''%ANALYZE%'' THEN RAISE ''no statistics of me''; END IF; RETURN i; END'`)
		pgtest.Exec(t, m.sourceURI, `INSERT INTO "S" SELECT i % 10 FROM generate_series(1, 100) i; CREATE INDEX by_shy ON "S" (shy(i))`)
		job := m.job(t, 2)
		m.addIndexes(t, &job)
		var mu sync.Mutex
		var warnings []event.Warning
		job.Observer = func(e event.Event) {
			if w, ok := e.(event.Warning); ok {
				mu.Lock()
				defer mu.Unlock()
				warnings = append(warnings, w)
			}
		}
		if o := <-start(t.Context(), job); o.err != nil {
			t.Fatal(o.err)
		}
		if len(warnings) != 1 || warnings[0].Side != postgres.Target || !strings.Contains(warnings[0].Text, "no statistics of me") {
			t.Fatalf("warnings: %+v", warnings)
		}
		analyze := regexp.MustCompile(`remove the cause, then (ANALYZE .*) on the target`).FindStringSubmatch(warnings[0].Remedy)
		if analyze == nil {
			t.Fatalf("remedy %q", warnings[0].Remedy)
		}
		const gathered = `SELECT EXISTS (SELECT FROM pg_stats WHERE tablename = 'by_shy')`
		if pgtest.QueryValue[bool](t, m.targetConn, gathered) {
			t.Error("there are statistics")
		}
		pgtest.Exec(t, m.targetURI, `CREATE OR REPLACE FUNCTION shy(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i'`, analyze[1])
		if !pgtest.QueryValue[bool](t, m.targetConn, gathered) {
			t.Error("the remedy does not help")
		}
	})
	// From 15 on not everybody may create something in schema public, whose owner's rights
	// the role is to have as well.
	for _, pair := range [][2]int{{12, 13}, {13, 17}} {
		t.Run(fmt.Sprint("rights from ", pair[0], " to ", pair[1]), func(t *testing.T) {
			t.Parallel()
			m := l.move(t, pair[0], pair[1])
			role, owner := fmt.Sprintf("mover_%d_%d", pair[0], pair[1]), fmt.Sprintf("owner_%d_%d", pair[0], pair[1])
			m.both(t, "CREATE ROLE "+role+" LOGIN; CREATE ROLE "+owner, `CREATE TABLE a (i int);
				CREATE FUNCTION f(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN i; END'; REVOKE EXECUTE ON FUNCTION f FROM PUBLIC`)
			pgtest.Exec(t, m.sourceURI, `INSERT INTO a VALUES (1), (2); CREATE INDEX ON a (f(i)); GRANT SELECT ON a TO `+role)
			pgtest.Exec(t, m.targetURI, `GRANT CREATE, USAGE ON SCHEMA public TO `+owner, `ALTER TABLE a OWNER TO `+owner)
			job := m.job(t, 1)
			m.addIndexes(t, &job)
			job.Source = newServer(t, postgres.Source, l[pair[0]].ConnStringAs(role, "", m.source.Database()))
			job.Target = newServer(t, postgres.Target, l[pair[1]].ConnStringAs(role, "", m.target.Database()))
			for _, step := range []struct{ says, asSaid string }{
				{`on the target "` + role + `" needs the rights of the owner of "public"."a": GRANT that role to it`, "GRANT " + owner + " TO " + role},
				{`where the message names a function, that owner must be allowed to EXECUTE it`, "GRANT EXECUTE ON FUNCTION f TO " + owner},
			} {
				o := <-start(t.Context(), job)
				wantError(t, o.err, postgres.Target, postgres.InsufficientPrivilege)
				wantHint(t, o.err, step.says)
				pgtest.Exec(t, m.targetURI, step.asSaid)
			}
			if o := <-start(t.Context(), job); o.err != nil || o.Rows != 2 {
				t.Errorf("%d rows, %v", o.Rows, o.err)
			}
		})
	}
}
