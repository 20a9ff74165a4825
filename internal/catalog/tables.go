package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// Column is a live column of a table.
type Column struct {
	Name      string
	Type      string // as format_type prints it, schema included where it is not pg_catalog
	TypeOID   uint32 // of the type, or of a domain's base type
	Category  string // pg_type.typtype of that type: b base, e enum, c composite, r range, ...
	NotNull   bool
	Generated bool // GENERATED ALWAYS AS (expression), stored or virtual
	Equality  bool // the type has an equality operator that the apply worker can use
}

// Identity is a table's replica identity as pg_class.relreplident spells it.
type Identity string

// The four replica identities.
const (
	IdentityDefault Identity = "d" // the primary key
	IdentityIndex   Identity = "i"
	IdentityFull    Identity = "f"
	IdentityNothing Identity = "n"
)

// Table is an ordinary table or a leaf partition: what holds rows and can be
// published.
type Table struct {
	postgres.Ident
	OID           uint32
	Partition     bool
	Unlogged      bool
	Owner         string
	Identity      Identity
	IdentityIndex string // the index's name when Identity is IdentityIndex and the index still exists
	PrimaryKey    bool   // a valid primary key that is checked immediately
	UniqueIndex   string // a unique index that could serve as replica identity, or ""
	Bytes         int64  // on disk: heap and TOAST, without indexes
	HeapBytes     int64  // of these, the heap alone
	Rows          int64  // the planner's estimate
	Columns       []Column
}

// UsableIdentity says whether UPDATE and DELETE can be published as it stands.
func (t *Table) UsableIdentity() bool {
	switch t.Identity {
	case IdentityDefault:
		return t.PrimaryKey
	case IdentityIndex:
		return t.IdentityIndex != ""
	case IdentityFull:
		return t.WithoutEquality() == nil
	}
	return false
}

// WithoutEquality lists the columns because of which REPLICA IDENTITY FULL
// cannot work: the apply worker compares whole rows.
func (t *Table) WithoutEquality() []string {
	var names []string
	for _, c := range t.Columns {
		if !c.Equality && !c.Generated {
			names = append(names, c.Name+" "+c.Type)
		}
	}
	return names
}

// CopyColumns are the columns that COPY moves: all but the generated ones.
func (t *Table) CopyColumns() []Column {
	return slices.DeleteFunc(slices.Clone(t.Columns), func(c Column) bool { return c.Generated })
}

// Shape prints what must be equal on both sides for rows to be replicated:
// columns by name, with type and nullability. The order of columns may differ.
func (t *Table) Shape() string {
	lines := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		lines[i] = fmt.Sprintf("%s %s notnull=%t generated=%t", postgres.QuoteIdent(c.Name), c.Type, c.NotNull, c.Generated)
	}
	slices.Sort(lines)
	return strings.Join(lines, ", ")
}

// tablesSQL reads tables with their keys. %[1]s counts an index's key columns:
// pg_index has indnkeyatts since 11; before, every column of an index is one.
// %[2]s is nothing, or what a selection adds; %[3]s are two sizes.
const tablesSQL = `
SELECT n.nspname, c.relname, c.oid, c.relispartition, c.relpersistence = 'u',
	pg_catalog.pg_get_userbyid(c.relowner), c.relreplident::text,
	coalesce((SELECT x.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
		WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid), ''),
	EXISTS (SELECT FROM pg_catalog.pg_index i
		WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate AND i.indisvalid),
	coalesce((SELECT x.relname
		FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
		WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisprimary AND i.indimmediate AND i.indisvalid
			AND i.indpred IS NULL AND i.indexprs IS NULL
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
				WHERE a.attrelid = c.oid AND NOT a.attnotnull
					AND a.attnum = ANY ((i.indkey::int2[])[0:%[1]s - 1]))
		ORDER BY %[1]s, x.relname::text COLLATE "C" LIMIT 1), ''),
	%[3]s, greatest(c.reltuples, 0)::bigint
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND ` + ours + `%[2]s
ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`

