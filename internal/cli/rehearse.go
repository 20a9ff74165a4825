package cli

import (
	"context"

	"github.com/spf13/cobra"

	"pgbaton/internal/handover"
	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/ui"
)

func (a *app) rehearseCommand() *cobra.Command {
	var f handoverFlags
	cmd := &cobra.Command{
		Use:   "rehearse",
		Short: "Measure a handover without making anyone wait",
		Long: `rehearse looks at all that a handover needs and measures its parts on the real
servers, without making anyone wait and without changing who may write. It
rehearses the handover that comes next: a switchover, or after one a rollback.
Exit code 3 when a real handover would be refused.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.valid(); err != nil {
				return err
			}
			mover, err := a.mover(cmd, &f.Traffic, nil)
			if err != nil {
				return err
			}
			defer mover.Close()
			return a.withMigration(cmd, migrate.Operates, nil, func(ctx context.Context, m *migrate.Migration, _ *ui.Printer) error {
				h := migrate.Handover{MaxPause: f.MaxPause, NoRollback: f.NoRollback, Traffic: mover}
				result, err := m.Rehearse(ctx, h)
				if err != nil {
					return &withResult{err, result}
				}
				okay := struct {
					OK bool `json:"ok"`
					handover.Rehearsal
				}{true, result}
				return a.answer(okay, outcome.State{Forth: result.Command}, func(next outcome.Next) {
					ui.Rehearsal(a.stdout, result)
					ui.Next(a.stdout, next)
				})
			})
		},
	}
	f.register(cmd)
	return cmd
}
