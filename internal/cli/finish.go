package cli

import (
	"context"

	"github.com/spf13/cobra"

	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/ui"
)

func (a *app) finishCommand() *cobra.Command {
	var yes, unfence bool
	var report string
	cmd := &cobra.Command{
		Use:   "finish",
		Short: "Remove everything pgbaton made, after the baton has passed for good",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.cleaning(cmd, yes, "Remove everything pgbaton made, and with it the way back?",
				func(ctx context.Context, m *migrate.Migration) (migrate.CleanResult, error) {
					if report != "" {
						if err := a.keepReport(ctx, m, report); err != nil {
							return migrate.CleanResult{}, err
						}
					}
					return m.Finish(ctx, unfence)
				})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().StringVar(&report, "report", "", "first write the migration's report, as Markdown, to this file")
	cmd.Flags().BoolVar(&unfence, "unfence", false, "lift the fence of the side without the baton too")
	return cmd
}

// cleaning is what finish and reset have in common: the question, and what was removed.
func (a *app) cleaning(cmd *cobra.Command, yes bool, question string,
	do func(context.Context, *migrate.Migration) (migrate.CleanResult, error)) error {
	return a.withMigration(cmd, migrate.Operates, nil, func(ctx context.Context, m *migrate.Migration, _ *ui.Printer) error {
		if err := a.confirm(yes, question); err != nil {
			return err
		}
		result, err := do(ctx, m)
		if err != nil {
			return err
		}
		okay := struct {
			OK bool `json:"ok"`
			migrate.CleanResult
		}{true, result}
		return a.answer(okay, outcome.State{Left: len(result.Left) > 0}, func(next outcome.Next) {
			ui.Clean(a.stdout, result)
			if len(result.Left) > 0 {
				ui.Next(a.stdout, next)
			}
		})
	})
}
