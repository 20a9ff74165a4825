package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"pgbaton/internal/event"
	"pgbaton/internal/guardian"
	"pgbaton/internal/handover"
	"pgbaton/internal/migrate"
)

// guardCommand is what a handover runs beside itself. Nobody else has a use for
// it: without its task on standard input it ends at once.
func (a *app) guardCommand() *cobra.Command {
	return &cobra.Command{
		Use: guardName, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Who handed over may be gone with the terminal, or with the pipe, that
			// we would print to.
			signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
			prepare := func(task json.RawMessage) (guardian.TakeOver, error) {
				var t guardTask
				if err := json.Unmarshal(task, &t); err != nil {
					return nil, err
				}
				return a.takeOver(cmd, t)
			}
			return guardian.Watch(context.WithoutCancel(cmd.Context()), a.stdin, a.stdout, prepare, a.guardianSays)
		},
	}
}

func (a *app) guardianSays(text string) {
	fmt.Fprintf(a.stderr, "pgbaton guardian[%d]: %s\n", os.Getpid(), text)
}

// takeOver makes the function that takes over, from what the command was told.
func (a *app) takeOver(cmd *cobra.Command, t guardTask) (guardian.TakeOver, error) {
	c := t.Connections
	a.connections = connections{source: c.Source, target: c.Target, sourceFromTarget: c.SourceFromTarget,
		targetFromSource: c.TargetFromSource, migration: c.Migration}
	m, err := a.migration()
	if err != nil {
		return nil, err
	}
	m.Observe = func(e event.Event) {
		if w, ok := e.(event.Warning); ok {
			a.guardianSays(string(w.Side) + ": " + w.Text)
		}
	}
	mover, err := a.mover(cmd, &t.Handover.Traffic, nil)
	if err != nil {
		return nil, err
	}
	h := migrate.Handover{To: t.Handover.To, MaxPause: t.Handover.MaxPause, NoRollback: t.Handover.NoRollback, Traffic: mover}
	return func(ctx context.Context, w *handover.Ward, kill func(), why string) error {
		defer mover.Close()
		return migrate.TakeOver(ctx, m, h, w, kill, why)
	}, nil
}

// guardName is the command that a guardian is run with.
const guardName = "guardian"

// guardTask is what a guardian is told: all that the command was told.
type guardTask struct {
	Connections guardConnections `json:"connections"`
	Handover    handoverFlags    `json:"handover"`
}

// guardConnections are the resolved connection strings, of the servers that the
// command works on: a guardian runs in another directory, the environment may be
// another by then, and of several hosts another may answer first.
type guardConnections struct {
	Source           string `json:"source"`
	Target           string `json:"target"`
	SourceFromTarget string `json:"source_from_target"`
	TargetFromSource string `json:"target_from_source"`
	Migration        string `json:"migration"`
}

func guardedConnections(m migrate.Config) guardConnections {
	return guardConnections{Source: m.Source.Conninfo().String(), Target: m.Target.Conninfo().String(),
		SourceFromTarget: m.SourceFromTarget.Given().String(), TargetFromSource: m.TargetFromSource.Given().String(), Migration: m.Name}
}

func newGuard() (*guardian.Guard, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's own path: %w", err)
	}
	return guardian.New(program, []string{guardName}), nil
}
