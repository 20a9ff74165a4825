package pgtest

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed nasty/roles.sql
var nastyRoles string

//go:embed nasty/12.sql
var nasty12 string

//go:embed nasty/14.sql
var nasty14 string

//go:embed nasty/15.sql
var nasty15 string

//go:embed nasty/17.sql
var nasty17 string

//go:embed nasty/18.sql
var nasty18 string

// NastySQL fills an empty database with traps known to a major version and its predecessors: to be
// loaded by a superuser, by Exec as one string.
func NastySQL(major int) string {
	parts := []string{nastyRoles, nasty12}
	for _, p := range []struct {
		since int
		sql   string
	}{{14, nasty14}, {15, nasty15}, {17, nasty17}, {18, nasty18}} {
		if major >= p.since {
			parts = append(parts, p.sql)
		}
	}
	return strings.Join(parts, "\n")
}

// NastyWrite runs the i-th transaction of a mixture of all kinds of changes to the tables of NastySQL;
// i counts from 1. Not for several writers at a time. It updates and deletes rows of the tables without
// a key too, which a publication forbids unless they have been given a replica identity.
func NastyWrite(ctx context.Context, conn interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}, i int) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range nastyStatements(i) {
			// Statements are texts without parameters: no type has to be known to the driver.
			if _, err := tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
				return fmt.Errorf("nasty write %d: %s: %w", i, excerpt(sql), err)
			}
		}
		return nil
	})
}

// Keys of rows made by NastyWrite begin here, above those that NastySQL made.
const nastyBase = 1000

