package cli_test

import (
	"fmt"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// statisticsSQL makes tables whose statistics can be taken along, and those whose
// cannot, named by why.
const statisticsSQL = `
CREATE DOMAIN pad AS text DEFAULT repeat('x', 100); -- every table has more than a megabyte
CREATE TABLE fresh (id int PRIMARY KEY, t text, n int, j json, "Ünlike ""this""" point, g int GENERATED ALWAYS AS (n + 1) STORED, p pad);
INSERT INTO fresh SELECT i, md5(i::text), i % 7, '{}', point(i, i) FROM generate_series(1, 12000) i;
CREATE TABLE "fresh 'n "" bloated" (id int PRIMARY KEY, p pad);
INSERT INTO "fresh 'n "" bloated" SELECT generate_series(1, 30000);
DELETE FROM "fresh 'n "" bloated" WHERE id % 10 > 0;
CREATE TABLE target_zero (id int PRIMARY KEY, t text, p pad);
ALTER TABLE target_zero ALTER t SET STATISTICS 0;
INSERT INTO target_zero SELECT i, i::text FROM generate_series(1, 12000) i;
CREATE TABLE parted (id int PRIMARY KEY, k int, p pad) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (20000);
INSERT INTO parted SELECT i, i % 3 FROM generate_series(1, 12000) i;

CREATE TABLE small (id int PRIMARY KEY);
INSERT INTO small SELECT generate_series(1, 500);
CREATE TABLE uncounted (id int PRIMARY KEY, p pad) WITH (autovacuum_enabled = off);
INSERT INTO uncounted SELECT generate_series(1, 12000);
CREATE TABLE expression (id int PRIMARY KEY, n int, p pad);
INSERT INTO expression SELECT i, i % 9 FROM generate_series(1, 12000) i;
CREATE INDEX ON expression ((n * 2));
CREATE TABLE extended (id int PRIMARY KEY, a int, b int, p pad);
CREATE STATISTICS both_of (dependencies) ON a, b FROM extended;
INSERT INTO extended SELECT i, i % 5, i % 5 FROM generate_series(1, 12000) i;
CREATE TABLE no_index (t text, p pad);
INSERT INTO no_index SELECT i::text FROM generate_series(1, 12000) i;
CREATE TABLE stale (id int PRIMARY KEY, n int, p pad);
INSERT INTO stale SELECT i, 1 FROM generate_series(1, 12000) i;
CREATE TABLE with_column (id int PRIMARY KEY, p pad);
INSERT INTO with_column SELECT generate_series(1, 12000);`

const afterAnalyze = `
UPDATE stale SET n = id;
ALTER TABLE with_column ADD late int DEFAULT 3;
CREATE TABLE never (id int PRIMARY KEY, p pad);
INSERT INTO never SELECT generate_series(1, 12000);`

// flush lets the server count what was written, not within the next second but now.
const flush = `SELECT pg_stat_force_next_flush()`

const columnStatistics = `
SELECT coalesce(string_agg(format('%s %s %s %s %s %s %s %s', attname, null_frac, avg_width, n_distinct, most_common_vals, most_common_freqs, histogram_bounds, correlation), E'\n' ORDER BY attname), '')
FROM pg_stats WHERE tablename = $1 AND NOT inherited`

// TestStatistics: a target of 18 takes the source's statistics where they are all that
// ANALYZE would gather, and only there; what a table holds it counts by itself.
func TestStatistics(t *testing.T) {
	t.Parallel()
	quiet := map[string]string{"autovacuum_naptime": "1d"} // on: an index build counts
	m := &move{t: t, source: pgtest.Start(t, 15, quiet), target: pgtest.Start(t, 18, quiet), db: "app"}
	m.load(statisticsSQL, flush, "ANALYZE", flush, afterAnalyze, flush)
	plan := m.run(0, "plan").Stdout
	m.run(0, "start")
	source, target := pgtest.Connect(t, m.sourceURI()), pgtest.Connect(t, m.targetURI())
	rows := map[string]int{"fresh": 12000, `fresh 'n " bloated`: 3000, "target_zero": 12000, "parted_1": 12000, "small": 500, "uncounted": 12000,
		"expression": 12000, "extended": 12000, "no_index": 12000, "stale": 12000, "with_column": 12000, "never": 12000}
	taken := []string{"fresh", `fresh 'n " bloated`, "target_zero", "parted_1"}
	for table, n := range rows {
		isTaken := false
		for _, name := range taken {
			isTaken = isTaken || name == table
		}
		t.Run(table, func(t *testing.T) {
			analyzed := pgtest.QueryValue[bool](t, target, `SELECT last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = $1`, table)
			planned := strings.Contains(plan, `ANALYZE "public"."`+strings.ReplaceAll(table, `"`, `""`)+`"`) ||
				strings.Contains(plan, `ANALYZE ONLY "public"."`+table+`"`)
			if planned == isTaken || analyzed == isTaken {
				t.Errorf("analyzed: %t, planned: %t, want the source's: %t", analyzed, planned, isTaken)
			}
			here, there := pgtest.QueryValue[string](t, source, columnStatistics, table), pgtest.QueryValue[string](t, target, columnStatistics, table)
			if isTaken && (here != there || here == "") {
				t.Errorf("statistics are\n%s\non the source\n%s", there, here)
			}
			if columns := strings.Count(there, "\n") + 1; there == "" || table == "with_column" && columns != 3 {
				t.Errorf("statistics of %d columns:\n%s", columns, there)
			}
			if got := pgtest.QueryValue[int](t, target, `SELECT reltuples::int FROM pg_class WHERE relname = $1`, table); got != n {
				t.Errorf("%d rows counted, want %d", got, n)
			}
			if !pgtest.QueryValue[bool](t, target, `SELECT relpages = pg_relation_size(oid) / 8192 FROM pg_class WHERE relname = $1`, table) {
				t.Error("the pages counted are not the target's")
			}
		})
	}
	for what, sql := range map[string]string{
		"extended statistics":            `SELECT EXISTS (SELECT FROM pg_stats_ext WHERE statistics_name = 'both_of' AND dependencies IS NOT NULL)`,
		"statistics of an expression":    `SELECT EXISTS (SELECT FROM pg_stats WHERE tablename = 'expression_expr_idx')`,
		"those of a table in partitions": `SELECT EXISTS (SELECT FROM pg_stats WHERE tablename = 'parted' AND inherited)`,
	} {
		if !pgtest.QueryValue[bool](t, target, sql) {
			t.Errorf("%s are missing", what)
		}
	}
	if n := pgtest.QueryValue[int](t, target, `SELECT analyze_count::int FROM pg_stat_user_tables WHERE relname = 'parted_1'`); n != 0 {
		t.Errorf("a partition was analyzed with its parent, %d times", n)
	}
	m.run(0, "switchover", "--yes")
	m.same()
}

// TestStatisticsRefused: statistics that cannot be restored are gathered.
func TestStatisticsRefused(t *testing.T) {
	t.Parallel()
	m := newMove(t, 15, 18)
	m.load(statisticsSQL, flush, "ANALYZE", flush, afterAnalyze, flush)
	// The server's own function is out of the way for a moment.
	pgtest.Exec(t, m.target.ConnString("postgres"), `CREATE DATABASE app`)
	pgtest.Exec(t, m.targetURI(), `ALTER FUNCTION pg_catalog.pg_restore_attribute_stats RENAME TO gone`)
	r := m.run(0, "start")
	if !strings.Contains(r.String(), "could not be restored in full") {
		t.Errorf("no warning:\n%s", r)
	}
	if missing := pgtest.QueryValue[string](t, pgtest.Connect(t, m.targetURI()), `SELECT coalesce(string_agg(relname, ', '), '') FROM pg_stat_user_tables
		WHERE last_analyze IS NULL AND schemaname = 'public'`); missing != "" {
		t.Error(fmt.Sprint("not analyzed: ", missing))
	}
}
