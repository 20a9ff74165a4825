package tablecopy

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// This file decides which tables are copied in parts, and where they are cut. A
// part costs the target more than the same rows of a whole table, which are
// written frozen: a table is cut only when without it the load would wait for
// one copy at the end.

const (
	// leastSplit is the size below which a table is never cut on our own account: to
	// copy it whole takes about a minute, which is less than to freeze its rows later.
	leastSplit = 8 << 30
	// leastPart is worth a session's while.
	leastPart = 64 << 20
	mostParts = 256
)

// planSplits returns, by table, the conditions of its parts. Until release is called,
// no table that is cut can be rewritten: its rows would move from part to part.
func (l *loader) planSplits(ctx context.Context) (splits map[uint32][]string, release func(), err error) {
	above := l.job.SplitAbove
	if above == 0 {
		// A copy keeps one process of either server busy. A table that is no more
		// than its share is loaded whole beside others.
		var total int64
		for i := range l.job.Tables {
			if l.job.Tables[i].Snapshot != "" {
				total += l.job.Tables[i].Bytes
			}
		}
		above = max(leastSplit, total/int64(l.job.Jobs))
	}
	splits = map[uint32][]string{}
	var conn *postgres.Session
	release = func() {
		if conn != nil {
			end(ctx, conn.PgConn(), false)
		}
	}
	for i := range l.job.Tables {
		t := &l.job.Tables[i]
		if t.Snapshot == "" || t.Bytes <= above || l.job.Jobs == 1 || columnList(t.Table) == "" {
			continue
		}
		if conn == nil {
			if conn, err = l.job.Source.Connect(ctx); err != nil {
				return nil, release, err
			}
			if _, err = conn.Exec(ctx, "BEGIN READ ONLY"); err != nil {
				return nil, release, postgres.Wrap(postgres.Source, "dividing tables", err)
			}
		}
		// Twice as many as there are copies, so that all end at about the same time.
		n := min(mostParts, 2*l.job.Jobs, int(t.Bytes/min(leastPart, max(1, above/2))))
		_, err := conn.Exec(ctx, "LOCK TABLE ONLY "+t.Ident.String()+" IN ACCESS SHARE MODE")
		var conditions []string
		if err == nil {
			conditions, err = split(ctx, conn, t.Table, n)
		}
		if err != nil {
			return nil, release, postgres.Wrap(postgres.Source, "dividing "+t.Ident.String(), err)
		}
		if len(conditions) > 1 {
			splits[t.OID] = conditions
		}
	}
	return splits, release, nil
}

// split returns conditions that divide the rows of a table: each row that a
// snapshot taken before shows satisfies exactly one, unless the table is rewritten. None: it cannot be divided
// without reading all of it for each part.
func split(ctx context.Context, q catalog.Querier, t catalog.Table, n int) ([]string, error) {
	v := postgres.VersionOf(q)
	if n < 2 {
		return nil, nil
	}
	if v.Major() >= 14 { // which scan a range of blocks
		return splitByBlock(ctx, q, t, n)
	}
	return splitByKey(ctx, q, t, n)
}

// splitByBlock cuts a table at block numbers. The last part is open: the table may
// have grown since the snapshot, but what is visible under it does not move.
func splitByBlock(ctx context.Context, q catalog.Querier, t catalog.Table, n int) ([]string, error) {
	var blocks int64
	err := q.QueryRow(ctx, `SELECT pg_catalog.pg_relation_size($1) / pg_catalog.current_setting('block_size')::bigint`, t.OID).Scan(&blocks)
	if err != nil || blocks < int64(n) {
		return nil, err
	}
	var conditions []string
	for i := range int64(n) {
		from, to := blocks*i/int64(n), blocks*(i+1)/int64(n)
		switch i {
		case 0:
			conditions = append(conditions, fmt.Sprintf("ctid < '(%d,0)'", to))
		case int64(n) - 1:
			conditions = append(conditions, fmt.Sprintf("ctid >= '(%d,0)'", from))
		default:
			conditions = append(conditions, fmt.Sprintf("ctid >= '(%d,0)' AND ctid < '(%d,0)'", from, to))
		}
	}
	return conditions, nil
}

// keyBounds reads the histogram of the first column of a table's key, with the
// column's type. Where the order of the rows on disk does not follow the key,
// every part would read all blocks: such a column is not returned.
const keyBounds = `
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), s.histogram_bounds::text::text[]
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_am am ON am.oid = x.relam AND am.amname = 'btree'
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attnotnull
JOIN pg_catalog.pg_stats s ON s.schemaname = $2 AND s.tablename = $3 AND s.attname = a.attname AND NOT s.inherited
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
	AND pg_catalog.abs(s.correlation) >= 0.9 AND s.histogram_bounds IS NOT NULL
ORDER BY pg_catalog.abs(s.correlation) DESC, a.attname
LIMIT 1`

// splitByKey cuts a table at values of its key that lie evenly in the histogram.
func splitByKey(ctx context.Context, q catalog.Querier, t catalog.Table, n int) ([]string, error) {
	var column, typ string
	var bounds []string
	rows, err := q.Query(ctx, keyBounds, t.OID, t.Schema, t.Name)
	if err != nil {
		return nil, err
	}
	if _, err := pgx.ForEachRow(rows, []any{&column, &typ, &bounds}, func() error { return nil }); err != nil || len(bounds) < 3 {
		return nil, err
	}
	var cuts []string
	for i := 1; i < n; i++ {
		at := int(math.Round(float64(i) * float64(len(bounds)-1) / float64(n)))
		if at > 0 && at < len(bounds)-1 {
			cuts = append(cuts, postgres.QuoteLiteral(bounds[at])+"::"+typ)
		}
	}
	cuts = slices.Compact(cuts)
	if len(cuts) == 0 {
		return nil, nil
	}
	name := postgres.QuoteIdent(column)
	conditions := []string{fmt.Sprintf("%s < %s", name, cuts[0])}
	for i, cut := range cuts {
		condition := fmt.Sprintf("%s >= %s", name, cut)
		if i+1 < len(cuts) {
			condition += fmt.Sprintf(" AND %s < %s", name, cuts[i+1])
		}
		conditions = append(conditions, condition)
	}
	return conditions, nil
}
