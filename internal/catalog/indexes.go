package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// Index is a valid index of an ordinary table or leaf partition, together with
// the constraint that it serves.
type Index struct {
	postgres.Ident
	OID   uint32
	Table uint32 // its OID
	Bytes int64  // on disk
	Rows  int64  // the planner's estimate
	// Slow: more than the comparison of numbers is needed for each row, as for
	// expressions, collations and access methods other than btree.
	Slow bool
	// Definition is its CREATE INDEX without IF NOT EXISTS and TABLESPACE.
	Definition string
	Tablespace string // "" for the database's default
	// UserCode: an expression or predicate calls a function that is not the
	// server's own. Declared immutable, it may read another table all the same.
	UserCode bool

	Constraint    string // the name of its constraint, "" for none
	ConstraintOID uint32
	// Key is PRIMARY KEY or UNIQUE where the constraint can be made USING INDEX;
	// "" where only ConstraintDefinition makes it, and the index with it: exclusion
	// constraints, keys WITHOUT OVERLAPS, primary keys of tables
	// that inherit from others.
	Key                  string
	Deferral             string // DEFERRABLE and the like
	ConstraintDefinition string
	// Settings are statements that follow it: what CLUSTER and the replica identity
	// rest on, statistics targets of expressions, the extension it depends on.
	Settings []string
}

// indexesSQL reads the indexes of tables that hold rows. USING INDEX takes btree
// keys only (https://www.postgresql.org/docs/current/sql-altertable.html).
const indexesSQL = `
SELECT n.nspname, x.relname, x.oid, i.indrelid, pg_catalog.pg_relation_size(x.oid), greatest(x.reltuples, 0)::bigint,
	i.indexprs IS NOT NULL OR am.amname <> 'btree' OR EXISTS (SELECT FROM pg_catalog.unnest(i.indcollation) AS k(of) WHERE k.of <> 0),
	pg_catalog.pg_get_indexdef(x.oid), coalesce(s.spcname, ''),
	EXISTS (SELECT FROM pg_catalog.pg_depend d
		WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = x.oid
			AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refobjid >= 16384),
	coalesce(k.conname, ''), coalesce(k.oid, 0),
	-- From 18 on a primary key made of an index makes an inherited NOT NULL the table's own.
	CASE WHEN k.contype IN ('p', 'u') AND am.amname = 'btree' AND NOT (k.contype = 'p' AND NOT c.relispartition
			AND EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid)) THEN
		CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END ELSE '' END,
	CASE WHEN k.condeferred THEN 'DEFERRABLE INITIALLY DEFERRED' WHEN k.condeferrable THEN 'DEFERRABLE' ELSE '' END,
	coalesce(pg_catalog.pg_get_constraintdef(k.oid), ''),
	ARRAY(SELECT pg_catalog.format('ALTER INDEX %I.%I ALTER COLUMN %s SET STATISTICS %s', n.nspname, x.relname, a.attnum, a.attstattarget)
			FROM pg_catalog.pg_attribute a WHERE a.attrelid = x.oid AND a.attstattarget >= 0 AND NOT a.attisdropped
				AND i.indexprs IS NOT NULL ORDER BY a.attnum)
		|| CASE WHEN i.indisclustered THEN ARRAY[pg_catalog.format('ALTER TABLE %I.%I CLUSTER ON %I', n.nspname, c.relname, x.relname)] END
		|| CASE WHEN i.indisreplident THEN ARRAY[pg_catalog.format('ALTER TABLE ONLY %I.%I REPLICA IDENTITY USING INDEX %I', n.nspname, c.relname, x.relname)] END
		|| ARRAY(SELECT pg_catalog.format('ALTER INDEX %I.%I DEPENDS ON EXTENSION %I', n.nspname, x.relname, e.extname)
			FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
			WHERE d.deptype = 'x' AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = x.oid
				AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass ORDER BY e.extname)
` + indexesFrom + `
ORDER BY n.nspname::text COLLATE "C", x.relname::text COLLATE "C"`

// indexesFrom is where Indexes and BuiltIndexes look.
const indexesFrom = `
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_am am ON am.oid = x.relam
LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = x.reltablespace
LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = x.oid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND i.indisvalid AND i.indisready AND ` + ours

// Indexes lists the valid indexes of all tables and leaf partitions.
func Indexes(ctx context.Context, q Querier) ([]Index, error) {
	rows, err := q.Query(ctx, indexesSQL)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (x Index, err error) {
		err = row.Scan(&x.Schema, &x.Name, &x.OID, &x.Table, &x.Bytes, &x.Rows, &x.Slow, &x.Definition, &x.Tablespace, &x.UserCode,
			&x.Constraint, &x.ConstraintOID, &x.Key, &x.Deferral, &x.ConstraintDefinition, &x.Settings)
		return x, err
	})
}

