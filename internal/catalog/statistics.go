package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// FreshStatistics lists the ordinary tables whose statistics can be taken to another
// server (18 and newer) in place of gathering them there. They were gathered, as far
// as the server remembers, and no more has changed since than would make autovacuum
// gather them again. Nothing that is not taken along belongs to them: extended
// statistics, those of an expression in an index, those of a table with its children.
// And there is an index, whose build counts the rows and the pages that they are on, as
// they then are: the source's pages may be half empty. It does not (18 and newer) where
// autovacuum is switched off.
func FreshStatistics(ctx context.Context, q Querier) (map[postgres.Ident]bool, error) {
	return identSet(ctx, q, `
		SELECT n.nspname, c.relname
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
		WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND `+ours+`
			AND coalesce(s.last_analyze, s.last_autoanalyze) IS NOT NULL
			AND s.n_mod_since_analyze <= 50 + 0.1 * greatest(c.reltuples, 0)
			AND EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid)
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_options_to_table(c.reloptions) AS o
				WHERE o.option_name = 'autovacuum_enabled' AND NOT o.option_value::boolean)
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indexprs IS NOT NULL)
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_statistic_ext e WHERE e.stxrelid = c.oid)
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid)`)
}

// HaveStatistics lists the ordinary tables of which every column has statistics that
// can have some.
func HaveStatistics(ctx context.Context, q Querier) (map[postgres.Ident]bool, error) {
	v := postgres.VersionOf(q)
	generated := ""
	if v.Major() >= 12 {
		generated = "AND a.attgenerated <> 'v'" // virtual ones have none
	}
	return identSet(ctx, q, fmt.Sprintf(`
		SELECT n.nspname, c.relname
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND `+ours+`
			AND c.oid NOT IN (
				SELECT a.attrelid FROM pg_catalog.pg_attribute a
				JOIN pg_catalog.pg_class t ON t.oid = a.attrelid AND t.relkind = 'r'
				JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
				LEFT JOIN pg_catalog.pg_stats s ON s.schemaname = tn.nspname AND s.tablename = t.relname AND s.attname = a.attname AND NOT s.inherited
				WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget IS DISTINCT FROM 0 %s AND s.attname IS NULL)`, generated))
}

func identSet(ctx context.Context, q Querier, sql string) (map[postgres.Ident]bool, error) {
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	set := map[postgres.Ident]bool{}
	var t postgres.Ident
	_, err = pgx.ForEachRow(rows, []any{&t.Schema, &t.Name}, func() error {
		set[t] = true
		return nil
	})
	return set, err
}