// columnsSQL reads the columns of the tables $1. A domain counts as the type
// below it. Equality is what the apply worker needs to compare whole rows: a
// default btree or hash operator class of the type, or of a type it is binary
// coercible to (varchar to text); arrays, composites, enums and ranges have it
// through a pseudo-type (src/backend/utils/cache/typcache.c). It is looked up for
// each type, not for each column: there may be a hundred thousand of these.
const columnsSQL = `
WITH RECURSIVE domain (oid, base) AS (
	SELECT oid, typbasetype FROM pg_catalog.pg_type WHERE typtype = 'd'
	UNION ALL
	SELECT domain.oid, t.typbasetype FROM domain JOIN pg_catalog.pg_type t ON t.oid = domain.base WHERE t.typtype = 'd'
), base (oid, base) AS (
	SELECT domain.oid, domain.base FROM domain JOIN pg_catalog.pg_type t ON t.oid = domain.base WHERE t.typtype <> 'd'
), used (oid) AS (
	SELECT DISTINCT atttypid FROM pg_catalog.pg_attribute WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped
), kind (oid, base, category, equality) AS (
	SELECT used.oid, b.oid, b.typtype::text,
		EXISTS (SELECT FROM pg_catalog.pg_opclass o
			JOIN pg_catalog.pg_am am ON am.oid = o.opcmethod AND am.amname IN ('btree', 'hash')
			WHERE o.opcdefault AND (o.opcintype = e.oid OR EXISTS (SELECT FROM pg_catalog.pg_cast k
				WHERE k.castsource = e.oid AND k.casttarget = o.opcintype AND k.castmethod = 'b' AND k.castcontext = 'i')))
		OR e.typtype IN ('e', 'r', 'm')
		OR (e.typtype = 'c' AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute f
			WHERE f.attrelid = e.typrelid AND f.attnum > 0 AND NOT f.attisdropped AND f.atttypid = ANY ($2)))
	FROM used
	LEFT JOIN base ON base.oid = used.oid
	JOIN pg_catalog.pg_type b ON b.oid = coalesce(base.base, used.oid)
	JOIN pg_catalog.pg_type e ON e.oid = CASE WHEN b.typelem <> 0 AND b.typlen = -1 THEN b.typelem ELSE b.oid END
	OFFSET 0
)
SELECT a.attrelid, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
	kind.base, kind.category, a.attnotnull, %s, kind.equality
FROM pg_catalog.pg_attribute a JOIN kind ON kind.oid = a.atttypid
WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum`

// typesWithoutEquality are the built-in types without an operator class to
// compare with: json, xml, point, lseg, path, box, polygon, line, circle.
var typesWithoutEquality = []uint32{114, 142, 600, 601, 602, 603, 604, 628, 718}

// Tables lists every table and leaf partition that a migration includes, by
// name, with columns in their order. To measure a table the server takes a lock on
// it, and looks at its files.
func Tables(ctx context.Context, q Querier, sel Selection) ([]Table, error) {
	return tables(ctx, q, sel, "pg_catalog.pg_table_size(c.oid), pg_catalog.pg_relation_size(c.oid)")
}

// Shapes is Tables without the sizes: it reads catalogs alone, so that it neither
// waits for anybody nor takes long.
func Shapes(ctx context.Context, q Querier, sel Selection) ([]Table, error) {
	return tables(ctx, q, sel, "0::bigint, 0::bigint")
}

func tables(ctx context.Context, q Querier, sel Selection, sizes string) ([]Table, error) {
	v := postgres.VersionOf(q)
	keyColumns, generated := "i.indnkeyatts", "a.attgenerated <> ''"
	if v.Major() < 11 {
		keyColumns = "i.indnatts"
	}
	if v.Major() < 12 {
		generated = "false"
	}
	included, args, err := sel.condition(ctx, q, "r")
	if err != nil {
		return nil, err
	}
	rows, err := q.Query(ctx, fmt.Sprintf(tablesSQL, keyColumns, included, sizes), args...)
	if err != nil {
		return nil, err
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Table, err error) {
		err = row.Scan(&t.Schema, &t.Name, &t.OID, &t.Partition, &t.Unlogged, &t.Owner, &t.Identity,
			&t.IdentityIndex, &t.PrimaryKey, &t.UniqueIndex, &t.Bytes, &t.HeapBytes, &t.Rows)
		return t, err
	})
	if err != nil {
		return nil, err
	}
	oids := make([]uint32, len(tables))
	byOID := make(map[uint32]*Table, len(tables))
	for i := range tables {
		oids[i] = tables[i].OID
		byOID[tables[i].OID] = &tables[i]
	}
	rows, err = q.Query(ctx, fmt.Sprintf(columnsSQL, generated), oids, typesWithoutEquality)
	if err != nil {
		return nil, err
	}
	var oid uint32
	var c Column
	_, err = pgx.ForEachRow(rows, []any{&oid, &c.Name, &c.Type, &c.TypeOID, &c.Category, &c.NotNull, &c.Generated, &c.Equality}, func() error {
		byOID[oid].Columns = append(byOID[oid].Columns, c)
		return nil
	})
	return tables, err
}
