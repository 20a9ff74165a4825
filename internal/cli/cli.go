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
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"pgbaton/internal/handover"
	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/routine"
	"pgbaton/internal/ui"
)

// usageError is wrong usage or configuration: nothing was touched.
type usageError struct{ err error }

func (u *usageError) Error() string { return u.err.Error() }
func (u *usageError) Unwrap() error { return u.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

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

// exitCode is the one place that maps errors to exit codes.
func exitCode(err error) int {
	var (
		usage     *usageError
		refused   *refusal.Refusal
		aborted   *handover.Aborted
		afterPass *handover.AfterPass
		unknown   *handover.Unknown
		pooler    *postgres.PoolerError
	)
	switch {
	case errors.As(err, &usage):
		return outcome.Usage
	case errors.As(err, &unknown):
		return outcome.Unknown
	case errors.As(err, &afterPass):
		return outcome.AfterPass
	case errors.As(err, &aborted):
		if len(aborted.Lost) > 0 {
			return outcome.Failed // the holder may not serve
		}
		return outcome.Aborted
	case errors.As(err, &refused), errors.As(err, &pooler):
		return outcome.NotNow
	}
	return outcome.Failed
}

// failure is an error in JSON.
type failure struct {
	OK       bool             `json:"ok"`
	ExitCode int              `json:"exit_code"`
	Error    string           `json:"error"`
	Hint     string           `json:"hint,omitempty"`
	Side     postgres.Side    `json:"side,omitempty"`
	SQLState string           `json:"sqlstate,omitempty"`
	Reasons  []refusal.Reason `json:"reasons,omitempty"`
	Result   any              `json:"result,omitempty"`
}

// withResult is an error of a command that has a result all the same.
type withResult struct {
	error
	result any
}

func (w *withResult) Unwrap() error { return w.error }

func (a *app) printError(err error, code int) {
	f := failure{ExitCode: code, Error: describeError(err), Hint: hint(err, code), SQLState: postgres.Code(err)}
	var sided *postgres.Error
	if errors.As(err, &sided) {
		f.Side = sided.Side
	}
	var refused *refusal.Refusal
	if errors.As(err, &refused) {
		f.Reasons = refused.Reasons
	}
	var result *withResult
	if errors.As(err, &result) {
		f.Result = result.result
	}
	if a.json {
		ui.NewPrinter(a.stdout, a.stderr, true).Result(f, a.next(stateOf(err, code)))
		return
	}
	if refused != nil {
		fmt.Fprintf(a.stderr, "pgbaton: %s refused: nothing was changed\n", refused.What)
		for _, r := range refused.Reasons {
			fmt.Fprintf(a.stderr, "  - %s\n", r.Why)
			if r.Remedy != "" {
				fmt.Fprintf(a.stderr, "    hint: %s\n", r.Remedy)
			}
		}
		return
	}
	fmt.Fprintf(a.stderr, "pgbaton: %s\n", f.Error)
	if f.SQLState != "" && !strings.Contains(f.Error, f.SQLState) {
		fmt.Fprintf(a.stderr, "  SQLSTATE %s\n", f.SQLState)
	}
	if f.Hint != "" {
		fmt.Fprintf(a.stderr, "  hint: %s\n", f.Hint)
	}
}

// next decides what to run after the command that runs, by what is known of it.
func (a *app) next(s outcome.State) outcome.Next {
	s.Command = a.command
	return outcome.After(s)
}

// stateOf is what an error tells of how things stand.
func stateOf(err error, code int) outcome.State {
	s := outcome.State{Code: code}
	var copying *migrate.Copying
	if errors.As(err, &copying) {
		s.Phase = migrate.PhaseCopying
	}
	return s
}

func describeError(err error) string {
	var sided *postgres.Error
	if errors.As(err, &sided) {
		return err.Error() // details are in it
	}
	return postgres.Describe(err)
}

// hint is the remedy: the error's own, or what the exit code calls for.
func hint(err error, code int) string {
	const goesOn = "the guardian, a process of its own, goes on trying; pgbaton status shows where things stand, and the same command, run again, takes over from it"
	var aborted *handover.Aborted
	if errors.As(err, &aborted) && len(aborted.Lost) > 0 { // that the holder serves comes before why it was aborted
		if lostHint := postgres.Hint(errors.Join(aborted.Lost...)); lostHint != "" {
			return lostHint + "; " + goesOn
		}
		return goesOn
	}
	if errors.Is(err, migrate.Interrupted()) && code == outcome.Failed {
		return "run the same command again to continue; pgbaton status shows what is there, pgbaton reset removes it"
	}
	if h := postgres.Hint(err); h != "" {
		return h
	}
	if code == outcome.Unknown {
		return goesOn
	}
	var panicked *routine.Panic
	if errors.As(err, &panicked) {
		return "this is a fault of pgbaton: report it, with what is printed above. A handover that it interrupted is brought to an end by its guardian. pgbaton status shows what stands; the same command, run again, continues from there"
	}
	var trouble *migrate.Trouble
	if errors.As(err, &trouble) {
		return trouble.Remedy
	}
	switch {
	case code == outcome.Usage:
		return "pgbaton help shows the commands, pgbaton COMMAND --help their flags"
	case code == outcome.Aborted:
		return "the holder serves again; pgbaton status shows where things stand"
	case code == outcome.AfterPass:
		return "remove the cause and run the same command again: it continues from here"
	}
	return ""
}

// version is the module's, as the build recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.json {
				ui.NewPrinter(a.stdout, a.stderr, true).Result(map[string]any{"ok": true, "version": version()}, a.next(outcome.State{}))
				return nil
			}
			_, err := fmt.Fprintf(a.stdout, "pgbaton %s\n", version())
			return err
		},
	}
}
