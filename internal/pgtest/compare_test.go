package pgtest

import (
	"strings"
	"testing"
	"time"

	"pgbaton/internal/cluster"
)

const compareSQL = `
CREATE SCHEMA app;
CREATE TABLE app.keyed (id int PRIMARY KEY, v text, j json, f float8);
INSERT INTO app.keyed SELECT i, 'v' || i, '{"a" : 1}', i / 3.0 FROM generate_series(1, 1000) i;
CREATE TABLE app.heap (v text);
INSERT INTO app.heap VALUES ('x'), ('x'), (NULL), ('');
CREATE TABLE app.parent (a int); CREATE TABLE app.child (b int) INHERITS (app.parent);
INSERT INTO app.parent VALUES (1); INSERT INTO app.child VALUES (1, 2);
CREATE TABLE app.empty ();
INSERT INTO app.empty DEFAULT VALUES; INSERT INTO app.empty DEFAULT VALUES;
CREATE SEQUENCE app.s; SELECT nextval('app.s');
CREATE SEQUENCE app.untouched;
CREATE SEQUENCE app.full MAXVALUE 2; SELECT setval('app.full', 2);
CREATE SCHEMA pgbaton;
`

// TestCompareFinds makes one difference after another on one side of two equal databases.
func TestCompareFinds(t *testing.T) {
	t.Parallel()
	a, b := Start(t, 12), Start(t, 15)
	for name, test := range map[string]struct {
		sql  string
		want []string // in the differences; none: equal
	}{
		"nothing":         {`SELECT 1`, nil},
		"pgbaton's own":   {`CREATE TABLE pgbaton.t (a int); INSERT INTO pgbaton.t VALUES (1)`, nil},
		"missing row":     {`DELETE FROM app.keyed WHERE id = 500`, []string{`table "app"."keyed": 1000 rows on a, 999 on b`, `only on a: (`, `v500`}},
		"changed value":   {`UPDATE app.keyed SET v = 'other' WHERE id = 1000`, []string{"1 only on a, 1 only on b", "v1000", "other"}},
		"json spacing":    {`UPDATE app.keyed SET j = '{"a":1}' WHERE id = 3`, []string{"app"}},
		"last float bit":  {`UPDATE app.keyed SET f = f + 1e-16 WHERE id = 1`, []string{"0.333"}},
		"doubled row":     {`INSERT INTO app.heap VALUES ('x')`, []string{`table "app"."heap": 4 rows on a, 5 on b`, "only on b: (x)"}},
		"null for empty":  {`UPDATE app.heap SET v = NULL WHERE v = ''`, []string{`only on a: ("")`, `only on b: ()`}},
		"row moved down":  {`DELETE FROM ONLY app.parent; INSERT INTO app.child VALUES (1, NULL)`, []string{`"parent"`, `"child"`}},
		"no columns":      {`INSERT INTO app.empty DEFAULT VALUES`, []string{`table "app"."empty": 2 rows on a, 3 on b`}},
		"missing table":   {`DROP TABLE app.heap`, []string{`table "app"."heap": missing on b`}},
		"extra table":     {`CREATE TABLE app."new ""one" ()`, []string{`table "app"."new ""one": missing on a`}},
		"type":            {`ALTER TABLE app.heap ALTER v TYPE varchar(10)`, []string{"columns differ", "v text", "character varying(10)"}},
		"sequence":        {`SELECT nextval('app.s')`, []string{`sequence "app"."s": a: last_value 1, is_called true, next 2`, "b: last_value 2, is_called true, next 3"}},
		"is_called":       {`SELECT setval('app.s', 1, false)`, []string{"is_called false, next 1"}},
		"never called":    {`SELECT setval('app.untouched', 1, true)`, []string{`sequence "app"."untouched"`}},
		"increment":       {`ALTER SEQUENCE app.s INCREMENT 2`, []string{`increment 2`}},
		"exhausted":       {`SELECT setval('app.full', 1)`, []string{`next refused: 2200H`, "next 2"}},
		"missing numbers": {`DROP SEQUENCE app.s`, []string{`sequence "app"."s": missing on b`}},
	} {
		t.Run(name, func(t *testing.T) {
			db := strings.ReplaceAll(name, "'", "") // a database of its own on both sides
			for _, c := range []*cluster.Cluster{a, b} {
				Exec(t, c.ConnString("postgres"), `CREATE DATABASE "`+db+`"`)
				Exec(t, c.ConnString(db), compareSQL)
			}
			Exec(t, b.ConnString(db), test.sql)
			for range 2 { // the comparison leaves no trace
				diff, err := Compare(t.Context(), a.ConnString(db), b.ConnString(db), CompareOptions{NextValues: true})
				if err != nil {
					t.Fatal(err)
				}
				text := strings.Join(diff, "\n")
				if (len(diff) == 0) != (len(test.want) == 0) {
					t.Errorf("differences: %q", diff)
				}
				for _, want := range test.want {
					if !strings.Contains(text, want) {
						t.Errorf("%q is not in the differences\n%s", want, text)
					}
				}
			}
		})
	}
}

func TestCompareExcept(t *testing.T) {
	t.Parallel()
	c := Start(t, 15)
	Exec(t, c.ConnString("postgres"), "CREATE DATABASE a", "CREATE DATABASE b")
	Exec(t, c.ConnString("a"), "CREATE TABLE t (a int)", "CREATE SEQUENCE s")
	diff, err := Compare(t.Context(), c.ConnString("a"), c.ConnString("b"), CompareOptions{
		Except: func(schema, name string) bool { return schema == "public" },
	})
	if err != nil || len(diff) > 0 {
		t.Errorf("%q, %v", diff, err)
	}
}

func TestCompareLargeTable(t *testing.T) {
	t.Parallel()
	a, b := Start(t, 12), Start(t, 18)
	for _, c := range []*cluster.Cluster{a, b} {
		Exec(t, c.ConnString("postgres"), `CREATE TABLE t AS SELECT i, md5(i::text) m, i / 7.0 n FROM generate_series(1, 300000) i`)
	}
	Exec(t, b.ConnString("postgres"), `UPDATE t SET m = '' WHERE i = 123456`)
	start := time.Now()
	diff, err := Compare(t.Context(), a.ConnString("postgres"), b.ConnString("postgres"), CompareOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(diff) != 1 || !strings.Contains(diff[0], "123456") {
		t.Errorf("differences: %q", diff)
	}
	t.Logf("300000 rows in %v", time.Since(start))
}