// nastyWrites are templates: $i is the transaction's number, $n a key never used before, $o the key that
// transaction i-5 used. The i-th transaction runs those whose turn it is.
var nastyWrites = []struct {
	every int
	sql   string
}{
	{1, `INSERT INTO "Schema with ""quotes"", spaces. and dots"."we""ird; DROP TABLE x; --" VALUES ($n, $i / 3.0, E'\\. \n\\N', '%')`},
	{3, `UPDATE "Schema with ""quotes"", spaces. and dots"."we""ird; DROP TABLE x; --" SET "a\b'c" = '$i' WHERE "select" % 10 = $i % 10`},
	{2, `DELETE FROM "Schema with ""quotes"", spaces. and dots"."we""ird; DROP TABLE x; --" WHERE "select" = $o`},
	{1, `UPDATE "Schema with ""quotes"", spaces. and dots"."表 ☃ 😀" SET "значение" = 'значение $i' WHERE id = 1`},
	{1, `INSERT INTO nasty."values" (f8, txt, ints, moods, pr, jb, b, rf, dom) VALUES ('NaN', E'\\N\t$i', '[-1:0]={$i,NULL}', '{sad}', '($i,"a""b",sad)', '{"i": $i}', '\x005c', '[0.1,$i]', $i)`},
	{4, `UPDATE nasty."values" SET f4 = '-0', n = n + 0.10, texts = '{NULL,"$i"}', d = '-infinity' WHERE id % 7 = $i % 7`},
	{5, `DELETE FROM nasty."values" WHERE id > 50 AND id % 11 = 3`},
	{1, `INSERT INTO nasty.no_key VALUES ($i % 7, 'dup', 1.50), ($i % 7, 'dup', 1.50)`},
	{3, `UPDATE nasty.no_key SET c = c + 1 WHERE a = $i % 7`},
	{4, `DELETE FROM nasty.no_key WHERE ctid = (SELECT min(ctid) FROM nasty.no_key WHERE a = $i % 7)`},
	{1, `INSERT INTO nasty.unique_no_key VALUES ($n, 'b', 'v')`},
	{2, `UPDATE nasty.unique_no_key SET b = b || 'x', v = '$i' WHERE a % 20 = $i % 20`},
	{3, `DELETE FROM nasty.unique_no_key WHERE a = $o`},
	{2, `INSERT INTO nasty.useless_indexes VALUES (NULL, $n, $n)`},
	{4, `UPDATE nasty.useless_indexes SET a = NULL WHERE b = $i % 20 + 1`},
	{2, `INSERT INTO nasty.identity_full VALUES ($i % 3, 'x')`},
	{3, `UPDATE nasty.identity_full SET b = b || '$i' WHERE ctid = (SELECT max(ctid) FROM nasty.identity_full)`},
	{5, `DELETE FROM nasty.identity_full WHERE ctid = (SELECT min(ctid) FROM nasty.identity_full)`},
	{1, `UPDATE nasty.identity_index SET other = other - 1000, id = id + 1000 WHERE id % 30 = $i % 30 AND id < 30000`},
	{2, `INSERT INTO nasty.included VALUES ($n, $i, 'v')`},
	{3, `INSERT INTO nasty.no_columns DEFAULT VALUES`},
	{1, `INSERT INTO nasty.dropped_columns (id, v) VALUES ($n, 'new')`},
	{2, `UPDATE nasty.dropped_columns SET added = NULL, id = id + 100000 WHERE id = $o`},
	{1, `INSERT INTO nasty.generated (a, b) VALUES ($i, NULL)`},
	{2, `UPDATE nasty.generated SET a = a + 1, b = 'c' WHERE a % 5 = $i % 5`},
	{1, `INSERT INTO nasty.child (id, a, b, extra) VALUES ($n, 'child', 1, 'e')`},
	{2, `UPDATE nasty.parent SET a = 'all of them $i' WHERE id % 10 = $i % 10`},
	{3, `INSERT INTO nasty.grandchild (id, a, b, z) VALUES ($n, 'g', NULL, $i)`},
	{5, `DELETE FROM nasty.parent WHERE id = $o`},
	{1, `INSERT INTO nasty."part root" (region, day, id, v) VALUES ('eu', '2024-02-03', $n, 'v'), ('us', '2024-02-03', $n, 'v')`},
	{2, `UPDATE nasty."part root" SET region = 'mars', v = 'moved' WHERE region = 'eu' AND id = $o`}, // on 12 a delete and an insert
	{3, `UPDATE nasty."part root" SET day = day - 300 WHERE region = 'uk' AND id % 10 = $i % 10 AND day > '2020-01-01'`},
	{4, `DELETE FROM nasty."part root" WHERE id % 20 = $i % 20`},
	{1, `INSERT INTO nasty.part_hash VALUES ($n, 'v')`},
	{2, `UPDATE nasty.wide SET "Column 1" = 'x$i', "Column 350" = $i WHERE id = $i % 20 + 1`},
	{1, `UPDATE nasty.toasted SET small = small + 1 WHERE id = $i % 4 + 1`}, // the wide columns are not sent
	{7, `UPDATE nasty.toasted SET external = external || '$i' WHERE id = $i % 4 + 1`},
	{9, `INSERT INTO nasty.toasted SELECT $n, external, compressed, $i, j FROM nasty.toasted WHERE id = 1`},
	{1, `INSERT INTO nasty.serials (v) VALUES ('$i')`},
	{1, `INSERT INTO nasty.default_from_nobodys_sequence (v) VALUES ('$i')`},
	{1, `SELECT nextval('nasty.descending'), nextval('nasty.cyclic')`},
	{1, `INSERT INTO nasty.hen VALUES ($n, $n)`}, // the egg comes after the hen
	{1, `INSERT INTO nasty.egg VALUES ($n, $n)`},
	{2, `INSERT INTO nasty.tree SELECT $n, max(id), '$i' FROM nasty.tree`},
	{3, `UPDATE nasty.tree SET id = id + 100000 WHERE id = $i % 63 + 1`}, // cascades
	{6, `DELETE FROM nasty.tree WHERE id = $i % 30 + 1`},                 // cascades
	{2, `INSERT INTO nasty.excluded VALUES ($n, int4range($n * 10, $n * 10 + 5))`},
	{3, `UPDATE nasty.excluded SET during = int4range(lower(during) + 1, upper(during) + 1) WHERE id = $i % 20 + 1`},
	{1, `INSERT INTO nasty.not_valid VALUES ($n, 1, NULL, 1)`},
	{1, `INSERT INTO nasty.volatile_default (id) VALUES ($n)`},
	{1, `INSERT INTO nasty.audited VALUES ($n, 'x$i')`},
	{2, `UPDATE nasty.audited SET v = v || 'y' WHERE id % 20 = $i % 20`},
	{4, `DELETE FROM nasty.audited WHERE id = $o`},
	{1, `INSERT INTO nasty.ruled VALUES ($n, 'r')`},
	{1, `INSERT INTO nasty.rls VALUES ($n, 'me', 'v')`},
	{1, `INSERT INTO nasty.truncated (v) VALUES ('$i'), ('$i')`},
	{4, `TRUNCATE nasty.truncated`},
	{10, `TRUNCATE nasty.truncated, nasty.truncated_too RESTART IDENTITY`},
	{2, `INSERT INTO nasty.truncated_too VALUES ($n, 'v')`},
}

func nastyStatements(i int) []string {
	fill := strings.NewReplacer("$i", fmt.Sprint(i), "$n", fmt.Sprint(nastyBase+i), "$o", fmt.Sprint(nastyBase+i-5))
	var statements []string
	for _, w := range nastyWrites {
		if i%w.every == 0 {
			statements = append(statements, fill.Replace(w.sql))
		}
	}
	return statements
}
