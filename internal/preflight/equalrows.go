package preflight

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// This file finds tables in which REPLICA IDENTITY FULL may find the wrong row. The
// apply worker looks for a row that is equal to the old one, by the equality of each
// column's type and collation (src/backend/executor/execReplication.c,
// tuples_equal), and takes the first. Where equal rows need not be the same, it may
// change or delete another one than the holder did, and nobody hears of it.

// coarseSQL lists the columns of the tables $1 whose equality holds for values that
// are not the same: -0 and 0, 1.0 and 1.00 (numeric that has no scale of its own),
// '1 day' and '24:00', trailing blanks (bpchar without a length), numbers in jsonb,
// and what a nondeterministic collation calls equal. Domains, arrays, composites and
// ranges have the equality of what they are made of. Of a type that an extension or
// a user made nothing is known: citext is one, postgis' geometry another; those of $2
// compare all there is. %[1]s, %[2]s and %[3]s are the versions' differences.
const coarseSQL = `
WITH RECURSIVE part (tbl, attnum, typ, typmod, coll) AS (
	SELECT attrelid, attnum, atttypid, atttypmod, attcollation
	FROM pg_catalog.pg_attribute
	WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped AND NOT %[1]s
	UNION
	SELECT part.tbl, part.attnum, x.typ, x.typmod, x.coll
	FROM part
	JOIN pg_catalog.pg_type t ON t.oid = part.typ
	CROSS JOIN LATERAL (
		SELECT t.typbasetype, t.typtypmod, part.coll WHERE t.typtype = 'd'
		UNION ALL
		SELECT t.typelem, part.typmod, part.coll WHERE t.typtype = 'b' AND t.typelem <> 0 AND t.typlen = -1
		UNION ALL
		SELECT f.atttypid, f.atttypmod, f.attcollation FROM pg_catalog.pg_attribute f
		WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped
		UNION ALL
		SELECT r.rngsubtype, -1, r.rngcollation FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid%[2]s)
	) AS x (typ, typmod, coll)
), coarse AS (
	SELECT DISTINCT part.tbl, part.attnum
	FROM part
	JOIN pg_catalog.pg_type t ON t.oid = part.typ
	LEFT JOIN pg_catalog.pg_collation c ON c.oid = part.coll
	WHERE t.oid IN (700, 701, 1186, 3802) -- float4, float8, interval, jsonb
		OR t.oid IN (1042, 1700) AND part.typmod < 0 -- bpchar, numeric
		OR %[3]s
		OR t.oid >= 16384 AND t.typtype = 'b' AND t.typelem = 0 AND NOT EXISTS (
			SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
			WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid AND d.deptype = 'e'
				AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND e.extname = ANY ($2))
)
SELECT a.attrelid, pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) ORDER BY a.attnum),
	pg_catalog.string_agg(pg_catalog.quote_ident(a.attname) || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod)
		|| coalesce((SELECT pg_catalog.format(' COLLATE %%I.%%I', n.nspname, c.collname)
			FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
			WHERE c.oid = a.attcollation AND n.nspname <> 'pg_catalog'), ''), ', ' ORDER BY a.attnum)
FROM coarse JOIN pg_catalog.pg_attribute a ON a.attrelid = coarse.tbl AND a.attnum = coarse.attnum
GROUP BY a.attrelid`

// exactExtensions have types that are equal only when they are the same.
var exactExtensions = []string{"hstore", "isn", "ltree", "seg"}

// coarse are the columns of a table that call values equal which are not the same.
type coarse struct {
	columns []string // quoted
	told    string   // "v numeric, w citext"
}

// readCoarse finds the columns of these tables whose equality is coarser than
// identity, by table.
func readCoarse(ctx context.Context, q catalog.Querier, tables []uint32) (map[uint32]coarse, error) {
	v := postgres.VersionOf(q)
	found := map[uint32]coarse{}
	if len(tables) == 0 {
		return found, nil
	}
	generated, multiranges, nondeterministic := "attgenerated <> ''", ", r.rngmultitypid", "NOT c.collisdeterministic"
	if v.Major() < 14 {
		multiranges = ""
	}
	if v.Major() < 12 {
		generated, nondeterministic = "false", "false"
	}
	rows, err := q.Query(ctx, fmt.Sprintf(coarseSQL, "("+generated+")", multiranges, nondeterministic), tables, exactExtensions)
	if err != nil {
		return nil, err
	}
	var oid uint32
	var c coarse
	_, err = pgx.ForEachRow(rows, []any{&oid, &c.columns, &c.told}, func() error {
		found[oid] = c
		return nil
	})
	return found, err
}

