package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/ui"
)

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show phase, progress, lag, WAL held back, and where the baton is",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return usagef("--interval must be at least 100ms")
			}
			for {
				if err := a.statusOnce(cmd, watch); err != nil || !watch {
					return err
				}
				timer := time.NewTimer(interval)
				select {
				case <-timer.C:
				case <-cmd.Context().Done():
					timer.Stop()
					return nil // ending a watch is no failure
				}
			}
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again and again")
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "with --watch: how often")
	return cmd
}

func (a *app) statusOnce(cmd *cobra.Command, watch bool) error {
	return a.withMigration(cmd, migrate.Looks, nil, func(ctx context.Context, m *migrate.Migration, p *ui.Printer) error {
		status, err := m.Status(ctx)
		if err != nil {
			return err
		}
		state := outcome.State{Phase: status.Phase, Paused: paused(status), Baton: status.Baton, Generation: max(status.Source.Generation, status.Target.Generation),
			Working: status.Working, Unfinished: status.Unfinished, Broken: status.Broken, Unread: status.Phase != migrate.PhaseNew && !(status.Source.Reachable && status.Target.Reachable)}
		if a.json && watch {
			p.Object("status", status)
			return nil
		}
		return a.answer(status, state, func(next outcome.Next) {
			if watch {
				fmt.Fprintf(a.stdout, "%s\n", time.Now().Format(time.DateTime))
			}
			ui.Status(a.stdout, status, next)
			if watch {
				fmt.Fprintln(a.stdout)
			}
		})
	})
}

// paused says whether a stream to the side without the baton is disabled.
func paused(s *migrate.Status) bool {
	return slices.ContainsFunc(s.Groups, func(g migrate.GroupStatus) bool { return g.Subscription == "disabled" })
}
