// Package cli is the command line: one file per command, each turning flags into
// a call of the packages below and their answers into output and exit codes.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/routine"
	"pgbaton/internal/ui"
)

// app is one invocation.
type app struct {
	stdin       io.Reader
	stdout      io.Writer
	stderr      io.Writer
	json        bool
	connections connections
	printer     *ui.Printer    // of the migration's command; nil for others
	signals     chan os.Signal // what ends the command cleanly
	command     string         // that runs, by its name
}

// Run executes the command line and returns the exit code. A panic, of whatever
// goroutine (package routine), is a failure like others. It undoes nothing: what a
// panic has left is for the guardian, and for the next run, as after a death.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, signals: make(chan os.Signal, 1)}
	ctx, stop := a.withSignals(ctx)
	defer stop()
	defer func() {
		if value := recover(); value != nil {
			code = outcome.Failed
			a.panicked(routine.Recovered(value))
		}
	}()
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	ran, err := root.ExecuteContextC(ctx)
	if err == nil {
		return outcome.Done
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) && !errors.Is(err, errStopped) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	if code = exitCode(err); ran != root {
		a.command = ran.Name()
	}
	if !errors.Is(err, errReported) {
		a.printError(err, code)
	}
	return code
}

// panicked reports a panic: what was being done, and where to look for what stands.
func (a *app) panicked(p *routine.Panic) {
	fmt.Fprintf(a.stderr, "%s\n", p.Stack)
	var err error = p
	if last := a.printer.Last(); last != "" {
		err = fmt.Errorf("in %s: %w", last, p)
	}
	a.printError(err, outcome.Failed)
}

// withSignals ends the context at the first SIGINT or SIGTERM, and SIGHUP, see
// minds. Further ones are ignored: a handover that is being undone must not be cut
// short.
func (a *app) withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signal.Notify(a.signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	waiting := routine.Start(func() {
		select {
		case <-a.signals:
			fmt.Fprintln(a.stderr, "\npgbaton: stopping cleanly …")
			cancel(migrate.Interrupted())
		case <-done:
		}
	})
	return ctx, func() {
		signal.Stop(a.signals)
		close(done)
		waiting.Wait()
		cancel(nil)
	}
}

// minds lets SIGHUP end the command, but the demo: its shop reads its configuration
// again, as services do.
func (a *app) minds(cmd *cobra.Command) {
	if cmd.Name() != demoName {
		signal.Notify(a.signals, syscall.SIGHUP)
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "pgbaton",
		Short: "Move a live PostgreSQL database to another server",
		Long: `pgbaton moves a live PostgreSQL database to a newer major version, another host
or another cloud, over PostgreSQL's own logical replication: next to no
downtime, nothing lost.

  check → start → status → rehearse → switchover → rollback or finish`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON lines on standard output")
	a.connections.register(root.PersistentFlags())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(a.checkCommand(), a.planCommand(), a.startCommand(), a.pauseCommand(), a.resumeCommand(),
		a.statusCommand(), a.rehearseCommand(), a.switchoverCommand(), a.rollbackCommand(), a.reportCommand(), a.guardCommand(), a.finishCommand(), a.resetCommand(), a.demoCommand(), a.versionCommand())
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		a.command = cmd.Name()
		a.minds(cmd)
		if cmd.Name() == guardName {
			return nil // it is told everything on its standard input
		}
		return a.configure(cmd)
	}
	for _, c := range root.Commands() {
		if c.Args == nil {
			c.Args = noArgs
		}
	}
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		for _, shell := range c.Commands() { // of completion
			shell.Args = noArgs
		}
	}
	return root
}

// knownCommand refuses what is no command as wrong usage.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unknown command %q for %q", args[0], cmd.CommandPath())
	}
	return nil
}

// noArgs refuses arguments as wrong usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments, got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// next decides what to run after the command that runs, by what is known of it.
func (a *app) next(s outcome.State) outcome.Next {
	s.Command = a.command
	return outcome.After(s)
}

// answer ends a command: with --json by its result, which carries what to run next, else
// by what say writes.
func (a *app) answer(result any, s outcome.State, say func(next outcome.Next)) error {
	return a.answerIn(a.json, result, s, say)
}

// answerIn is answer for a command that has another flag that asks for JSON too.
func (a *app) answerIn(json bool, result any, s outcome.State, say func(next outcome.Next)) error {
	switch next := a.next(s); {
	case !json:
		say(next)
	case a.printer != nil:
		a.printer.Result(result, next)
	default:
		ui.NewPrinter(a.stdout, a.stderr, true).Result(result, next)
	}
	return nil
}
