package main

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// The databases that copy moves. Servers make their rows themselves out of each
// row's number, so that a database of the same scale is the same everywhere.

// database is one of them.
type database struct {
	name   string // and that of the role that owns it
	what   string // for the report
	types  string // SQL, before the tables
	tables []genTable
	aside  bool // copies are put aside until the end: see copyBench.discard
}

// genTable is a table to be made, with rows numbered from 1.
type genTable struct {
	name    string
	rows    int64
	columns []genColumn // besides id
	id      string      // its type, when not a bigint with a sequence of its own
	indexes []string    // besides the primary key: what follows CREATE; %s is the table
	parents []parent
	touch   string // assignment of an UPDATE that a writer makes
}

// genColumn is a column and the expression for row i.
type genColumn struct{ name, definition, value string }

// parent is who a column of a table refers to.
type parent struct{ column, table string }

// pseudo is a number from 0 to below n, which looks random but is always the
// same for the row; salt tells columns apart.
func pseudo(salt int, n int64) string {
	return fmt.Sprintf("((hashint8extended(i, %d) & 9223372036854775807) %% %d)", salt, n)
}

func words(salt int) string { return fmt.Sprintf("md5(i::text || '/%d')", salt) }

// moment lies within five years.
func moment(salt int) string {
	return "timestamptz '2021-01-01 00:00:00+00' + " + pseudo(salt, 157_680_000) + " * interval '1 second'"
}

// scaled is a number of rows at a scale; small tables stay what they are.
func scaled(rows int64, scale float64) int64 {
	if rows <= 1000 {
		return rows
	}
	return max(1000, int64(math.Round(float64(rows)*scale)))
}

// copyDatabase makes the description of a database.
func copyDatabase(name string, scale float64) (database, bool) {
	switch name {
	case "mixed":
		return mixedDatabase(scale), true
	case "one":
		return oneDatabase(scale), true
	case "many":
		return manyDatabase(scale), true
	case "uniform":
		return uniformDatabase(scale), true
	}
	return database{}, false
}

var allDatabases = []string{"mixed", "one", "many", "uniform"}

// mixedDatabase is what most databases are: a few big tables, many small ones.
// The first table is what most others refer to.
func mixedDatabase(scale float64) database {
	d := database{name: "mixed", what: "60 tables of 10 to 10,000,000 rows, usual types, 2 to 4 indexes besides the primary key, foreign keys",
		types: "CREATE TYPE tier AS ENUM ('free', 'basic', 'pro', 'staff');"}
	add := func(kind string, rows int64) {
		t := genTable{name: fmt.Sprintf("%s_%02d", kind, len(d.tables)), rows: scaled(rows, scale)}
		if len(d.tables) > 0 {
			// Small tables refer to one another too; a table refers to an earlier one only.
			first := d.tables[0]
			if len(d.tables)%5 == 0 {
				first = d.tables[len(d.tables)-3]
			}
			t.parents = []parent{{"party_id", first.name}}
			t.columns = []genColumn{{"party_id", "bigint NOT NULL", "1 + " + pseudo(1, first.rows)}}
		}
		kinds[kind](&t)
		d.tables = append(d.tables, t)
	}
	add("party", 500_000)
	add("event", 10_000_000)
	add("event", 3_000_000)
	add("item", 1_000_000)
	add("item", 400_000)
	add("document", 50_000)
	add("document", 10_000)
	for i := range 10 {
		add([]string{"event", "item", "party"}[i%3], 100_000)
	}
	for i := range 15 {
		add([]string{"item", "event", "party"}[i%3], 10_000)
	}
	for i := range 28 {
		add([]string{"party", "item", "document", "event"}[i%4], []int64{10, 25, 50, 100, 250, 500, 1000}[i%7])
	}
	return d
}

