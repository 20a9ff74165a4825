// Package shop is a small but real online shop on PostgreSQL: a schema that
// uses what real schemas use, a storefront with an admin page, simulated
// shoppers, and an audit that proves that none of their orders was lost,
// doubled or invented.
//
// It knows nothing of migrations. That is its purpose: it is the application
// that a migration must not disturb.
package shop

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"
)

var (
	//go:embed sql/schema.sql
	schemaSQL string
	//go:embed sql/schema_12.sql
	schema12SQL string
	//go:embed sql/history_lines.sql
	historyLinesSQL string
	//go:embed sql/history.sql
	historySQL string
	//go:embed sql/keys.sql
	keysSQL string
)

// currency is the one currency that the storefront sells in.
const currency = "EUR"

// Size says how much history [Load] makes. The catalogue is always the same.
type Size struct {
	Orders int // orders of the past year; 0 is a shop that never sold anything
}

// DefaultOrders makes a shop of a few thousand orders, loaded in a second.
const DefaultOrders = 3000

// Load creates the schema shop in the database of conn and fills it: 116
// products and the orders asked for, the same ones every time. It is one
// transaction; a load that fails leaves nothing behind.
func Load(ctx context.Context, conn *pgx.Conn, size Size) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var version int
		err := tx.QueryRow(ctx, `
			SELECT current_setting('server_version_num')::integer
			FROM   set_config('search_path', '', true)`).Scan(&version)
		if err != nil {
			return fmt.Errorf("shop: read server version: %w", err)
		}
		if _, err := tx.Exec(ctx, schemaSQL); err != nil {
			return fmt.Errorf("shop: create schema: %w", err)
		}
		if version >= 120000 {
			if _, err := tx.Exec(ctx, schema12SQL); err != nil {
				return fmt.Errorf("shop: add generated column: %w", err)
			}
		}
		if err := loadCatalogue(ctx, tx); err != nil {
			return fmt.Errorf("shop: load catalogue: %w", err)
		}
		if _, err := tx.Exec(ctx, historyLinesSQL, size.Orders); err != nil {
			return fmt.Errorf("shop: load order lines: %w", err)
		}
		if _, err := tx.Exec(ctx, historySQL); err != nil {
			return fmt.Errorf("shop: load orders: %w", err)
		}
		if _, err := tx.Exec(ctx, keysSQL); err != nil {
			return fmt.Errorf("shop: add keys and triggers: %w", err)
		}
		return nil
	})
}
