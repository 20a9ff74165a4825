package preflight_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/preflight"
)

// equalRows: tables without a key whose columns call values equal that are not
// the same. Those with such rows block, those that could get them warn, and all
// others are not named.
var equalRows = scenario{
	healthy: `CREATE EXTENSION citext; CREATE EXTENSION hstore;
CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE exact (i int, t text, c char(5), n numeric(10,2), ns numeric(10,2)[], d date, u uuid, b bytea, e inet, h hstore);
INSERT INTO exact (c, n) VALUES ('a', 1), ('a ', 1.00);
CREATE TABLE keyed (i int PRIMARY KEY, v citext); INSERT INTO keyed VALUES (1, 'Bob'), (2, 'bob');
CREATE TABLE fully (i int PRIMARY KEY, v numeric); ALTER TABLE fully REPLICA IDENTITY FULL;
CREATE TABLE by_index (i int NOT NULL UNIQUE, v float8);
CREATE DOMAIN price AS numeric(8,2); CREATE TABLE prices (p price);
CREATE TABLE computed (i int, g numeric GENERATED ALWAYS AS (i * 1.50) STORED)`,
	problems: []problem{
		{code: "equal-rows", side: src, severity: blocker, remedied: true,
			source: `CREATE TABLE "Na mes" (v citext, n int); INSERT INTO "Na mes" VALUES ('Bob', 1), ('bob', 1), ('Eve', 1);
CREATE TABLE collated (v text COLLATE ci); INSERT INTO collated VALUES ('Bob'), ('bob');
CREATE TABLE nums (v numeric); INSERT INTO nums VALUES (1.0), (1.00);
CREATE TABLE zeros (v float4); INSERT INTO zeros VALUES ('0'), ('-0');
CREATE TABLE padded (v bpchar); INSERT INTO padded VALUES ('a'), ('a  ');
CREATE TABLE spans (v interval); INSERT INTO spans VALUES ('1 day'), ('24:00');
CREATE TABLE docs (v jsonb); INSERT INTO docs VALUES ('{"a": 1.0}'), ('{"a": 1.00}');
CREATE TABLE lists (v numeric[]); INSERT INTO lists VALUES ('{1.0}'), ('{1.00}');
CREATE TABLE ranges (v numrange); INSERT INTO ranges VALUES ('[1.0,2]'), ('[1.00,2]');
CREATE TYPE pair AS (a int, b float8); CREATE TABLE pairs (v pair); INSERT INTO pairs VALUES ('(1,0)'), ('(1,-0)');
CREATE DOMAIN amount AS numeric; CREATE TABLE amounts (v amount); INSERT INTO amounts VALUES (2), (2.0);
CREATE TABLE parts (k int, v citext) PARTITION BY RANGE (k); CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (9);
INSERT INTO parts VALUES (1, 'Bob'), (1, 'bob')`,
			says: []string{"12 tables without a key have", `"public"."Na mes": v public.citext`, `"public"."collated": v text COLLATE public.ci`, `"public"."nums": v numeric`,
				`"public"."zeros"`, `"public"."padded"`, `"public"."spans"`, `"public"."docs"`, `"public"."lists"`, `"public"."ranges"`,
				`"public"."pairs"`, `"public"."amounts"`, `"public"."part1"`}},
		{code: "coarse-equality", side: src, severity: warn, remedied: true, says: []string{"1 table without a key", `"public"."may": v numeric, w public.citext`},
			source: `CREATE TABLE may (v numeric, w citext, n int); INSERT INTO may VALUES (1.0, 'Bob', 1), (1.00, 'bob', 2), (1.0, 'Bob', 1)`},
	},
}

// generatedBack: a target of 18 will not publish what an older source does. What is
// a blocker on the source is not told again, and its key not given again.
var generatedBack = scenario{
	options: options{db: "generated"},
	healthy: `CREATE TABLE keyed (i int PRIMARY KEY, g int GENERATED ALWAYS AS (i + 1) STORED)`,
	problems: []problem{
		{code: "generated-identity", side: src, severity: blocker, remedied: true, says: []string{"1 table "},
			source: `CREATE TABLE pk (a int, g int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY)`},
		{code: "generated-identity", side: tgt, severity: warn, remedied: true, on: src, says: []string{"2 tables ", `"public"."fully": g`, `"public"."bare": g`},
			source: `CREATE TABLE bare (a int, g int GENERATED ALWAYS AS (a + 1) STORED); INSERT INTO bare VALUES (1), (1);
CREATE TABLE fully (a int PRIMARY KEY, g int GENERATED ALWAYS AS (a + 1) STORED); ALTER TABLE fully REPLICA IDENTITY FULL`},
	},
}

// TestEqualRows on an old and a new pair.
func TestEqualRows(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{12, 17}, {17, 18}} {
		t.Run(fmt.Sprintf("%d to %d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Start(t, pair[0]), pgtest.Start(t, pair[1])
			equalRows.play(t, source, target)
			if pair[1] == 18 {
				generatedBack.play(t, source, target)
			}
		})
	}
}

// TestEqualRowsOldest: a server without nondeterministic collations, generated
// columns and multiranges; and rows that may not be read, or not in time, are not
// taken for rows that are not there.
func TestEqualRowsOldest(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 10), pgtest.Start(t, 10)
	pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE d`, `CREATE ROLE mover LOGIN REPLICATION`)
	pgtest.Exec(t, source.ConnString("d"), `CREATE TABLE nums (v numeric); INSERT INTO nums VALUES (1.0), (1.00)`,
		`CREATE TABLE exact (v int)`)
	f := want(t, run(t, source, target, options{db: "d"}), "equal-rows", src, blocker)
	if len(f.Objects) != 1 || !strings.Contains(f.Objects[0], "nums") {
		t.Errorf("objects: %q", f.Objects)
	}
	accepted := want(t, run(t, source, target, options{db: "d", accept: []string{"equal-rows"}}), "equal-rows", src, preflight.Warning)
	if !strings.Contains(accepted.Text, "(accepted)") {
		t.Errorf("text: %s", accepted.Text)
	}
	r := run(t, source, target, options{db: "d", user: "mover", targetUser: "postgres"})
	wantNot(t, r, "equal-rows", src)
	f = want(t, r, "coarse-equality", src, warn)
	if !strings.Contains(f.Objects[0], "nums") || !strings.Contains(f.Objects[0], "permission denied") {
		t.Errorf("objects: %q", f.Objects)
	}

	// What takes too long is not known.
	pgtest.Exec(t, source.ConnString("d"), `INSERT INTO nums SELECT i FROM generate_series(1, 200000) i`)
	conn := pgtest.Connect(t, source.ConnString("d"))
	if has, unknown, err := preflight.HasEqualRows(t.Context(), conn, "public", "nums", "v", time.Millisecond); has || err != nil || !strings.Contains(unknown, "not within") {
		t.Errorf("within a millisecond: %t, %q, %v", has, unknown, err)
	}
	if has, unknown, err := preflight.HasEqualRows(t.Context(), conn, "public", "nums", "v", time.Minute); !has || err != nil || unknown != "" {
		t.Errorf("within a minute: %t, %q, %v", has, unknown, err)
	}

	// Nor is what the server cannot do at all.
	pgtest.Exec(t, source.ConnString("d"), `CREATE TABLE unequal (v json)`)
	if has, unknown, err := preflight.HasEqualRows(t.Context(), conn, "public", "unequal", "v", time.Minute); has || err != nil || !strings.Contains(unknown, "equality operator") {
		t.Errorf("a type without equality: %t, %q, %v", has, unknown, err)
	}
}