// kinds are the shapes of tables in the mixed database.
var kinds = map[string]func(*genTable){
	"party": func(t *genTable) {
		t.columns = append(t.columns,
			genColumn{"email", "text NOT NULL", words(2) + " || '@example.org'"},
			genColumn{"name", "varchar(60) NOT NULL", "initcap(left(" + words(3) + ", 8)) || ' ' || initcap(left(" + words(4) + ", 10))"},
			genColumn{"tier", "tier NOT NULL", "(ARRAY['free', 'basic', 'pro', 'staff'])[1 + " + pseudo(5, 4) + "]::tier"},
			genColumn{"born", "date", "date '1950-01-01' + " + pseudo(6, 20_000) + "::int"},
			genColumn{"active", "boolean NOT NULL", pseudo(7, 5) + " > 0"},
			genColumn{"balance", "numeric(14,2) NOT NULL", pseudo(8, 10_000_000) + " / 100.0"},
			genColumn{"created", "timestamptz NOT NULL", moment(9)},
			genColumn{"labels", "text[]", "ARRAY[left(" + words(10) + ", 5), left(" + words(11) + ", 7)]"})
		t.indexes = []string{"UNIQUE INDEX %s_email ON %[1]s (email)", "INDEX %s_created ON %[1]s (created)", "INDEX %s_tier ON %[1]s (tier, born) WHERE active"}
		t.touch = "balance = balance + 1"
	},
	"event": func(t *genTable) {
		t.columns = append(t.columns,
			genColumn{"at", "timestamptz NOT NULL", moment(2)},
			genColumn{"kind", "int NOT NULL", pseudo(3, 40)},
			genColumn{"amount", "numeric(10,2) NOT NULL", pseudo(4, 1_000_000) + " / 100.0"},
			genColumn{"seen", "boolean NOT NULL", pseudo(5, 10) + " > 0"})
		t.indexes = []string{"INDEX %s_party ON %[1]s (party_id)", "INDEX %s_at ON %[1]s (at)"}
		t.touch = "amount = amount + 1"
	},
	"item": func(t *genTable) {
		t.columns = append(t.columns,
			genColumn{"ref", "uuid NOT NULL", words(2) + "::uuid"},
			genColumn{"quantity", "int NOT NULL", pseudo(3, 1000)},
			genColumn{"price", "numeric(10,2) NOT NULL", pseudo(4, 1_000_000) + " / 100.0"},
			genColumn{"attributes", "jsonb NOT NULL", "jsonb_build_object('colour', left(" + words(5) + ", 6), 'size', " + pseudo(6, 50) + ", 'tags', jsonb_build_array(left(" + words(7) + ", 4), i % 7))"},
			genColumn{"note", "text", "CASE WHEN i % 3 > 0 THEN repeat(left(" + words(8) + ", 12) || ' ', 3) END"},
			genColumn{"updated", "timestamptz NOT NULL", moment(9)})
		t.indexes = []string{"UNIQUE INDEX %s_ref ON %[1]s (ref)", "INDEX %s_party ON %[1]s (party_id, updated)", "INDEX %s_colour ON %[1]s ((attributes ->> 'colour'))", "INDEX %s_short ON %[1]s (updated) WHERE quantity < 100"}
		t.touch = "quantity = quantity + 1"
	},
	// Its bodies are too long to stay in the row, and md5 is too random to be compressed.
	"document": func(t *genTable) {
		t.columns = append(t.columns,
			genColumn{"title", "text NOT NULL", "left(" + words(2) + ", 20)"},
			genColumn{"body", "text NOT NULL", "(SELECT string_agg(md5(i::text || '-' || j::text), ' ') FROM generate_series(1, 80 + " + pseudo(3, 200) + ") j)"},
			genColumn{"digest", "bytea NOT NULL", "decode(" + words(4) + ", 'hex')"},
			genColumn{"numbers", "int[]", "ARRAY[" + pseudo(5, 1000) + "::int, " + pseudo(6, 1000) + "::int, i::int]"},
			genColumn{"meta", "jsonb", "jsonb_build_object('pages', " + pseudo(7, 30) + ", 'by', left(" + words(8) + ", 8))"},
			genColumn{"changed", "timestamptz NOT NULL", moment(9)})
		t.indexes = []string{"UNIQUE INDEX %s_digest ON %[1]s (digest)", "INDEX %s_meta ON %[1]s USING gin (meta)", "INDEX %s_changed ON %[1]s (changed)"}
		t.touch = "title = title || '.'"
	},
}

// oneDatabase is one table, so that nothing can be done at the same time that is
// not done to that table.
func oneDatabase(scale float64) database {
	return database{name: "one", what: "one table of 10,000,000 rows, about 2 GB without its indexes, with 4 indexes, the primary key being one of them", tables: []genTable{{
		name: "reading", rows: scaled(10_000_000, scale),
		columns: []genColumn{
			{"party_id", "bigint NOT NULL", pseudo(1, 200_000)},
			{"at", "timestamptz NOT NULL", moment(2)},
			{"kind", "int NOT NULL", pseudo(3, 40)},
			{"amount", "numeric(12,2) NOT NULL", pseudo(4, 100_000_000) + " / 100.0"},
			{"ref", "uuid NOT NULL", words(5) + "::uuid"},
			{"note", "text NOT NULL", words(6) + " || ' ' || " + words(7) + " || ' ' || " + words(8) + " || ' ' || left(" + words(9) + ", 16)"},
		},
		indexes: []string{"UNIQUE INDEX %s_ref ON %[1]s (ref)", "INDEX %s_party ON %[1]s (party_id, at)", "INDEX %s_at ON %[1]s (at)"},
		touch:   "amount = amount + 1",
	}}}
}

