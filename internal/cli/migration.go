package cli

import (
	"context"

	"github.com/spf13/cobra"

	"pgbaton/internal/migrate"
	"pgbaton/internal/ui"
)

// withMigration runs a command on a migration: configuration, printer, and through the
// door (migrate.Enter).
func (a *app) withMigration(cmd *cobra.Command, use migrate.Use, adjust func(*migrate.Config) error,
	do func(context.Context, *migrate.Migration, *ui.Printer) error) error {
	c, err := a.migration()
	if err != nil {
		return err
	}
	if adjust != nil {
		if err := adjust(&c); err != nil {
			return err
		}
	}
	printer := ui.NewPrinter(a.stdout, a.stderr, a.json)
	a.printer = printer
	defer printer.Close()
	c.Observe = printer.Observe
	if tellsStalls(cmd, printer) {
		watchStalls(c, printer)
	}
	return migrate.Enter(cmd.Context(), c, use, func(ctx context.Context, m *migrate.Migration) error {
		return do(ctx, m, printer)
	})
}
