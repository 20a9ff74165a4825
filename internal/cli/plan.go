package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/plan"
	"pgbaton/internal/preflight"
	"pgbaton/internal/ui"
)

func (a *app) planCommand() *cobra.Command {
	var f startFlags
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Print every statement and command that start and switchover would run",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withMigration(cmd, migrate.Looks, f.apply, func(ctx context.Context, m *migrate.Migration, p *ui.Printer) error {
				steps, err := m.Plan(ctx)
				if err != nil {
					return err
				}
				handOver, err := m.PlanSwitchover(ctx)
				if err != nil {
					return err
				}
				if a.json {
					for _, step := range append(steps, handOver...) {
						p.Object("step", step)
					}
				}
				return a.answer(map[string]any{"ok": true}, outcome.State{Phase: planned(steps)}, func(outcome.Next) {
					ui.Plan(a.stdout, "pgbaton start", steps)
					fmt.Fprintln(a.stdout)
					ui.Plan(a.stdout, "pgbaton switchover", handOver)
				})
			})
		},
	}
	f.register(cmd, preflight.TryNever)
	return cmd
}

// planned is the phase of a migration that is planned: "" when it has begun.
func planned(steps []plan.Step) string {
	if len(steps) > 0 && steps[0].Done {
		return ""
	}
	return migrate.PhaseNew
}
