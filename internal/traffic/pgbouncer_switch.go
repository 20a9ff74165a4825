package traffic

import (
	"context"
	"fmt"
	"time"
)

// Switch implements Mover: it rewrites the entries. A PgBouncer that is down now,
// or goes down, comes back with the new one. One that runs is told to read it by
// Resume, and not here: from RELOAD on it has no greeting of the new server for
// clients that connect, and to get one it opens connections although the
// database is paused, which the pause cuts off at once. PgBouncer takes that for
// a failure of the server, and refuses or delays clients after RESUME
// [pgbouncer#498]. So between RELOAD and RESUME there may be nothing.
func (m *PgBouncers) Switch(ctx context.Context, r Route) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	to := destinationOf(r.To)
	database, err := m.clientDatabase(r)
	if err != nil {
		return fmt.Errorf("PgBouncer: %w", err)
	}
	// One after the other: several PgBouncers may read the same file.
	rewritten := map[*pgBouncer]string{}
	failed := map[*pgBouncer]error{}
	for _, b := range m.all {
		if rewritten[b], failed[b] = b.rewrite(ctx, database, to); failed[b] != nil {
			failed[b] = fmt.Errorf("%w; the entry is as it was, its clients are still held back", failed[b])
		}
	}
	return m.each(r, func(b *pgBouncer, database string) error {
		if failed[b] != nil {
			return failed[b]
		}
		if err := b.holdBack(ctx, database); err != nil {
			return fmt.Errorf("%w; the entry in %s already leads to %s: PgBouncer reads it when it starts, or on RELOAD", err, rewritten[b], to)
		}
		return nil
	})
}

func destinationOf(e Endpoint) destination {
	return destination{host: e.Host, port: e.Port, database: e.Database}
}

// rewrite changes the entry and returns the file that holds it.
func (b *pgBouncer) rewrite(ctx context.Context, database string, to destination) (string, error) {
	if err := b.locate(ctx); err != nil {
		return "", err
	}
	file, _, err := repointFile(b.file.path, b.file.workDir, database, to)
	if err != nil {
		return "", fmt.Errorf("rewriting the entry: %w", err)
	}
	return file, nil
}

// holdBack makes sure that PgBouncer is there, and pauses again a database that
// is not paused any more, because PgBouncer was restarted: clients wait until
// Resume.
func (b *pgBouncer) holdBack(ctx context.Context, database string) error {
	return b.reached(ctx, func(c *console) error {
		e, err := c.show(ctx, database)
		if err != nil || e == nil || e.paused {
			return err // no entry: Resume tells
		}
		return b.pauseAgain(ctx, database)
	})
}

// pauseAgain orders PAUSE and does not wait for its end: the sessions that are
// open lead to a fenced database.
func (b *pgBouncer) pauseAgain(ctx context.Context, database string) (err error) {
	b.pauser.close()
	if b.pauser, err = openConsole(ctx, b.config); err != nil {
		return err
	}
	if err := b.pauser.send(ctx, "PAUSE "+quoteName(database)); err != nil {
		return fmt.Errorf("PAUSE: %w", err)
	}
	b.ordered = true
	wait, cancel := context.WithTimeout(ctx, min(sessionPatience(ctx), 200*time.Millisecond))
	defer cancel()
	a, err := b.pauser.receive(wait)
	if err != nil && wait.Err() == nil {
		return fmt.Errorf("PAUSE: %w", err)
	}
	return a.refusal // nil when it still waits: new clients are held back already
}