// equalRowsSQL asks whether a table has rows that are equal and not the same: a group
// of equal rows in which those columns are not printed alike. (A cast to text would
// strip trailing blanks; the output of a row does not.)
func equalRowsSQL(t *catalog.Table, c coarse) string {
	var all []string
	for _, column := range t.CopyColumns() {
		all = append(all, postgres.QuoteIdent(column.Name))
	}
	told := fmt.Sprintf(`(ROW(%s)::text COLLATE "C")`, strings.Join(c.columns, ", "))
	return fmt.Sprintf(`SELECT EXISTS (SELECT FROM ONLY %s GROUP BY %s HAVING pg_catalog.min(%[3]s) <> pg_catalog.max(%[3]s))`,
		t.Ident, strings.Join(all, ", "), told)
}

// What a check spends at most on looking for such rows: in one table, and in all.
const (
	equalRowsTimeout = 3 * time.Second
	equalRowsBudget  = 10 * time.Second
)

// hasEqualRows looks through a table. unknown says why it could not: the time was
// up, somebody holds a lock, the role may not read it, or whatever else the server says.
func hasEqualRows(ctx context.Context, conn *postgres.Session, t *catalog.Table, c coarse, within time.Duration) (has bool, unknown string, err error) {
	if within < time.Millisecond {
		return false, "the time is up", nil
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d", within.Milliseconds())); err != nil {
			return err
		}
		return tx.QueryRow(ctx, equalRowsSQL(t, c)).Scan(&has)
	})
	switch postgres.Code(err) {
	case "":
		return has, "", err
	case postgres.QueryCanceled:
		return false, fmt.Sprintf("not within %s", within.Round(time.Second)), nil
	}
	return false, postgres.Describe(err), nil
}

// checkEqualRows tells of the tables that will have FULL and columns with a coarse
// equality: a warning where such rows may come, a blocker where they are.
func checkEqualRows(ctx context.Context, e *end, n *needs) error {
	began := time.Now()
	var have, may []keyless
	var haveTold, mayTold []string
	for _, t := range n.coarse {
		c := n.columns[t.OID]
		told := fmt.Sprintf("%s: %s", t.Ident, c.told)
		has, unknown, err := hasEqualRows(ctx, e.conn, t.Table, c, min(equalRowsTimeout, equalRowsBudget-time.Since(began)))
		switch {
		case err != nil:
			return err
		case has:
			have, haveTold = append(have, t), append(haveTold, told)
		case unknown != "":
			told += " (its rows could not be looked through: " + unknown + ")"
			fallthrough
		default:
			may, mayTold = append(may, t), append(mayTold, told)
		}
	}
	const meaning = "the receiving side looks for an equal row, and may change or delete another one than was meant"
	if len(have) > 0 {
		e.add(Finding{Code: "equal-rows", Severity: Blocker, Side: e.Side, Objects: haveTold,
			Text: fmt.Sprintf("%s without a key %s rows that are equal and not the same, by columns whose equality takes several values for one: with FULL %s",
				plural(len(have), "table"), verb(len(have), "has", "have"), meaning),
			Remedy: statements(append(n.keys.give("equal-rows", have), "-- or, if nobody updates or deletes such rows: --accept equal-rows")...)})
	}
	if len(may) > 0 {
		e.add(Finding{Code: "coarse-equality", Severity: Warning, Side: e.Side, Objects: mayTold,
			Text: fmt.Sprintf("%s without a key and with columns whose equality takes several values for one (as 1.0 and 1.00): once rows differ by that alone, with FULL %s",
				plural(len(may), "table"), meaning),
			Remedy: statements(n.keys.give("coarse-equality", may)...)})
	}
	return nil
}

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
