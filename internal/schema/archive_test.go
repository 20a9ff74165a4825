package schema_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// wanted and unwanted are pairs of names of which one, taken for a pattern, would
// match the other.
var (
	unwanted = []string{`we*ird.Na""me`, `UPPER`, `a?`, `a$b`, `dotted.name`, `back\\slash`, `[ab]`, `a|b`, `(p)`, `x+`, `über`, `--table`, `sp ace`, `'q'`, `^`, "line\nbreak"}
	wanted   = []string{`weXird.Na""me`, `we*irdXNa""me`, `upper`, `ab`, `a`, `b`, `name`, `dotted`, `back\\\\slash`, `p`, `xx`, `uber`, `table`, `space`, `q`}
)

// TestExclusions: an archive lacks exactly what is left out, whatever its name.
func TestExclusions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		major    int
		encoding string
	}{{12, "UTF8"}, {12, "LATIN1"}, {19, "UTF8"}} {
		t.Run(fmt.Sprintf("%d %s", c.major, c.encoding), func(t *testing.T) {
			t.Parallel()
			server := pgtest.Start(t, c.major)
			pgtest.Exec(t, server.ConnString("postgres"), fmt.Sprintf(`CREATE DATABASE d TEMPLATE template0 ENCODING %s LC_COLLATE 'C' LC_CTYPE 'C'`, c.encoding), `CREATE DATABASE e TEMPLATE template0`)
			sql := []string{`SET client_encoding = 'UTF8'`, `CREATE TYPE mood AS ENUM ('good')`, `CREATE EXTENSION citext`}
			var x catalog.Exclusion
			var stays []string
			for _, s := range append(slices.Clone(unwanted), wanted...) {
				for _, n := range append(slices.Clone(unwanted), wanted...) {
					switch {
					case slices.Contains(unwanted, s):
					case slices.Contains(unwanted, n):
						x.Relations = append(x.Relations, postgres.Ident{Schema: s, Name: n})
					default:
						stays = append(stays, postgres.Ident{Schema: s, Name: n}.String())
					}
				}
				sql = append(sql, "CREATE SCHEMA "+postgres.QuoteIdent(s))
				if slices.Contains(unwanted, s) {
					x.Schemas = append(x.Schemas, s)
					sql = append(sql, fmt.Sprintf("CREATE TABLE %s (i int)", postgres.Ident{Schema: s, Name: "t"}))
				}
			}
			for i, r := range x.Relations {
				kinds := []string{"CREATE TABLE %s (id serial, n int GENERATED ALWAYS AS IDENTITY)", "CREATE VIEW %s AS SELECT 1 AS i", "CREATE MATERIALIZED VIEW %s AS SELECT 1 AS i",
					"CREATE SEQUENCE %s", "CREATE TABLE %s (id int) PARTITION BY RANGE (id)"}
				sql = append(sql, fmt.Sprintf(kinds[i%len(kinds)], r))
			}
			for _, r := range stays {
				sql = append(sql, fmt.Sprintf("CREATE TABLE %s (m public.mood, c public.citext)", r))
			}
			pgtest.Exec(t, server.ConnString("d"), sql...)
			source := newServer(t, postgres.Source, server.ConnString("d"))
			// What the catalog lists for the tables' own sequences comes in addition.
			conn, err := source.Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			sequences, err := catalog.Sequences(t.Context(), conn, catalog.Selection{})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range sequences {
				if !slices.Contains(x.Relations, s.Ident) {
					x.Relations = append(x.Relations, s.Ident)
				}
			}
			tools := schema.Tools{Dir: server.BinDir()}
			for name, archive := range map[string]func(string) schema.Command{
				"schema": func(file string) schema.Command { return schema.DumpSchema(source, "", file, x) },
				"all":    func(dir string) schema.Command { return schema.DumpAll(source, "", dir, 2, x) },
			} {
				file := filepath.Join(t.TempDir(), "archive")
				if err := schema.Dump(t.Context(), tools, archive(file)); err != nil {
					t.Fatal(err)
				}
				target := newServer(t, postgres.Target, server.ConnString("e"))
				if _, err := schema.RunRestore(t.Context(), tools, schema.Restore(target, file, schema.Everything, schema.RestoreOptions{}), nil); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				have := relations(t, server, "e")
				slices.Sort(stays)
				if !slices.Equal(have, stays) {
					t.Errorf("%s: restored\n%s\nexpected\n%s", name, strings.Join(have, "\n"), strings.Join(stays, "\n"))
				}
				pgtest.Exec(t, server.ConnString("postgres"), `DROP DATABASE e`, `CREATE DATABASE e TEMPLATE template0`)
			}
		})
	}
}

// relations lists what is in a database, sorted.
func relations(t *testing.T, server *cluster.Cluster, db string) []string {
	t.Helper()
	conn := pgtest.Connect(t, server.ConnString(db))
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), `
		SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'S', 'v', 'm', 'f')`)
	if err != nil {
		t.Fatal(err)
	}
	idents, err := pgx.CollectRows(rows, pgx.RowToStructByPos[postgres.Ident])
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range idents {
		names = append(names, i.String())
	}
	slices.Sort(names)
	return names
}

func newServer(t *testing.T, side postgres.Side, uri string) *postgres.Server {
	t.Helper()
	s, err := postgres.NewServer(side, uri)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestExclusionArguments: what plan shows, and nothing where nothing is left out.
func TestExclusionArguments(t *testing.T) {
	t.Parallel()
	s := newServer(t, postgres.Source, "postgresql://u@127.0.0.1:1/d")
	plain := schema.DumpSchema(s, "", "f")
	if zero := schema.DumpSchema(s, "", "f", catalog.Exclusion{}); !slices.Equal(zero.Args, plain.Args) {
		t.Errorf("%q, without an exclusion %q", zero.Args, plain.Args)
	}
	x := catalog.Exclusion{Schemas: []string{"Big"}, Relations: []postgres.Ident{{Schema: "public", Name: `we*ird.Na"me`}}}
	for _, c := range []schema.Command{schema.DumpSchema(s, "", "f", x), schema.DumpAll(s, "", "f", 1, x)} {
		if text := c.String(); !strings.Contains(text, `'--exclude-schema="Big"' '--exclude-table="public"."we*ird.Na""me"' `) || strings.Contains(text, "--encoding") {
			t.Error(text)
		}
	}
}
