package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// CompareOptions restrict or extend a comparison.
type CompareOptions struct {
	// NextValues also draws the next value of every sequence on both sides and then puts the sequence
	// back: both sides must be writable for the connecting user, and nobody else may use them.
	NextValues bool
	// NoSequences leaves sequences out.
	NoSequences bool
	// Except says which tables and sequences to leave out, by unquoted names.
	Except func(schema, name string) bool
	// Names of the two sides in the differences; empty: a and b.
	Names [2]string
	// MaxRows bounds the differing rows shown per table; 0: 5.
	MaxRows int
}

// Compare compares two databases, of PostgreSQL 12 or newer: every row of every ordinary table and leaf
// partition outside of schema pgbaton, and every sequence. It returns differences for people to read,
// none when the databases are equal. Each side is read in one snapshot, but the two are not taken
// together: both sides must be at rest.
//
// Rows are compared as sorted multisets of their text form, so that tables without a key, duplicate rows
// and types without a comparison operator are right too. Columns are matched by name: their order may
// differ.
func Compare(ctx context.Context, a, b string, o CompareOptions) (diff []string, err error) {
	if o.Names == [2]string{} {
		o.Names = [2]string{"a", "b"}
	}
	if o.MaxRows == 0 {
		o.MaxRows = 5
	}
	c := comparison{CompareOptions: o}
	for i, uri := range []string{a, b} {
		conn, err := openForComparison(ctx, uri)
		if err != nil {
			return nil, fmt.Errorf("compare: %s: %w", o.Names[i], err)
		}
		defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
		c.conns[i] = conn
	}
	if err := c.compareTables(ctx); err != nil {
		return nil, fmt.Errorf("compare: %w", err)
	}
	if !o.NoSequences {
		if err := c.compareSequences(ctx); err != nil {
			return nil, fmt.Errorf("compare: %w", err)
		}
	}
	return c.diff, nil
}

type comparison struct {
	CompareOptions
	conns [2]*pgx.Conn
	diff  []string
}

func (c *comparison) report(format string, args ...any) {
	c.diff = append(c.diff, fmt.Sprintf(format, args...))
}

// Everything that changes how a value is written is set, and the fence's read-only default is not minded.
const comparisonSession = `
SET search_path = '';
SET row_security = off;
SET client_encoding = 'UTF8';
SET extra_float_digits = 3;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';
SET bytea_output = 'hex';
SET xmloption = 'content';
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET lock_timeout = '30s';
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
`

func openForComparison(ctx context.Context, uri string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, uri)
	if err != nil {
		return nil, err
	}
	if _, err := conn.PgConn().Exec(ctx, comparisonSession).ReadAll(); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

type name struct{ schema, relation string }

func (n name) quoted() string { return pgx.Identifier{n.schema, n.relation}.Sanitize() }

func compareNames(a, b name) int {
	if c := strings.Compare(a.schema, b.schema); c != 0 {
		return c
	}
	return strings.Compare(a.relation, b.relation)
}

const listColumns = `
SELECT n.nspname::text, c.relname::text,
       coalesce(array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C") FILTER (WHERE a.attname IS NOT NULL), '{}'),
       coalesce(array_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) ORDER BY a.attname::text COLLATE "C") FILTER (WHERE a.attname IS NOT NULL), '{}')
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind = 'r' AND c.relpersistence <> 't'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgbaton') AND n.nspname NOT LIKE 'pg\_toast%'
 GROUP BY 1, 2`

type table struct{ columns, types []string }

func (c *comparison) tables(ctx context.Context, conn *pgx.Conn) (map[name]table, error) {
	rows, err := conn.Query(ctx, listColumns)
	if err != nil {
		return nil, err
	}
	tables := map[name]table{}
	var n name
	var t table
	_, err = pgx.ForEachRow(rows, []any{&n.schema, &n.relation, &t.columns, &t.types}, func() error {
		if c.Except == nil || !c.Except(n.schema, n.relation) {
			tables[n] = t
		}
		t = table{}
		return nil
	})
	return tables, err
}

