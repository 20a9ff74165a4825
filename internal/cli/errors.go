package cli

import (
	"errors"
	"fmt"
	"strings"

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
