package traffic

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgbaton/internal/routine"
)

// How long PAUSE may wait in session pooling. There it ends only when every
// client has disconnected [pgbouncer#369]. Clients are held back from the first
// moment; the sessions that are open are ended by the fence of the database,
// which follows, and that completes the PAUSE.
const (
	sessionWait      = time.Second
	sessionWaitShare = 4 // at most a quarter of what is left of the budget
)

// Pause implements Mover. In transaction and statement pooling PAUSE is complete
// when it returns: every transaction has ended and PgBouncer has no connection
// to the database any more.
func (m *PgBouncers) Pause(ctx context.Context, r Route) error {
	database, err := m.clientDatabase(r)
	if err != nil {
		return fmt.Errorf("PgBouncer: %w", err)
	}
	// The first that fails is reason enough to let the others' clients go.
	group, one := routine.WithContext(ctx)
	for _, b := range m.all {
		group.Go(func() error {
			if err := b.pause(one, ctx, database); err != nil {
				return fmt.Errorf("PgBouncer %s, database %s: %w", b.name, database, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// pause does so within ctx, which ends when another PgBouncer fails, or with the
// budget.
func (b *pgBouncer) pause(ctx, budget context.Context, database string) error {
	session, err := b.orderPause(ctx, database)
	if err != nil {
		return fmt.Errorf("PAUSE: %w", err)
	}
	wait, cancel := ctx, context.CancelFunc(func() {})
	if session {
		wait, cancel = context.WithTimeout(ctx, sessionPatience(ctx))
	}
	defer cancel()
	a, err := b.pauser.receive(wait)
	switch {
	case err == nil && a.refusal == nil:
		return b.mustBePaused(ctx, database)
	case err == nil:
		return fmt.Errorf("PAUSE: %w", a.refusal)
	case session && ctx.Err() == nil && wait.Err() != nil:
		return b.mustBePaused(ctx, database) // it goes on waiting; new clients are held back
	case budget.Err() != nil:
		return fmt.Errorf("PAUSE did not complete in time: %s; %w", b.inTheWay(database), context.Cause(budget))
	}
	return fmt.Errorf("PAUSE: %w", err)
}

func sessionPatience(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return min(sessionWait, time.Until(end)/sessionWaitShare)
	}
	return sessionWait
}

// orderPause sends PAUSE and says whether a pool of the database pools sessions. A
// connection that PgBouncer has closed since Check is replaced once; PAUSE of a
// database that is paused is no error.
func (b *pgBouncer) orderPause(ctx context.Context, database string) (session bool, err error) {
	for range 2 {
		if session, err = b.tryPause(ctx, database); !lost(err) {
			return session, err
		}
		b.pauser.close()
		b.pauser = nil
	}
	return session, err
}

func (b *pgBouncer) tryPause(ctx context.Context, database string) (session bool, err error) {
	if b.pauser != nil && b.pauser.awaited > 0 { // an earlier PAUSE still waits
		b.pauser.close()
		b.pauser = nil
	}
	if b.pauser == nil {
		c, err := openConsole(ctx, b.config)
		if err != nil {
			return false, err
		}
		b.pauser = c
	}
	if err := b.awaitLogins(ctx, database); err != nil {
		return false, err
	}
	if err := b.pauser.send(ctx, "SHOW POOLS", "PAUSE "+quoteName(database)); err != nil {
		return false, err
	}
	b.ordered = true
	a, err := b.pauser.receive(ctx)
	if err == nil {
		err = a.refusal
	}
	return slices.ContainsFunc(findPools(a, database), func(p pool) bool { return p.session }), err
}

// awaitLogins waits a moment for connections to the server that are just being
// opened. PAUSE would cut them off, PgBouncer would take that for a failure of
// the server, and after RESUME it would refuse or delay clients for
// server_login_retry [pgbouncer#420, pgbouncer#498].
func (b *pgBouncer) awaitLogins(ctx context.Context, database string) error {
	for range 50 {
		a, err := b.pauser.ask(ctx, "SHOW POOLS")
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(findPools(a, database), func(p pool) bool { return p.logins > 0 }) {
			return nil
		}
		timer := time.NewTimer(2 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return oneLine(ctx, ctx.Err())
		}
	}
	return nil // busy opening connections all the time: it cannot be helped
}

// mustBePaused looks: somebody else's RESUME may have come in between
// [pgbouncer#715].
func (b *pgBouncer) mustBePaused(ctx context.Context, database string) error {
	var e *entry
	err := b.reached(ctx, func(c *console) (err error) {
		e, err = c.show(ctx, database)
		return err
	})
	switch {
	case err != nil:
		return err
	case e == nil || !e.paused:
		return errors.New("PAUSE was answered, but the database is not paused: somebody else works on this PgBouncer, or it was restarted")
	}
	return nil
}

const shownClients = 5

// inTheWay names the clients behind which PAUSE waits. It is asked when the
// budget is used up, so it has little time of its own.
func (b *pgBouncer) inTheWay(database string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	unknown := func(err error) string { return fmt.Sprintf("PgBouncer does not say for whom it waits (%v)", err) }
	if err := b.open(ctx); err != nil {
		return unknown(err)
	}
	clients, err := b.main.ask(ctx, "SHOW CLIENTS")
	if err != nil {
		b.drop()
		return unknown(err)
	}
	servers, err := b.main.ask(ctx, "SHOW SERVERS")
	if err != nil {
		b.drop()
		return unknown(err)
	}
	found := blockers(clients, servers, database)
	if len(found) == 0 {
		return "no client of it is in a transaction any more; if another database is being paused too, it waits for that one"
	}
	text := strings.Join(found[:min(len(found), shownClients)], "; ")
	if more := len(found) - shownClients; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return "it waits for " + text
}

// blockers are the clients that have a connection to the server.
func blockers(clients, servers answer, database string) (found []string) {
	byPointer := map[string][]string{}
	for _, row := range servers.rows {
		byPointer[servers.value(row, "ptr")] = row
	}
	for _, row := range clients.rows {
		server, linked := byPointer[clients.value(row, "link")]
		if clients.value(row, "database") != database || clients.value(row, "link") == "" || !linked {
			continue
		}
		text := fmt.Sprintf("client %s:%s, user %s", clients.value(row, "addr"), clients.value(row, "port"), clients.value(row, "user"))
		if app := clients.value(row, "application_name"); app != "" {
			text += ", application " + app
		}
		text += fmt.Sprintf(", last request %s", clients.value(row, "request_time"))
		if pid := servers.value(server, "remote_pid"); pid != "" && pid != "0" {
			text += fmt.Sprintf(", server process %s (pid in pg_stat_activity)", pid)
		}
		found = append(found, text)
	}
	return found
}