// bothSides returns the names known to both sides, sorted, and reports the others.
func bothSides[V any](c *comparison, kind string, sides [2]map[name]V) []name {
	var both []name
	for _, n := range slices.SortedFunc(maps.Keys(sides[0]), compareNames) {
		if _, ok := sides[1][n]; ok {
			both = append(both, n)
		} else {
			c.report("%s %s: missing on %s", kind, n.quoted(), c.Names[1])
		}
	}
	for _, n := range slices.SortedFunc(maps.Keys(sides[1]), compareNames) {
		if _, ok := sides[0][n]; !ok {
			c.report("%s %s: missing on %s", kind, n.quoted(), c.Names[0])
		}
	}
	return both
}

func (c *comparison) compareTables(ctx context.Context) error {
	var sides [2]map[name]table
	for i, conn := range c.conns {
		var err error
		if sides[i], err = c.tables(ctx, conn); err != nil {
			return fmt.Errorf("list the tables of %s: %w", c.Names[i], err)
		}
	}
	for _, n := range bothSides(c, "table", sides) {
		ta, tb := sides[0][n], sides[1][n]
		if !slices.Equal(ta.columns, tb.columns) || !slices.Equal(ta.types, tb.types) {
			c.report("table %s: columns differ: %s has %s, %s has %s", n.quoted(), c.Names[0], ta, c.Names[1], tb)
			continue
		}
		if err := c.compareRows(ctx, n, ta); err != nil {
			return fmt.Errorf("table %s: %w", n.quoted(), err)
		}
	}
	return nil
}

func (t table) String() string {
	s := make([]string, len(t.columns))
	for i := range t.columns {
		s[i] = t.columns[i] + " " + t.types[i]
	}
	return "(" + strings.Join(s, ", ") + ")"
}

// rowStream reads the sorted rows of one side.
type rowStream struct {
	reader *pgconn.ResultReader
	row    []byte // valid until the next call of next
	ended  bool
	count  int
}

func (s *rowStream) next() error {
	if s.reader.NextRow() {
		s.row = s.reader.Values()[0]
		s.count++
		return nil
	}
	s.ended = true
	_, err := s.reader.Close()
	return err
}

func (c *comparison) compareRows(ctx context.Context, n name, t table) error {
	quoted := make([]string, len(t.columns))
	for i, column := range t.columns {
		quoted[i] = "t." + pgx.Identifier{column}.Sanitize()
		if t.types[i] == "pg_lsn" { // 0/0 is written 0/00000000 since 19
			quoted[i] += " - '0/0'::pg_catalog.pg_lsn"
		}
	}
	// ONLY: the children of a table are compared as tables of their own.
	sql := fmt.Sprintf(`SELECT (ROW(%s)::text) COLLATE pg_catalog."C" AS r FROM ONLY %s AS t ORDER BY 1`, strings.Join(quoted, ", "), n.quoted())

	var streams [2]*rowStream
	for i, conn := range c.conns {
		streams[i] = &rowStream{reader: conn.PgConn().ExecParams(ctx, sql, nil, nil, nil, nil)}
	}
	defer func() { // no connection may stay busy when we leave early
		for _, s := range streams {
			if !s.ended {
				_, _ = s.reader.Close()
			}
		}
	}()
	for i, s := range streams {
		if err := s.next(); err != nil {
			return fmt.Errorf("%s: %w", c.Names[i], err)
		}
	}
	var shown []string
	var only [2]int // rows that one side has more than the other
	found := func(i int) error {
		only[i]++
		if len(shown) < c.MaxRows {
			shown = append(shown, fmt.Sprintf("only on %s: %s", c.Names[i], excerpt(string(streams[i].row))))
		}
		return streams[i].next()
	}
	for a, b := streams[0], streams[1]; !a.ended || !b.ended; {
		var order int
		switch {
		case a.ended:
			order = 1
		case b.ended:
			order = -1
		default:
			order = bytes.Compare(a.row, b.row)
		}
		var err error
		switch {
		case order < 0:
			err = found(0)
		case order > 0:
			err = found(1)
		default:
			err = errors.Join(a.next(), b.next())
		}
		if err != nil {
			return err
		}
	}
	if only != [2]int{} {
		c.report("table %s: %d rows on %s, %d on %s; %d only on %s, %d only on %s:\n  %s", n.quoted(),
			streams[0].count, c.Names[0], streams[1].count, c.Names[1],
			only[0], c.Names[0], only[1], c.Names[1], strings.Join(shown, "\n  "))
	}
	return nil
}
