package preflight

import (
	"context"
	"time"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// HasEqualRows looks through a table of one column.
func HasEqualRows(ctx context.Context, conn *postgres.Session, schema, table, column string, within time.Duration) (has bool, unknown string, err error) {
	t := catalog.Table{Ident: postgres.Ident{Schema: schema, Name: table}, Columns: []catalog.Column{{Name: column}}}
	return hasEqualRows(ctx, conn, &t, coarse{columns: []string{column}}, within)
}

// TryExpression evaluates an expression on the rows of a table.
func TryExpression(ctx context.Context, conn *postgres.Session, table uint32, sql string) (failure, refusal, err error) {
	return try(ctx, &end{conn: conn}, expression{rel: table, sql: sql}, nil)
}
