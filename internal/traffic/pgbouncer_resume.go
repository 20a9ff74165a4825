package traffic

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"pgbaton/internal/postgres"
)

// Resume implements Mover: PgBouncer reads its file and lets clients go, in one
// go (see Switch for why). A database that is not paused any more, because
// PgBouncer was restarted, is as good as one that was resumed. One that leads
// elsewhere afterwards is paused again.
func (m *PgBouncers) Resume(ctx context.Context, r Route) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	to := destinationOf(r.To)
	return m.each(r, func(b *pgBouncer, database string) error {
		if reportsMore(r) {
			if err := b.cutOff(ctx, database); err != nil {
				return err
			}
		}
		err := b.letGo(ctx, database, &to)
		if err != nil {
			return fmt.Errorf("%w; clients are held back until somebody says RELOAD and RESUME %s on the admin console, or this is done again", err, quoteName(database))
		}
		return nil
	})
}

// reportsMore says whether the server that is left reports a parameter to its
// clients, scram_iterations since 16, that the other one does not know.
func reportsMore(r Route) bool { return r.From.Major >= 16 && r.To.Major < 16 }

// cutOff drops what a PgBouncer since 1.26 remembers of the server that is left.
// It tells every parameter that a server has ever reported to every server that it
// connects to for the same clients; a server that does not know one of them
// refuses, and the client is told "invalid server parameter", again and again.
// Only KILL makes it forget. Clients lose their connection by it; the database
// stays paused until they are let go.
func (b *pgBouncer) cutOff(ctx context.Context, database string) error {
	return b.reached(ctx, func(c *console) error {
		if !c.since(1, 26) {
			return nil
		}
		e, err := c.show(ctx, database)
		if err != nil || e == nil || !e.paused {
			return err // let go already: those who have come since are new
		}
		_, err = c.ask(ctx, "KILL "+quoteName(database))
		return err
	})
}

// Abort implements Mover. The configuration is changed by Switch only, so nothing
// is read again.
func (m *PgBouncers) Abort(ctx context.Context, r Route) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return m.each(r, func(b *pgBouncer, database string) error {
		err := b.letGo(ctx, database, nil)
		if err != nil {
			return fmt.Errorf("%w; clients are held back until somebody says RESUME %s on the admin console", err, quoteName(database))
		}
		return nil
	})
}

// settleAfter is when a resumed database is looked at once more, if it was
// another process that had ordered the PAUSE: the command may still have been
// under way when that process died.
const settleAfter = 150 * time.Millisecond

// letGo resumes a database, after reading the file again if it is to lead
// somewhere.
func (b *pgBouncer) letGo(ctx context.Context, database string, to *destination) error {
	resume := func(c *console) error { return resumeOn(ctx, c, database, to) }
	if b.pauser != nil && b.pauser.awaited > 0 {
		// Behind the PAUSE that still waits, on the same connection: so it cannot
		// overtake it, even if PgBouncer is frozen and neither has arrived yet.
		err := resume(b.pauser)
		b.pauser.close() // the PAUSE is never answered now [pgbouncer#715]
		b.pauser = nil
		if err != nil && !lost(err) {
			return b.backWhenWrong(ctx, database, err)
		}
	}
	if err := b.reached(ctx, resume); err != nil {
		return b.backWhenWrong(ctx, database, err)
	}
	b.letConnect(ctx, database)
	if b.ordered {
		b.ordered = false
		return nil
	}
	if err := postgres.Pause(ctx, settleAfter); err != nil {
		return oneLine(ctx, err)
	}
	return b.reached(ctx, resume)
}

// wrongWay says that PgBouncer did not take what its file says.
type wrongWay struct{ leads destination }

// Error implements error.
func (w *wrongWay) Error() string {
	return fmt.Sprintf("after RELOAD it still leads to %s: its log says why; or it reads another file (in a container, mount the file's directory, not the file)", w.leads)
}

// backWhenWrong pauses a database again that was resumed but leads to the wrong
// side.
func (b *pgBouncer) backWhenWrong(ctx context.Context, database string, err error) error {
	var w *wrongWay
	if !errors.As(err, &w) {
		return err
	}
	if again := b.pauseAgain(ctx, database); again != nil {
		return fmt.Errorf("%w; and it could not be paused again: %w", err, again)
	}
	return err
}

