package catalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// relation is what patterns choose from.
type relation struct {
	postgres.Ident
	oid      uint32
	kind     string // pg_class.relkind
	owner    uint32 // the table that owns the sequence, 0 for none
	included bool
	viaRead  bool // a view that is left out only because it reads what is
}

// relationsSQL lists what patterns choose from. A sequence belongs to a table
// by OWNED BY (a) or as an identity (i).
const relationsSQL = `
SELECT n.nspname, c.relname, c.oid, c.relkind::text, coalesce((
	SELECT d.refobjid FROM pg_catalog.pg_depend d
	WHERE c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
		AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjsubid > 0
		AND d.deptype IN ('a', 'i') LIMIT 1), 0)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND c.relpersistence <> 't' AND ` + ours + `
ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`

// choice is a database's relations, with what a selection makes of them.
type choice struct {
	filter
	relations []relation
	byOID     map[uint32]*relation
	parents   map[uint32][]uint32
}

// choose reads the relations and applies the patterns, here and not in SQL, so
// that one dialect of regular expressions decides on both sides. Whoever does not
// ask for views is spared what these cost.
func (s Selection) choose(ctx context.Context, q Querier, views bool) (*choice, error) {
	f, err := s.compile()
	if err != nil {
		return nil, err
	}
	c := &choice{filter: f, byOID: map[uint32]*relation{}, parents: map[uint32][]uint32{}}
	rows, err := q.Query(ctx, relationsSQL)
	if err != nil {
		return nil, err
	}
	c.relations, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r relation, err error) {
		err = row.Scan(&r.Schema, &r.Name, &r.oid, &r.kind, &r.owner)
		return r, err
	})
	if err != nil {
		return nil, err
	}
	for i := range c.relations {
		c.byOID[c.relations[i].oid] = &c.relations[i]
	}
	rows, err = q.Query(ctx, `SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits`)
	if err != nil {
		return nil, err
	}
	var child, parent uint32
	_, err = pgx.ForEachRow(rows, []any{&child, &parent}, func() error {
		if c.byOID[child] != nil { // else an index
			c.parents[child] = append(c.parents[child], parent)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range c.relations {
		r := &c.relations[i]
		r.included = c.wants(c.decider(r))
	}
	if !views {
		return c, nil
	}
	return c, c.leaveOutViews(ctx, q)
}

// decider is the relation by which a relation is judged.
func (c *choice) decider(r *relation) *relation {
	if table := c.byOID[r.owner]; table != nil {
		return table
	}
	return r
}

func (c *choice) wants(r *relation) bool {
	match := func(p pattern) bool { return c.family(r, p.matches) }
	return c.schema(r.Schema) && (len(c.tables) == 0 || slices.ContainsFunc(c.tables, match)) && !slices.ContainsFunc(c.excludeTables, match)
}

// family says whether something holds for a relation or one of its ancestors.
func (c *choice) family(r *relation, holds func(postgres.Ident) bool) bool {
	return holds(r.Ident) || slices.ContainsFunc(c.parents[r.oid], func(oid uint32) bool {
		parent := c.byOID[oid]
		return parent != nil && c.family(parent, holds)
	})
}

// readsSQL lists views with each relation that their rules name.
const readsSQL = `
SELECT DISTINCT v.oid, d.refobjid
FROM pg_catalog.pg_class v
JOIN pg_catalog.pg_rewrite r ON r.ev_class = v.oid
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
	AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> v.oid
WHERE v.relkind IN ('v', 'm')`

// leaveOutViews takes out the views that read, directly or through others, what
// is left out: they could not be created.
func (c *choice) leaveOutViews(ctx context.Context, q Querier) error {
	if !slices.ContainsFunc(c.relations, func(r relation) bool { return r.included && (r.kind == "v" || r.kind == "m") }) {
		return nil
	}
	rows, err := q.Query(ctx, readsSQL)
	if err != nil {
		return err
	}
	readers := map[uint32][]uint32{}
	var view, reads uint32
	_, err = pgx.ForEachRow(rows, []any{&view, &reads}, func() error {
		readers[reads] = append(readers[reads], view)
		return nil
	})
	if err != nil {
		return err
	}
	var out []uint32
	for _, r := range c.relations {
		if !r.included {
			out = append(out, r.oid)
		}
	}
	for ; len(out) > 0; out = out[1:] {
		for _, oid := range readers[out[0]] {
			if r := c.byOID[oid]; r != nil && r.included {
				r.included, r.viaRead = false, true
				out = append(out, oid)
			}
		}
	}
	return nil
}

// condition is what a selection adds to a query for relations of a kind, whose
// alias is c, with the query's arguments: nothing for the zero Selection, which
// costs no query either.
func (s Selection) condition(ctx context.Context, q Querier, kind string) (sql string, args []any, err error) {
	if s.IsZero() {
		return "", nil, nil
	}
	c, err := s.choose(ctx, q, kind == "m")
	if err != nil {
		return "", nil, err
	}
	oids := []uint32{}
	for _, r := range c.relations {
		if r.included && r.kind == kind {
			oids = append(oids, r.oid)
		}
	}
	return " AND c.oid = ANY ($1)", []any{oids}, nil
}

// Exclusion is what a selection leaves out of a database.
type Exclusion struct {
	Schemas   []string         // as a whole, with their types, functions and all else
	Relations []postgres.Ident // in the other schemas
	Views     []postgres.Ident // those of Relations that are left out only because they read what is
}

// schemasSQL lists the schemas that are not the server's, ours, or an
// extension's, with whether an extension could not be created without it.
// Schema public is there in every new database.
const schemasSQL = `
SELECT n.nspname, n.nspname <> 'public' AND EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE x.extnamespace = n.oid)
FROM pg_catalog.pg_namespace n
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton')
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
		WHERE e.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND e.objid = n.oid AND e.deptype = 'e')
ORDER BY n.nspname::text COLLATE "C"`

// Excluded lists what a selection leaves out. A schema into which an extension
// was put stays, without its relations: pg_dump takes the extension along
// whatever is excluded.
func Excluded(ctx context.Context, q Querier, sel Selection) (x Exclusion, err error) {
	if sel.IsZero() {
		return x, nil
	}
	c, err := sel.choose(ctx, q, true)
	if err != nil {
		return x, err
	}
	rows, err := q.Query(ctx, schemasSQL)
	if err != nil {
		return x, err
	}
	whole := map[string]bool{}
	var schema string
	var needed bool
	_, err = pgx.ForEachRow(rows, []any{&schema, &needed}, func() error {
		if !c.schema(schema) && !needed {
			x.Schemas = append(x.Schemas, schema)
			whole[schema] = true
		}
		return nil
	})
	if err != nil {
		return Exclusion{}, err
	}
	for _, r := range c.relations {
		if r.included || whole[r.Schema] {
			continue
		}
		x.Relations = append(x.Relations, r.Ident)
		if r.viaRead {
			x.Views = append(x.Views, r.Ident)
		}
	}
	return x, nil
}

// IsZero says whether nothing is left out.
func (x Exclusion) IsZero() bool { return len(x.Schemas) == 0 && len(x.Relations) == 0 }

// Has says whether a relation is left out.
func (x Exclusion) Has(r postgres.Ident) bool {
	return slices.Contains(x.Schemas, r.Schema) || slices.Contains(x.Relations, r)
}

// OIDs are those of all relations left out, in schemas left out too.
func (x Exclusion) OIDs(ctx context.Context, q Querier) ([]uint32, error) {
	if x.IsZero() {
		return []uint32{}, nil
	}
	var schemas, names []string
	for _, r := range x.Relations {
		schemas, names = append(schemas, r.Schema), append(names, r.Name)
	}
	rows, err := q.Query(ctx, `
		SELECT c.oid
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND `+ours+`
			AND (n.nspname::text = ANY ($1::text[]) OR (n.nspname::text, c.relname::text) IN (
				SELECT x.s, x.r FROM ROWS FROM (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[])) AS x (s, r)))
		ORDER BY c.oid`, x.Schemas, schemas, names)
	if err != nil {
		return nil, err
	}
	return pgx.AppendRows([]uint32{}, rows, pgx.RowTo[uint32])
}

// Unused lists the patterns that have no effect: of Schemas and ExcludeSchemas
// those that no schema matches, of ExcludeTables those that nothing matches, of
// Tables those for which nothing is included.
func (s Selection) Unused(ctx context.Context, q Querier) ([]string, error) {
	if s.IsZero() {
		return nil, nil
	}
	c, err := s.choose(ctx, q, true)
	if err != nil {
		return nil, err
	}
	rows, err := q.Query(ctx, schemasSQL)
	if err != nil {
		return nil, err
	}
	var schemas []string
	var schema string
	var needed bool
	if _, err = pgx.ForEachRow(rows, []any{&schema, &needed}, func() error {
		schemas = append(schemas, schema)
		return nil
	}); err != nil {
		return nil, err
	}
	var unused []string
	for _, p := range slices.Concat(c.schemas, c.excludeSchemas) {
		if !slices.ContainsFunc(schemas, p.name.MatchString) {
			unused = append(unused, p.String())
		}
	}
	for _, p := range c.tables {
		if !slices.ContainsFunc(c.relations, func(r relation) bool {
			// A view may match and be left out for what it reads: that is told elsewhere.
			return (r.included || r.viaRead) && c.family(c.decider(&r), p.matches)
		}) {
			unused = append(unused, p.String())
		}
	}
	for _, p := range c.excludeTables {
		if !slices.ContainsFunc(c.relations, func(r relation) bool { return c.family(c.decider(&r), p.matches) }) {
			unused = append(unused, p.String())
		}
	}
	return unused, nil
}

// LostForeignKey is a foreign key of an included table to one that is left out.
type LostForeignKey struct {
	Table      postgres.Ident
	Name       string
	OID        uint32
	References postgres.Ident
	Partly     bool // of the referenced table only partitions are left out
}

// lostForeignKeysSQL lists foreign keys of tables that stay to tables ($1) that
// do not, by the outermost constraint, the one that can be dropped. %[1]s leads
// from a constraint to that of which it is a part (11+): a foreign key to a
// partitioned table has a part for each partition.
const lostForeignKeysSQL = `
WITH RECURSIVE lost AS (
	SELECT k.oid, %[1]s AS parent
	FROM pg_catalog.pg_constraint k
	WHERE k.contype = 'f' AND k.confrelid = ANY ($1) AND k.conrelid <> ALL ($1)
	UNION
	SELECT k.oid, %[1]s
	FROM lost JOIN pg_catalog.pg_constraint k ON k.oid = lost.parent
)
SELECT n.nspname, c.relname, k.conname, k.oid, rn.nspname, r.relname, r.oid <> ALL ($1)
FROM lost
JOIN pg_catalog.pg_constraint k ON k.oid = lost.oid
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class r ON r.oid = k.confrelid
JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
WHERE lost.parent = 0 AND c.oid <> ALL ($1) AND c.relpersistence <> 't' AND ` + ours + `
ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C", k.conname::text COLLATE "C"`

// LostForeignKeys lists the foreign keys that an included table cannot keep,
// because rows they refer to are left out. pg_dump writes them all the same.
func LostForeignKeys(ctx context.Context, q Querier, x Exclusion) ([]LostForeignKey, error) {
	v := postgres.VersionOf(q)
	if x.IsZero() {
		return nil, nil
	}
	oids, err := x.OIDs(ctx, q)
	if err != nil {
		return nil, err
	}
	parent := "k.conparentid"
	if v.Major() < 11 {
		parent = "0::pg_catalog.oid"
	}
	rows, err := q.Query(ctx, fmt.Sprintf(lostForeignKeysSQL, parent), oids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (k LostForeignKey, err error) {
		err = row.Scan(&k.Table.Schema, &k.Table.Name, &k.Name, &k.OID, &k.References.Schema, &k.References.Name, &k.Partly)
		return k, err
	})
}
