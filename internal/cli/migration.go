package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"pgbaton/internal/event"
	"pgbaton/internal/migrate"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
	"pgbaton/internal/ui"
)

// use is how a command works on a migration.
type use int

const (
	looks    use = iota // it reads, and may do so again
	asks                // it asks for the lock when it knows more
	operates            // it is the one operator from the start
)

// looksTimes is how often a command looks whose sessions were ended: one that looks
// always works.
const looksTimes = 5

// withMigration runs a command on a migration: configuration, printer, sessions. One
// whose sessions another pgbaton has ended looks again, or is refused.
func (a *app) withMigration(cmd *cobra.Command, how use, adjust func(*migrate.Config) error,
	do func(context.Context, migrate.Config, *migrate.Sessions, *ui.Printer) error) error {
	m, err := a.migration()
	if err != nil {
		return err
	}
	if adjust != nil {
		if err := adjust(&m); err != nil {
			return err
		}
	}
	printer := ui.NewPrinter(a.stdout, a.stderr, a.json)
	a.printer = printer
	defer printer.Close()
	m.Observe = printer.Observe
	if tellsStalls(cmd, printer) {
		watchStalls(m, printer)
	}
	ctx, began := cmd.Context(), time.Now()
	for looked := 1; ; looked++ {
		sessions := migrate.Open(ctx, m)
		err := onSessions(ctx, m, sessions, how == operates, func(m migrate.Config) error { return do(ctx, m, sessions, printer) })
		disturbed := sessions.Disturbed(err)
		sessions.Close()
		switch {
		case !disturbed || ctx.Err() != nil:
			return err
		case how != looks:
			return migrate.Overtaken(ctx, m, sessions, time.Since(began), err)
		case looked == looksTimes:
			return err
		}
	}
}

// onSessions does what every command does first, and then what this one does.
func onSessions(ctx context.Context, m migrate.Config, sessions *migrate.Sessions, locked bool, do func(migrate.Config) error) error {
	if err := sessions.Direct(); err != nil {
		return err
	}
	if err := m.Identify(ctx, sessions); err != nil {
		return err
	}
	if err := migrate.FenceStale(ctx, m, sessions); err != nil {
		return err
	}
	if err := m.Remember(ctx, sessions); err != nil {
		return err
	}
	if sessions.TargetConn != nil {
		if err := schema.RemoveTrials(ctx, m.Target, sessions.TargetConn); sessions.Disturbed(err) {
			return err
		} else if err != nil {
			m.Observe(event.Warning{Side: string(postgres.Target), Text: err.Error(), Remedy: postgres.Hint(err)})
		}
	}
	if locked {
		if err := sessions.Lock(ctx); err != nil {
			return err
		}
	}
	return do(m)
}
