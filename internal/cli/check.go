package cli

import (
	"github.com/spf13/cobra"

	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/preflight"
	"pgbaton/internal/refusal"
	"pgbaton/internal/ui"
)

func (a *app) checkCommand() *cobra.Command {
	var f startFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look at both servers and say what stands in the way; changes nothing",
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := a.migration()
			if err == nil {
				err = f.apply(&m)
			}
			if err != nil {
				return err
			}
			p := ui.NewPrinter(a.stdout, a.stderr, a.json)
			a.printer = p
			watchStalls(m, p)
			report, err := migrate.Check(cmd.Context(), m)
			p.Close()
			if err != nil {
				return err
			}
			state := outcome.State{}
			if !report.Started {
				state.Phase = migrate.PhaseNew
			}
			if len(report.Blockers()) > 0 {
				state.Code = outcome.NotNow
			}
			if a.json {
				for _, finding := range report.Findings {
					p.Object("finding", finding)
				}
			}
			n := len(report.Blockers())
			result := map[string]any{"ok": n == 0, "blockers": n, "findings": len(report.Findings)}
			err = a.answer(result, state, func(next outcome.Next) {
				ui.Check(a.stdout, report)
				ui.Next(a.stdout, next)
			})
			if n > 0 {
				return errReported
			}
			return err
		},
	}
	f.register(cmd, preflight.TryNever)
	return cmd
}

// errReported is a refusal whose reasons have been printed already.
var errReported = &refusal.Refusal{What: "start"}