// manyDatabase is where the number of objects counts and not their size: as in an
// application that gives each customer tables of their own.
func manyDatabase(scale float64) database {
	d := database{name: "many", aside: true, what: "10,000 tables of 1 to 50 rows, each with a primary key and one more index"}
	for i := range max(20, int(math.Round(10_000*scale))) {
		d.tables = append(d.tables, genTable{
			name: fmt.Sprintf("t_%05d", i), rows: int64(1 + i*7%50), id: "int",
			columns: []genColumn{
				{"name", "text NOT NULL", words(1)},
				{"at", "timestamptz NOT NULL", moment(2)},
			},
			indexes: []string{"INDEX %s_name ON %[1]s (name)"},
			touch:   "name = name || '.'",
		})
	}
	return d
}

// uniformDatabase has tables that are all alike: what is left of it can be foretold.
func uniformDatabase(scale float64) database {
	d := database{name: "uniform", what: "24 tables of 200,000 rows that are alike, with 4 indexes besides the primary key"}
	for i := range 24 {
		t := genTable{name: fmt.Sprintf("item_%02d", i), rows: scaled(200_000, scale),
			columns: []genColumn{{"party_id", "bigint NOT NULL", pseudo(1, 200_000)}}}
		kinds["item"](&t)
		d.tables = append(d.tables, t)
	}
	return d
}

func (t *genTable) create() string {
	id := "bigint GENERATED BY DEFAULT AS IDENTITY"
	if t.id != "" {
		id = t.id
	}
	lines := []string{"id " + id}
	for _, c := range t.columns {
		lines = append(lines, c.name+" "+c.definition)
	}
	return "CREATE TABLE " + t.name + " (" + strings.Join(lines, ", ") + ")"
}

// insert makes the rows that a query names i.
func (t *genTable) insert(from string) string {
	names, values := []string{"id"}, []string{"i"}
	for _, c := range t.columns {
		names, values = append(names, c.name), append(values, c.value)
	}
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s AS i", t.name, strings.Join(names, ", "), strings.Join(values, ", "), from)
}

// build is all that makes the table and its indexes.
func (t *genTable) build() string {
	sql := []string{t.create(), t.insert(fmt.Sprintf("generate_series(1::bigint, %d)", t.rows)), "ALTER TABLE " + t.name + " ADD PRIMARY KEY (id)"}
	if t.id == "" {
		sql = append(sql, fmt.Sprintf("SELECT setval(pg_get_serial_sequence('%s', 'id'), %d)", t.name, t.rows))
	}
	for _, x := range t.indexes {
		sql = append(sql, "CREATE "+fmt.Sprintf(x, t.name))
	}
	return strings.Join(sql, "; ")
}

// load makes the database, several tables at a time. conn is open already.
func (d database) load(ctx context.Context, conn *pgx.Conn) error {
	if err := conn.PgConn().Exec(ctx, d.types).Close(); err != nil {
		return err
	}
	// Several small tables in one transaction: their commits would take longer than they do.
	const batch = 50
	work := make(chan string, len(d.tables))
	var small []string
	for _, t := range d.tables {
		if t.rows > 1000 {
			work <- t.build()
		} else {
			small = append(small, t.build())
		}
	}
	for some := range slices.Chunk(small, batch) {
		work <- strings.Join(some, "; ")
	}
	close(work)
	workers, workCtx := errgroup.WithContext(ctx)
	for range min(4, runtime.NumCPU()) {
		workers.Go(func() error {
			return query(workCtx, conn.Config().ConnString(), func(conn *pgx.Conn) error {
				for sql := range work {
					if err := conn.PgConn().Exec(workCtx, sql).Close(); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	if err := workers.Wait(); err != nil {
		return err
	}
	for _, t := range d.tables {
		for _, p := range t.parents {
			_, err := conn.Exec(ctx, fmt.Sprintf("ALTER TABLE %s ADD FOREIGN KEY (%s) REFERENCES %s", t.name, p.column, p.table))
			if err != nil {
				return err
			}
		}
	}
	return nil
}