// BuiltIndexes returns the names of those that Indexes lists, each with the name of
// its constraint, "" for none. Of tens of thousands that is much less to ask for.
func BuiltIndexes(ctx context.Context, q Querier) (map[postgres.Ident]string, error) {
	rows, err := q.Query(ctx, "SELECT n.nspname, x.relname, coalesce(k.conname, '')"+indexesFrom)
	if err != nil {
		return nil, err
	}
	built := map[postgres.Ident]string{}
	var x postgres.Ident
	var constraint string
	_, err = pgx.ForEachRow(rows, []any{&x.Schema, &x.Name, &constraint}, func() error {
		built[x] = constraint
		return nil
	})
	return built, err
}

// ForeignKey is a foreign key between two tables that hold rows. Those that
// involve a partitioned table are not among them: the server takes such a key as
// a whole, with all its partitions.
type ForeignKey struct {
	Name                    string
	OID                     uint32
	Table                   postgres.Ident
	References              postgres.Ident
	TableOID, ReferencesOID uint32
	Definition              string // as pg_get_constraintdef prints it, NOT VALID included when it is not
	Valid                   bool
	Comment                 string
	// Ordered: an index of the table holds the key's columns in the order of the index
	// that it refers to, so that both can be read side by side.
	Ordered bool
}

// AddSQL adds it without looking at the rows that are there.
func (f ForeignKey) AddSQL() string {
	sql := fmt.Sprintf("ALTER TABLE ONLY %s ADD CONSTRAINT %s %s", f.Table, postgres.QuoteIdent(f.Name), f.Definition)
	if f.Valid {
		sql += " NOT VALID"
	}
	return sql
}

// ValidateSQL looks at the rows that are there. It keeps no one from writing.
func (f ForeignKey) ValidateSQL() string {
	return fmt.Sprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", f.Table, postgres.QuoteIdent(f.Name))
}

// CommentSQL comments on it, "" without a comment.
func (f ForeignKey) CommentSQL() string {
	if f.Comment == "" {
		return ""
	}
	return fmt.Sprintf("COMMENT ON CONSTRAINT %s ON %s IS %s", postgres.QuoteIdent(f.Name), f.Table, postgres.QuoteLiteral(f.Comment))
}

// orderedSQL is ForeignKey.Ordered of constraint k. Columns of indexes count from 0.
const orderedSQL = `EXISTS (
	SELECT FROM pg_catalog.pg_index i
	JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
	JOIN pg_catalog.pg_am am ON am.oid = x.relam AND am.amname = 'btree'
	JOIN pg_catalog.pg_index u ON u.indexrelid = k.conindid
	WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indpred IS NULL
		AND (i.indkey::int2[])[0:pg_catalog.array_length(k.conkey, 1) - 1] = k.conkey
		AND (u.indkey::int2[])[0:pg_catalog.array_length(k.conkey, 1) - 1] = k.confkey
		AND NOT EXISTS (SELECT FROM pg_catalog.generate_series(0, pg_catalog.array_length(k.conkey, 1) - 1) AS c
			JOIN pg_catalog.pg_opclass io ON io.oid = i.indclass[c] JOIN pg_catalog.pg_opclass uo ON uo.oid = u.indclass[c]
			WHERE io.opcfamily <> uo.opcfamily OR i.indcollation[c] <> u.indcollation[c] OR i.indoption[c] <> u.indoption[c]))`

// ForeignKeys lists them, by table and name.
func ForeignKeys(ctx context.Context, q Querier) ([]ForeignKey, error) {
	rows, err := q.Query(ctx, `
		SELECT k.conname, k.oid, n.nspname, c.relname, c.oid, rn.nspname, r.relname, r.oid,
			pg_catalog.pg_get_constraintdef(k.oid), k.convalidated, coalesce(pg_catalog.obj_description(k.oid, 'pg_constraint'), ''),
			`+orderedSQL+`
		FROM pg_catalog.pg_constraint k
		JOIN pg_catalog.pg_class c ON c.oid = k.conrelid AND c.relkind = 'r'
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_class r ON r.oid = k.confrelid AND r.relkind = 'r'
		JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
		-- What a partition has from its root comes with the root's.
		WHERE k.contype = 'f' AND k.conislocal AND k.coninhcount = 0 AND `+ours+`
		ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C", k.conname::text COLLATE "C"`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (f ForeignKey, err error) {
		err = row.Scan(&f.Name, &f.OID, &f.Table.Schema, &f.Table.Name, &f.TableOID,
			&f.References.Schema, &f.References.Name, &f.ReferencesOID, &f.Definition, &f.Valid, &f.Comment, &f.Ordered)
		return f, err
	})
}

