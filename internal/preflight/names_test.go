package preflight_test

import (
	"fmt"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
)

// TestNames: names that are no UTF-8, in a database without an encoding, are told as
// such, each with the statement that renames it; UTF-8 is none of them.
func TestNames(t *testing.T) {
	t.Parallel()
	target := pgtest.Start(t, 18)
	for _, major := range []int{10, 17} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			source := pgtest.Start(t, major)
			db := fmt.Sprintf("d%d", major)
			pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE `+db+` ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`)
			const latin1 = "SET client_encoding = 'SQL_ASCII'; "
			pgtest.Exec(t, source.ConnString(db), latin1+"CREATE TABLE plain (id int PRIMARY KEY, \"größe\" text)")
			wantNot(t, run(t, source, target, options{db: db}), "names-not-utf8", postgres.Source)
			pgtest.Exec(t, source.ConnString(db), latin1+
				"CREATE SCHEMA \"sch\xe9ma\"; CREATE TYPE \"sch\xe9ma\".\"\xe9tat\" AS ENUM ('ferm\xe9', 'ouvert');"+
				"CREATE TYPE \"sch\xe9ma\".\"paire d'\xe9t\xe9\" AS (\"\xe9\" int);"+
				"CREATE TABLE \"sch\xe9ma\".\"t\xe9\" (\"cl\xe9\" int CONSTRAINT \"k\xe9\" PRIMARY KEY, s \"sch\xe9ma\".\"\xe9tat\", CONSTRAINT \"v\xe9\" CHECK (\"cl\xe9\" > 0));"+
				"CREATE VIEW \"vue_\xe9\" AS SELECT * FROM \"sch\xe9ma\".\"t\xe9\"; CREATE INDEX \"i\xe9\" ON \"sch\xe9ma\".\"t\xe9\" (s);"+
				"CREATE FUNCTION \"f\xe9\"() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';"+
				"CREATE TRIGGER \"d\xe9clic\" BEFORE INSERT ON \"sch\xe9ma\".\"t\xe9\" FOR EACH ROW EXECUTE PROCEDURE \"f\xe9\"()")
			r := run(t, source, target, options{db: db})
			f := want(t, r, "names-not-utf8", postgres.Source, preflight.Blocker)
			for _, object := range []string{`schema "sch\xe9ma"`, `relation "t\xe9"`, `column "cl\xe9"`, `constraint "k\xe9"`, `label of an enum "ferm\xe9"`, `trigger "d\xe9clic"`} {
				if !strings.Contains(strings.Join(f.Objects, "\n"), object) {
					t.Errorf("%s is not named: %q", object, f.Objects)
				}
			}
			apply(t, source.ConnString(db), f.Remedy)
			r = run(t, source, target, options{db: db})
			wantNot(t, r, "names-not-utf8", postgres.Source)
			if len(r.Blockers()) > 0 {
				t.Errorf("%s", print(r))
			}
		})
	}
}
