package preflight_test

import (
	"testing"

	"pgbaton/internal/pgtest"
)

func TestExp(t *testing.T) {
	source, target := pgtest.Start(t, 10), pgtest.Start(t, 15)
	scenario{
		options: options{user: "mover", targetUser: "postgres", db: "its db"}, asOwner: true,
		before:  `CREATE ROLE mover LOGIN REPLICATION BYPASSRLS`,
		healthy: `CREATE TABLE t (i serial PRIMARY KEY) WITHOUT OIDS; ALTER TABLE t OWNER TO mover`,
		problems: []problem{
			{code: "with-oids", side: src, severity: blocker, remedied: true, source: `CREATE TABLE o (i int PRIMARY KEY) WITH OIDS`},
			{code: "removed-types", side: src, severity: blocker, remedied: true, says: []string{"abstime", "reltime[]"},
				source: `CREATE TABLE ty (i int PRIMARY KEY, a abstime, b reltime, c reltime[])`},
			{code: "removed-functions", side: src, severity: blocker, says: []string{"arr(anyarray)", "!#(bigint,NONE)", "view public.fac"},
				source: `CREATE AGGREGATE arr (anyarray) (sfunc = array_cat, stype = anyarray);
CREATE OPERATOR !# (leftarg = bigint, procedure = numeric_fac);
CREATE VIEW fac AS SELECT 5 ! AS f`},
		},
	}.play(t, source, target)
	r := run(t, source, target, options{db: "its db"})
	t.Log(print(r))
	r = run(t, source, target, options{db: "its db", user: "mover"})
	t.Log(print(r))
	t.Fail()
}
