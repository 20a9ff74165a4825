package replication

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// PublicationSQL lists ordinary tables and leaf partitions by name, each with
// ONLY: neither inheritance children nor a partition root come in by the back
// door. truncates is false for a stream that must not carry TRUNCATE (rule 16).
func PublicationSQL(name string, tables []postgres.Ident, truncates bool) string {
	sql := "CREATE PUBLICATION " + postgres.QuoteIdent(name) + " FOR TABLE ONLY " + join(tables)
	if !truncates {
		sql += " WITH (publish = 'insert, update, delete')"
	}
	return sql
}

// SetTablesSQL makes a publication one of these tables.
func SetTablesSQL(name string, tables []postgres.Ident) string {
	return "ALTER PUBLICATION " + postgres.QuoteIdent(name) + " SET TABLE ONLY " + join(tables)
}

func join(tables []postgres.Ident) string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.String()
	}
	return strings.Join(names, ", ONLY ")
}

// Publishable are the tables of a group that holds all that can be published:
// all but unlogged ones, and the group's marker.
func Publishable(tables []catalog.Table, g Group) []postgres.Ident {
	names := []postgres.Ident{g.MarkerTable()}
	for _, t := range tables {
		if !t.Unlogged {
			names = append(names, t.Ident)
		}
	}
	slices.SortFunc(names, postgres.Ident.Compare)
	return names
}

// PublicationExists says whether the database has the publication.
func PublicationExists(ctx context.Context, db postgres.DB, name string) (exists bool, err error) {
	err = db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = $1)`, name).Scan(&exists)
	return exists, err
}

// PublicationTables lists the tables of a publication by name.
func PublicationTables(ctx context.Context, db postgres.DB, name string) ([]postgres.Ident, error) {
	rows, err := db.Query(ctx, `
		SELECT n.nspname, c.relname
		FROM pg_catalog.pg_publication p
		JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
		JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE p.pubname = $1
		ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[postgres.Ident])
}

// DropPublicationSQL drops it if it is there.
func DropPublicationSQL(name string) string {
	return "DROP PUBLICATION IF EXISTS " + postgres.QuoteIdent(name)
}
