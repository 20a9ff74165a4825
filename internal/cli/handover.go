package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pgbaton/internal/event"
	"pgbaton/internal/handover"
	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/traffic"
	"pgbaton/internal/ui"
)

// mover makes what moves traffic. announce hears of the process groups of the commands
// that it runs.
func (a *app) mover(cmd *cobra.Command, o *traffic.Options, announce func(group int)) (traffic.Mover, error) {
	m, err := o.Mover(traffic.Surroundings{Output: a.stderr, Announce: announce, Secrets: secretVariables(cmd.Root())})
	if err != nil {
		return nil, usagef("%w", err)
	}
	return m, nil
}

func (a *app) switchoverCommand() *cobra.Command {
	return a.handoverCommand(postgres.Target, "switchover", "Hand the baton to the target, within a pause budget")
}

func (a *app) rollbackCommand() *cobra.Command {
	return a.handoverCommand(postgres.Source, "rollback", "Hand the baton back to the source, without loss")
}

// handoverFlags are what switchover and rollback are told.
type handoverFlags struct {
	To         postgres.Side   `json:"to"`
	MaxPause   time.Duration   `json:"max_pause"`
	NoRollback bool            `json:"no_rollback"`
	Traffic    traffic.Options `json:"traffic"`
}

func (f *handoverFlags) register(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.MaxPause, "max-pause", 10*time.Second, "budget for the pause; a handover that would exceed it aborts by itself")
	cmd.Flags().BoolVar(&f.NoRollback, "no-rollback", false, "make no way back, for a server that cannot connect to the other")
	f.Traffic.Register(cmd.Flags())
}

func (f *handoverFlags) valid() error {
	if f.MaxPause < 100*time.Millisecond || f.MaxPause > time.Hour {
		return usagef("--max-pause must be between 100ms and 1h")
	}
	return nil
}

func (a *app) handoverCommand(to postgres.Side, name, short string) *cobra.Command {
	f := handoverFlags{To: to}
	var yes, lost bool
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Long: short + `.

Run again after it was interrupted, also from another host, it continues from
wherever things stand.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.valid(); err != nil {
				return err
			}
			guard, err := newGuard()
			if err != nil {
				return err
			}
			mover, err := a.mover(cmd, &f.Traffic, guard.Child)
			if err != nil {
				return err
			}
			defer mover.Close()
			h := migrate.Handover{To: f.To, MaxPause: f.MaxPause, NoRollback: f.NoRollback, Traffic: mover, Guard: guard}
			switch {
			case lost:
				err = a.askForce(cmd, h)
			case !yes:
				err = a.lookAndAsk(cmd, h)
			}
			if err != nil {
				return err
			}
			return a.withMigration(cmd, migrate.Asks, nil, func(ctx context.Context, m *migrate.Migration, _ *ui.Printer) error {
				guard.Task(guardTask{guardedConnections(m.Config), f})
				if lost {
					result, err := m.TakeByForce(ctx, h)
					return a.handedOver(result, err)
				}
				result, err := m.HandOver(ctx, h)
				return a.handedOver(result, err)
			})
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&lost, "holder-lost", false, "the side that has the baton is lost for good: open the other without it; what it had not sent is lost")
	return cmd
}

// lookAndAsk asks whether to hand over, once it is known that it may be done and what
// it will probably cost. While a person thinks there is no session of ours, and no lock:
// a guardian must not wait for that, another's fence would end them, and what they have
// seen may not be so any more.
func (a *app) lookAndAsk(cmd *cobra.Command, h migrate.Handover) error {
	var question string
	err := a.withMigration(cmd, migrate.Asks, nil, func(ctx context.Context, m *migrate.Migration, _ *ui.Printer) error {
		question = fmt.Sprintf("Hand over from %s to %s?", m.Server(h.To.Other()).Address(), m.Server(h.To).Address())
		return m.Look(ctx, h)
	})
	if err != nil {
		return err
	}
	return a.confirm(false, question)
}

// handedOver prints how a handover went.
func (a *app) handedOver(result handover.Result, err error) error {
	if err != nil {
		return &withResult{err, result}
	}
	okay := struct {
		OK bool `json:"ok"`
		handover.Result
	}{true, result}
	return a.answer(okay, outcome.State{Baton: result.Baton}, func(next outcome.Next) {
		ui.Handover(a.stdout, result)
		ui.Next(a.stdout, next)
	})
}

// askForce has it confirmed that a side is opened whose holder is lost, by typing the
// name of the database that will count from then on.
func (a *app) askForce(cmd *cobra.Command, h migrate.Handover) error {
	var address, name string
	err := a.withMigration(cmd, migrate.Asks, nil, func(ctx context.Context, m *migrate.Migration, p *ui.Printer) error {
		address, name = m.Server(h.To).Address(), m.Server(h.To).Database()
		word, err := m.LastWord(ctx, h)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("no marker of the %s has ever arrived", h.To.Other())
		if !word.Marker.IsZero() {
			text = fmt.Sprintf("the last marker that arrived from the %s was written at %s, %s ago", h.To.Other(), word.Marker.Format(time.RFC3339Nano), ui.Seconds(word.AgeAtMost))
		}
		p.Observe(event.Warning{Side: h.To, Text: text + ": what was committed there later may not have arrived, and is lost then",
			Remedy: "if that server can still be reached, or comes back, a handover without --holder-lost loses nothing"})
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "To give the baton to %s all the same, type the name of its database: ", address)
	answer, _ := bufio.NewReader(a.stdin).ReadString('\n')
	if strings.TrimRight(answer, "\r\n") != name {
		return refusal.New("--holder-lost", "not confirmed: "+name+" was to be typed", "")
	}
	return nil
}