// AnalyzeLater lists the tables that have extended statistics, or children whose
// rows belong to their statistics: those are gathered when all is there.
func AnalyzeLater(ctx context.Context, q Querier) ([]postgres.Ident, error) {
	rows, err := q.Query(ctx, `
		SELECT n.nspname, c.relname
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE (c.relkind = 'p' OR c.relkind = 'r' AND (
				EXISTS (SELECT FROM pg_catalog.pg_statistic_ext e WHERE e.stxrelid = c.oid)
				OR EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid)))
			AND c.relpersistence <> 't' AND `+ours+`
		ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[postgres.Ident])
}

// WithStatistics lists the tables that ANALYZE looks at.
func WithStatistics(ctx context.Context, q Querier) ([]postgres.Ident, error) {
	rows, err := q.Query(ctx, `
		SELECT n.nspname, c.relname
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND `+ours+`
		ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[postgres.Ident])
}

// PartitionedKey is a foreign key from or to a partitioned table, or both.
type PartitionedKey struct {
	ForeignKey
	Partitioned bool             // the referring table is
	Leaves      []postgres.Ident // of the referring table, or itself
	Tables      []uint32         // all that hold rows, on either side
}

// Withheld says how the key is made when its tables are in different groups of
// changes: at first without looking at rows. A partitioned table cannot have such a
// key (before 18), its leaves can; the table's own takes over theirs when they are
// validated.
func (k PartitionedKey) Withheld() (leaves []ForeignKey, whole string) {
	if !k.Partitioned {
		return []ForeignKey{k.ForeignKey}, ""
	}
	for _, leaf := range k.Leaves {
		f := k.ForeignKey
		f.Table, f.Comment = leaf, "" // that is the whole key's
		leaves = append(leaves, f)
	}
	return leaves, fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s %s", k.Table, postgres.QuoteIdent(k.Name), k.Definition)
}

// PartitionedKeys lists the foreign keys from or to partitioned tables.
func PartitionedKeys(ctx context.Context, q Querier) ([]PartitionedKey, error) {
	rows, err := q.Query(ctx, `
		WITH RECURSIVE tree (root, oid) AS (
			SELECT oid, oid FROM pg_catalog.pg_class WHERE relkind IN ('p', 'r')
				AND oid IN (SELECT conrelid FROM pg_catalog.pg_constraint WHERE contype = 'f' UNION SELECT confrelid FROM pg_catalog.pg_constraint WHERE contype = 'f')
			UNION ALL
			SELECT tree.root, h.inhrelid FROM tree JOIN pg_catalog.pg_inherits h ON h.inhparent = tree.oid
				JOIN pg_catalog.pg_class p ON p.oid = tree.oid AND p.relkind = 'p' -- not what merely inherits
		), leaf AS (
			SELECT tree.root, x.oid, x.relname, ns.nspname
			FROM tree JOIN pg_catalog.pg_class x ON x.oid = tree.oid AND x.relkind = 'r' JOIN pg_catalog.pg_namespace ns ON ns.oid = x.relnamespace
		)
		SELECT k.conname, k.oid, n.nspname, c.relname, c.oid, rn.nspname, r.relname, r.oid,
			pg_catalog.pg_get_constraintdef(k.oid), k.convalidated, coalesce(pg_catalog.obj_description(k.oid, 'pg_constraint'), ''), c.relkind = 'p',
			ARRAY(SELECT l.nspname::text FROM leaf l WHERE l.root = c.oid ORDER BY l.oid),
			ARRAY(SELECT l.relname::text FROM leaf l WHERE l.root = c.oid ORDER BY l.oid),
			ARRAY(SELECT DISTINCT l.oid FROM leaf l WHERE l.root IN (c.oid, r.oid))
		FROM pg_catalog.pg_constraint k
		JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
		JOIN pg_catalog.pg_class r ON r.oid = k.confrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
		WHERE k.contype = 'f' AND k.conislocal AND k.coninhcount = 0 AND 'p' IN (c.relkind, r.relkind) AND `+ours+`
		ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C", k.conname::text COLLATE "C"`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (k PartitionedKey, err error) {
		var schemas, names []string
		err = row.Scan(&k.Name, &k.OID, &k.Table.Schema, &k.Table.Name, &k.TableOID,
			&k.References.Schema, &k.References.Name, &k.ReferencesOID, &k.Definition, &k.Valid, &k.Comment, &k.Partitioned, &schemas, &names, &k.Tables)
		for i := range names {
			k.Leaves = append(k.Leaves, postgres.Ident{Schema: schemas[i], Name: names[i]})
		}
		return k, err
	})
}

// Writes is how many rows of each table have been written since the statistics
// were last reset.
func Writes(ctx context.Context, q Querier) (map[uint32]int64, error) {
	rows, err := q.Query(ctx, `SELECT relid, (n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_catalog.pg_stat_user_tables`)
	if err != nil {
		return nil, err
	}
	byTable := map[uint32]int64{}
	var oid uint32
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&oid, &n}, func() error {
		byTable[oid] = n
		return nil
	})
	return byTable, err
}
