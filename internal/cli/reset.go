package cli

import (
	"context"

	"github.com/spf13/cobra"

	"pgbaton/internal/migrate"
)

func (a *app) resetCommand() *cobra.Command {
	var yes, drop bool
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Give up a migration whose target never held the baton",
		Long: `reset removes everything of a migration whose target never held the baton: the
subscription, slot, publication and schema pgbaton, and what start restored into
the target database, which was empty before. With --drop-database it also drops
the target database, if start made it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.cleaning(cmd, yes, "Give the migration up and remove the copied tables from the target?",
				func(ctx context.Context, m *migrate.Migration) (migrate.CleanResult, error) {
					return m.Reset(ctx, drop)
				})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&drop, "drop-database", false, "drop the target database if start made it")
	return cmd
}
