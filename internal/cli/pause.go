package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/ui"
)

func (a *app) pauseCommand() *cobra.Command {
	return a.runningCommand("pause", "Disable the subscription: the target stops applying, the source keeps WAL", false)
}

func (a *app) resumeCommand() *cobra.Command {
	return a.runningCommand("resume", "Enable the subscription again", true)
}

func (a *app) runningCommand(name, short string, run bool) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withMigration(cmd, migrate.Operates, nil, func(ctx context.Context, m *migrate.Migration, _ *ui.Printer) error {
				stream, err := m.SetRunning(ctx, run)
				if err != nil {
					return err
				}
				state := outcome.State{Broken: len(stream.Gone) > 0, Generation: stream.Generation}
				if !run {
					state.Phase = migrate.PhaseHeld
				}
				return a.answer(map[string]any{"ok": true, "enabled": run}, state, func(outcome.Next) {
					switch {
					case run:
						fmt.Fprintln(a.stdout, "The subscription is enabled.")
					case len(stream.Gone) > 0:
						fmt.Fprintf(a.stdout, "The subscription is disabled; replication slot %s is gone from the %s.\n  hint: %s\n",
							strings.Join(stream.Gone, ", "), stream.Publisher, stream.Lost)
					default:
						fmt.Fprintf(a.stdout, "The subscription is disabled: the %s keeps WAL until it is resumed.\n", stream.Publisher)
					}
				})
			})
		},
	}
}
