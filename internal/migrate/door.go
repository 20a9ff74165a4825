package migrate

import (
	"context"
	"time"

	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// Use is how a command works on a migration.
type Use int

// The ways to work on one.
const (
	Looks    Use = iota // it reads, and may do so again
	Asks                // it takes the lock when it knows more
	Operates            // it is the one operator from the start
)

// Migration is a migration behind the door, see [Enter]: what a command was told and
// what the sides remember, and the command's sessions. Commands are its methods.
type Migration struct {
	Config
	*Sessions
}

// looksTimes is how often a command looks whose sessions were ended: one that looks
// always works.
const looksTimes = 5

// Enter is the one door through which a command comes to a migration. It opens the
// sessions, refuses poolers, takes the migration's names from its records, keeps out a
// side that came back although the other was given the baton by force, takes over what
// start was told, and the lock where use says so; then it does what the command is for.
// A command whose sessions another pgbaton has ended does so again if it only looks, or
// is refused.
func Enter(ctx context.Context, c Config, use Use, do func(context.Context, *Migration) error) error {
	began := time.Now()
	for looked := 1; ; looked++ {
		m := &Migration{c, open(ctx, c)}
		err := m.enter(ctx, use)
		if err == nil {
			err = do(ctx, m)
		}
		disturbed := m.disturbed(err)
		m.Close()
		switch {
		case !disturbed || ctx.Err() != nil:
			return err
		case use != Looks:
			return overtaken(ctx, m, time.Since(began), err)
		case looked == looksTimes:
			return err
		}
	}
}

func (m *Migration) enter(ctx context.Context, use Use) error {
	if err := m.direct(); err != nil {
		return err
	}
	if err := m.takeNames(ctx, m.Sessions); err != nil {
		return err
	}
	if err := fenceStale(ctx, m.Config, m.Sessions); err != nil {
		return err
	}
	if err := m.recall(ctx, m.Sessions); err != nil {
		return err
	}
	if m.TargetConn != nil {
		if err := schema.RemoveTrials(ctx, m.Target, m.TargetConn); m.disturbed(err) {
			return err
		} else if err != nil {
			m.Observe(event.Warning{Side: postgres.Target, Text: err.Error(), Remedy: postgres.Hint(err)})
		}
	}
	if use != Operates {
		return nil
	}
	return m.lock(ctx)
}

// operate is for a command that needs both sides of a migration that is there: it makes
// the command its one operator.
func (m *Migration) operate(ctx context.Context, command string) error {
	if err := m.needMigration(ctx, command); err != nil {
		return err
	}
	if m.locked {
		return nil
	}
	return m.lock(ctx)
}
