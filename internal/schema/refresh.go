package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// RefreshSQL refreshes a materialized view; concurrently is possible only when
// it holds data already and has a unique index.
func RefreshSQL(v catalog.MatView, concurrently bool) string {
	option := ""
	if concurrently {
		option = "CONCURRENTLY "
	}
	return fmt.Sprintf("REFRESH MATERIALIZED VIEW %s%s", option, v.Ident)
}

// Refresh refreshes the views that are populated on the source, each after those
// it reads, concurrently where the target's view allows it; those WITH NO DATA
// stay so. One that fails does not keep the others from being refreshed; all
// failures are returned.
func Refresh(ctx context.Context, target *pgx.Conn, onSource []catalog.MatView) []error {
	have := map[postgres.Ident]catalog.MatView{}
	onTarget, err := catalog.MatViews(ctx, target, catalog.Selection{})
	if err != nil {
		return []error{err}
	}
	for _, v := range onTarget {
		have[v.Ident] = v
	}
	var errs []error
	for _, v := range onSource {
		if !v.Populated {
			continue
		}
		t := have[v.Ident]
		if _, err := target.Exec(ctx, RefreshSQL(v, t.Populated && t.Concurrently)); err != nil {
			errs = append(errs, fmt.Errorf("materialized view %s: %w", v.Ident, err))
		}
	}
	return errs
}
