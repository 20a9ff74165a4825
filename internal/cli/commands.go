package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/phrase"
	"pgbaton/internal/plan"
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
			next := a.next(state)
			if a.json {
				for _, finding := range report.Findings {
					p.Object("finding", finding)
				}
				n := len(report.Blockers())
				p.Result(map[string]any{"ok": n == 0, "blockers": n, "findings": len(report.Findings)}, next)
			} else {
				ui.Check(a.stdout, report)
				ui.Next(a.stdout, next)
			}
			if len(report.Blockers()) > 0 {
				return errReported
			}
			return nil
		},
	}
	f.register(cmd, preflight.TryNever)
	return cmd
}

// errReported is a refusal whose reasons have been printed already.
var errReported = &refusal.Refusal{What: "start"}

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
					p.Result(map[string]any{"ok": true}, a.next(outcome.State{Phase: planned(steps)}))
					return nil
				}
				ui.Plan(a.stdout, "pgbaton start", steps)
				fmt.Fprintln(a.stdout)
				ui.Plan(a.stdout, "pgbaton switchover", handOver)
				return nil
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

func (a *app) startCommand() *cobra.Command {
	var f startFlags
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Bring the target from nothing to streaming; run again, it continues",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withMigration(cmd, migrate.Asks, f.apply, func(ctx context.Context, m *migrate.Migration, p *ui.Printer) error {
				result, err := m.Start(ctx)
				if err != nil {
					return err
				}
				p.Close()
				next := a.next(outcome.State{Phase: result.Phase})
				if a.json {
					p.Result(okayStart{true, result}, next)
					return nil
				}
				copied := ""
				if result.BytesCopied > 0 {
					copied = fmt.Sprintf("%s, %s copied", phrase.Count(result.TablesCopied, "table"), ui.Bytes(result.BytesCopied))
					if result.BytesPerSec > 0 {
						copied += fmt.Sprintf(" at %s/s", ui.Bytes(int64(result.BytesPerSec)))
					}
					copied += ". "
				}
				fmt.Fprintf(a.stdout, "%sThe migration is %s after %s.\n", copied, result.Phase, ui.Seconds(result.Seconds))
				ui.Next(a.stdout, next)
				return nil
			})
		},
	}
	f.register(cmd, preflight.TryFew)
	return cmd
}

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
			return a.withMigration(cmd, migrate.Operates, nil, func(ctx context.Context, m *migrate.Migration, p *ui.Printer) error {
				stream, err := m.SetRunning(ctx, run)
				if err != nil {
					return err
				}
				if a.json {
					state := outcome.State{Broken: len(stream.Gone) > 0, Generation: stream.Generation}
					if !run {
						state.Phase = migrate.PhaseHeld
					}
					p.Result(map[string]any{"ok": true, "enabled": run}, a.next(state))
					return nil
				}
				switch {
				case run:
					fmt.Fprintln(a.stdout, "The subscription is enabled.")
				case len(stream.Gone) > 0:
					fmt.Fprintf(a.stdout, "The subscription is disabled; replication slot %s is gone from the %s.\n  hint: %s\n",
						strings.Join(stream.Gone, ", "), stream.Publisher, stream.Lost)
				default:
					fmt.Fprintf(a.stdout, "The subscription is disabled: the %s keeps WAL until it is resumed.\n", stream.Publisher)
				}
				return nil
			})
		},
	}
}

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
		next := a.next(outcome.State{Phase: status.Phase, Paused: paused(status), Baton: status.Baton, Generation: max(status.Source.Generation, status.Target.Generation),
			Working: status.Working, Unfinished: status.Unfinished, Broken: status.Broken, Unread: status.Phase != migrate.PhaseNew && !(status.Source.Reachable && status.Target.Reachable)})
		switch {
		case a.json && watch:
			p.Object("status", status)
		case a.json:
			p.Result(status, next)
		default:
			if watch {
				fmt.Fprintf(a.stdout, "%s\n", time.Now().Format(time.DateTime))
			}
			ui.Status(a.stdout, status, next)
			if watch {
				fmt.Fprintln(a.stdout)
			}
		}
		return nil
	})
}

// paused says whether a stream to the side without the baton is disabled.
func paused(s *migrate.Status) bool {
	return slices.ContainsFunc(s.Groups, func(g migrate.GroupStatus) bool { return g.Subscription == "disabled" })
}

// okayStart is the result of a start that went well.
type okayStart struct {
	OK bool `json:"ok"`
	migrate.StartResult
}

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

func (a *app) cleaning(cmd *cobra.Command, yes bool, question string,
	do func(context.Context, *migrate.Migration) (migrate.CleanResult, error)) error {
	return a.withMigration(cmd, migrate.Operates, nil, func(ctx context.Context, m *migrate.Migration, p *ui.Printer) error {
		if err := a.confirm(yes, question); err != nil {
			return err
		}
		result, err := do(ctx, m)
		if err != nil {
			return err
		}
		next := a.next(outcome.State{Left: len(result.Left) > 0})
		if a.json {
			p.Result(struct {
				OK bool `json:"ok"`
				migrate.CleanResult
			}{true, result}, next)
			return nil
		}
		ui.Clean(a.stdout, result)
		if len(result.Left) > 0 {
			ui.Next(a.stdout, next)
		}
		return nil
	})
}