// resumeOn orders RESUME, after RELOAD if the database is to lead somewhere, and
// looks, in one go, what has become of it. The answers of a PAUSE that waits may
// come in between.
func resumeOn(ctx context.Context, c *console, database string, to *destination) error {
	commands := []string{"RESUME " + quoteName(database), "SHOW DATABASES"}
	if to != nil {
		commands = append([]string{"RELOAD"}, commands...)
	}
	if err := c.send(ctx, commands...); err != nil {
		return fmt.Errorf("RESUME: %w", err)
	}
	var refusal error
	for {
		a, err := c.receive(ctx)
		if err != nil {
			return fmt.Errorf("RESUME: %w", err)
		}
		if a.refusal != nil {
			refusal = a.refusal // not paused, perhaps: SHOW DATABASES tells
		}
		if _, ok := a.columns["paused"]; !ok {
			continue
		}
		e, err := findEntry(a, database)
		switch {
		case err != nil:
			return err
		case e == nil:
			return errors.New("PgBouncer knows no such database: its configuration has lost the entry")
		case e.paused && refusal != nil:
			return fmt.Errorf("RESUME: %w", refusal)
		case e.paused:
			return errors.New("RESUME was answered, but the database is paused: somebody else works on this PgBouncer")
		case to != nil && e.destination != *to:
			return &wrongWay{leads: e.destination}
		}
		return nil
	}
}

const (
	retryParameter = "server_login_retry"
	retryAtOnce    = "0.01"
	letConnectFor  = time.Second
)

// letConnect helps clients that wait although the database is resumed, because
// PgBouncer believes that the server does not answer: PAUSE has cut off a
// connection that was being opened (see awaitLogins), or was asked for by a user
// new to it, and that counts as a failure. It would try again only after
// server_login_retry, 15 s by default. That is made short until the clients have
// connections. Nothing here is worth an error: the database is resumed.
func (b *pgBouncer) letConnect(ctx context.Context, database string) {
	ctx, cancel := context.WithTimeout(ctx, letConnectFor)
	defer cancel()
	if b.starved(ctx, database) == 0 {
		return
	}
	settings, err := b.main.showConfig(ctx)
	if err != nil {
		return
	}
	was := settings[retryParameter]
	if n, err := strconv.ParseFloat(was, 64); err != nil || n < 1 {
		return
	}
	if _, err := b.main.ask(ctx, setCommand(retryParameter, retryAtOnce)); err != nil {
		return
	}
	for b.starved(ctx, database) > 0 && postgres.Pause(ctx, 5*time.Millisecond) == nil {
	}
	restore, cancel := context.WithTimeout(context.WithoutCancel(ctx), letConnectFor)
	defer cancel()
	// If this fails the connection is lost; the next RELOAD brings the file's value back.
	_ = b.reached(restore, func(c *console) error {
		_, err := c.ask(restore, setCommand(retryParameter, was))
		return err
	})
}

// starved counts the pools of a database that could have more connections to the
// server, do not open any, and have clients that wait for one.
func (b *pgBouncer) starved(ctx context.Context, database string) (n int) {
	if b.main == nil {
		return 0
	}
	a, err := b.main.ask(ctx, "SHOW POOLS")
	var e *entry
	if err == nil {
		e, err = b.main.show(ctx, database)
	}
	if err != nil || e == nil {
		b.drop()
		return 0
	}
	for _, p := range findPools(a, database) {
		if p.waiting > 0 && p.idle == 0 && p.logins == 0 && p.servers < max(e.poolSize, 1) {
			n++
		}
	}
	return n
}

// setCommand sets a parameter until the next RELOAD; values are quoted as in SQL.
func setCommand(name, value string) string {
	return "SET " + name + " = " + postgres.QuoteLiteral(value)
}

func (c *console) showConfig(ctx context.Context) (map[string]string, error) {
	a, err := c.ask(ctx, "SHOW CONFIG")
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	for _, row := range a.rows {
		settings[a.value(row, "key")] = a.value(row, "value")
	}
	return settings, nil
}
