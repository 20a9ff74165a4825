package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// content is what is in a database, in a form that does not depend on the
// server's version.
type content struct {
	tables      map[string]fingerprint
	indexes     []string // with a word on those that cannot be used
	constraints []string // with a word on those that do not hold for all rows
}

// fingerprint stands for all rows of a table.
type fingerprint struct {
	rows int64
	hash string // sum of the rows' hashes, in any order
}

func (c content) rows() (n int64) {
	for _, f := range c.tables {
		n += f.rows
	}
	return n
}

// readContent reads schema public, every row of it. NOT NULL is left out: it is a
// constraint since 18.
func readContent(ctx context.Context, url string) (c content, err error) {
	var names []string
	err = query(ctx, url, func(conn *pgx.Conn) error {
		for _, q := range []struct {
			sql  string
			into *[]string
		}{
			{`SELECT relname FROM pg_catalog.pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1`, &names},
			{`SELECT t.relname || '.' || i.relname || CASE WHEN x.indisvalid AND x.indisready THEN '' ELSE ' not valid' END FROM pg_catalog.pg_index x
				JOIN pg_catalog.pg_class t ON t.oid = x.indrelid JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
				WHERE t.relnamespace = 'public'::regnamespace ORDER BY 1`, &c.indexes},
			{`SELECT t.relname || '.' || k.conname || ' (' || k.contype::text || ')' || CASE WHEN k.convalidated THEN '' ELSE ' not valid' END FROM pg_catalog.pg_constraint k
				JOIN pg_catalog.pg_class t ON t.oid = k.conrelid
				WHERE k.connamespace = 'public'::regnamespace AND k.contype <> 'n' ORDER BY 1`, &c.constraints},
		} {
			rows, err := conn.Query(ctx, q.sql)
			if err != nil {
				return err
			}
			if *q.into, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	c.tables, err = fingerprints(ctx, url, names)
	return c, err
}

// fingerprints reads tables, several at a time.
func fingerprints(ctx context.Context, url string, names []string) (map[string]fingerprint, error) {
	batch := min(100, len(names)/16+1) // in one query
	results := make([]map[string]fingerprint, len(names)/batch+1)
	readers, readCtx := errgroup.WithContext(ctx)
	readers.SetLimit(runtime.NumCPU())
	next := 0
	for some := range slices.Chunk(names, batch) {
		into := &results[next]
		next++
		readers.Go(func() error {
			return query(readCtx, url, func(conn *pgx.Conn) (err error) {
				*into, err = readFingerprints(readCtx, conn, some)
				return err
			})
		})
	}
	if err := readers.Wait(); err != nil {
		return nil, err
	}
	all := map[string]fingerprint{}
	for _, m := range results {
		for name, f := range m {
			all[name] = f
		}
	}
	return all, nil
}

func readFingerprints(ctx context.Context, conn *pgx.Conn, names []string) (map[string]fingerprint, error) {
	var parts []string
	for _, name := range names {
		t := pgx.Identifier{"public", name}.Sanitize()
		parts = append(parts, fmt.Sprintf("SELECT '%s', count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM %s t",
			strings.ReplaceAll(name, "'", "''"), t))
	}
	rows, err := conn.Query(ctx, strings.Join(parts, " UNION ALL "))
	if err != nil {
		return nil, err
	}
	m := map[string]fingerprint{}
	var name string
	var f fingerprint
	_, err = pgx.ForEachRow(rows, []any{&name, &f.rows, &f.hash}, func() error { m[name] = f; return nil })
	return m, err
}

// forgoForeignKeys takes out those that another content lacks, and counts them.
func (c *content) forgoForeignKeys(other content) int {
	before := len(c.constraints)
	c.constraints = slices.DeleteFunc(c.constraints, func(name string) bool {
		return strings.HasSuffix(name, "(f)") && !slices.Contains(other.constraints, name)
	})
	return before - len(c.constraints)
}

// differences says how another content differs from c, in at most as many words
// as a person wants to read.
func (c content) differences(other content) (list []string) {
	const most = 10
	for _, name := range sortedKeys(c.tables) {
		want := c.tables[name]
		have, ok := other.tables[name]
		switch {
		case !ok:
			list = append(list, "no table "+name)
		case have.rows != want.rows:
			list = append(list, fmt.Sprintf("%s has %d rows instead of %d", name, have.rows, want.rows))
		case have != want:
			list = append(list, name+" has other rows")
		}
	}
	for _, name := range sortedKeys(other.tables) {
		if _, ok := c.tables[name]; !ok {
			list = append(list, "there should be no table "+name)
		}
	}
	list = append(list, listDifferences("index", c.indexes, other.indexes)...)
	list = append(list, listDifferences("constraint", c.constraints, other.constraints)...)
	if n := len(list); n > most {
		list = append(list[:most], fmt.Sprintf("and %d more", n-most))
	}
	return list
}

func listDifferences(kind string, want, have []string) (list []string) {
	in := func(names []string) map[string]bool {
		m := map[string]bool{}
		for _, n := range names {
			m[n] = true
		}
		return m
	}
	wanted, there := in(want), in(have)
	for _, n := range want {
		if !there[n] {
			list = append(list, fmt.Sprintf("no %s %s", kind, n))
		}
	}
	for _, n := range have {
		if !wanted[n] {
			list = append(list, fmt.Sprintf("there should be no %s %s", kind, n))
		}
	}
	return list
}
