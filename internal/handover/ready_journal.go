package handover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// This file looks, before anyone waits, at what the journals must hold for the phases
// to do their work, above all for the taker to be opened; and it proves, after open,
// that the taker is.

// reads are the entries that a handover relies on, on either side.
var reads = []func(context.Context, *pgx.Conn) error{
	func(ctx context.Context, c *pgx.Conn) error { _, err := ReadPaused(ctx, c); return err },
	func(ctx context.Context, c *pgx.Conn) error { _, err := TrafficWaits(ctx, c); return err },
	func(ctx context.Context, c *pgx.Conn) error { _, err := ReadArrival(ctx, c); return err },
	func(ctx context.Context, c *pgx.Conn) error { _, err := StreamLeft(ctx, c); return err },
	func(ctx context.Context, c *pgx.Conn) error { _, err := ReadGuardianNote(ctx, c); return err },
	func(ctx context.Context, c *pgx.Conn) error { _, err := readViews(ctx, c); return err },
	func(ctx context.Context, c *pgx.Conn) error { _, err := journal.AttemptBy(ctx, c); return err },
	func(ctx context.Context, c *pgx.Conn) error { _, err := Results(ctx, c); return err },
	func(ctx context.Context, c *pgx.Conn) error { _, err := schema.Quieted(ctx, c); return err },
	func(ctx context.Context, c *pgx.Conn) error { _, err := schema.Failed(ctx, c); return err },
	func(ctx context.Context, c *pgx.Conn) error { _, err := replication.Withheld(ctx, c); return err },
	func(ctx context.Context, c *pgx.Conn) error { _, err := replication.Identities(ctx, c); return err },
	func(ctx context.Context, c *pgx.Conn) error { return replication.ReadFilenodes(ctx, c) },
}

func readViews(ctx context.Context, conn *pgx.Conn) (v heldViews, err error) {
	_, err = journal.Get(ctx, conn, journalKind, keyViews, &v)
	return v, err
}

// readyJournals refuses when a journal has been emptied, or holds what pgbaton has not
// written: inside the pause it would be too late to find out.
func (r *run) readyJournals(ctx context.Context, say func(why, remedy string)) error {
	for _, side := range []struct {
		Party
		conn *pgx.Conn
	}{{r.Holder, r.holder}, {r.Taker, r.taker}} {
		record, err := journal.Read(ctx, side.conn)
		if err != nil {
			return postgres.Wrap(side.Side, "reading the baton", err)
		}
		lost, err := journal.Lost(ctx, side.conn, record)
		if err != nil {
			return postgres.Wrap(side.Side, "reading the journal", err)
		}
		if lost {
			say(LostText(side.Side), r.lost())
			continue
		}
		for _, read := range reads {
			err := read(ctx, side.conn)
			if damaged := (*journal.Damaged)(nil); errors.As(err, &damaged) {
				say(fmt.Sprintf("%s: %s", side.Side, damaged), damaged.DeleteSQL())
			} else if err != nil {
				return postgres.Wrap(side.Side, "reading the journal", err)
			}
		}
	}
	if err := r.readyFence(ctx, say); err != nil {
		return err
	}
	return r.readyOpen(ctx, say)
}

// readyFence tries the holder's fence.
func (r *run) readyFence(ctx context.Context, say func(why, remedy string)) error {
	err := fence.Rehearse(ctx, r.holder, r.Holder.Database(), r.Holder.Keeps)
	if postgres.Refused(err) {
		say(fmt.Sprintf("the %s could not be fenced: %s", r.Holder.Side, postgres.Describe(err)), "the role must own the database or be superuser")
		return nil
	}
	return postgres.Wrap(r.Holder.Side, "trying the fence", err)
}

// LostText says that a side's journal has been emptied.
func LostText(side postgres.Side) string {
	return fmt.Sprintf("%s: the journal of pgbaton is gone, or was emptied by somebody: what the migration has changed there for its time (replica identities, triggers, grants on the database) is not known any more", side)
}

// readyOpen reads what the taker's fence saved, and tries to lift it. The taker does
// not have the baton, so it is fenced.
func (r *run) readyOpen(ctx context.Context, say func(why, remedy string)) error {
	saved, err := fence.Raised(ctx, r.taker)
	damaged := (*journal.Damaged)(nil)
	if err != nil && !errors.As(err, &damaged) {
		return postgres.Wrap(r.Taker.Side, "reading what the fence saved", err)
	}
	here, err := fence.Read(ctx, r.holder)
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "reading the database's grants", err)
	}
	switch {
	case damaged == nil && saved != nil && (letsIn(saved.Grants) || !letsIn(here.Grants)):
		r.opening = saved
		if err := fence.RehearseLift(ctx, r.taker, r.Taker.Database()); postgres.Refused(err) {
			say(fmt.Sprintf("the %s could not be opened: %s", r.Taker.Side, postgres.Describe(err)), "the role must own the database or be superuser")
		} else if err != nil {
			return postgres.Wrap(r.Taker.Side, "trying to lift the fence", err)
		}
		return nil
	}
	now, err := fence.Read(ctx, r.taker)
	if err != nil {
		return postgres.Wrap(r.Taker.Side, "reading the database's grants", err)
	}
	known, _, err := here.Effective(ctx, r.taker, now.Owner)
	if err != nil {
		return postgres.Wrap(r.Taker.Side, "listing roles", err)
	}
	why := "what the fence saved is gone from the journal"
	switch {
	case damaged != nil:
		why = damaged.Error()
	case saved != nil:
		why = "what the fence saved lets nobody connect"
	}
	known.ReadOnly = "" // of the taker's own nothing is known
	sql, err := known.SaveSQL()
	say(fmt.Sprintf("the %s could not be opened: %s", r.Taker.Side, why), sql)
	return err
}

// letsIn says whether a list lets anybody connect.
func letsIn(grants []fence.Grant) bool {
	return slices.ContainsFunc(grants, func(g fence.Grant) bool { return slices.Contains(g.Privileges, "CONNECT") })
}

// openTaker lifts the taker's fence and proves that it is open. Its error says how it
// is opened by hand; whom alone it does not let in is a problem, but nothing for which
// the others wait.
func (r *run) openTaker(ctx context.Context) error {
	lifted, err := r.lift(ctx, r.Taker, r.taker, r.opening)
	var now fence.Saved
	var readErr error
	if lifted != nil {
		now = *lifted
	} else if now, readErr = fence.Read(ctx, r.taker); err == nil && readErr != nil {
		return readErr
	}
	var notOpen *fence.NotOpen
	var damaged *journal.Damaged
	var sql []string
	switch {
	case err == nil && !now.Shut(r.Taker.Keeps):
		return nil
	case errors.As(err, &notOpen):
		sql = notOpen.Statements
	case err == nil:
		err = errors.New("what its fence saved is gone from the journal")
		sql, readErr = r.openSQL(ctx, now)
	case errors.As(err, &damaged):
		sql, readErr = r.openSQL(ctx, now)
	default:
		return err
	}
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	err = postgres.WrapHint(r.Taker.Side, "letting applications in", err,
		fmt.Sprintf("there, as a superuser or the database's owner: BEGIN READ WRITE; %s; COMMIT", strings.Join(sql, "; ")))
	if serves(r.Taker, err) {
		r.problems = append(r.problems, err)
		return nil
	}
	return err
}

// openSQL opens a taker whose grants nobody knows any more as the other side was open.
func (r *run) openSQL(ctx context.Context, now fence.Saved) ([]string, error) {
	like := fence.Saved{Owner: now.Owner, Grants: []fence.Grant{{Grantor: now.Owner, Privileges: []string{"CONNECT", "TEMPORARY"}}, {Grantee: now.Owner, Grantor: now.Owner, Privileges: []string{"CONNECT", "CREATE", "TEMPORARY"}}}}
	if r.holder != nil && !r.holder.IsClosed() {
		if saved, err := fence.Raised(ctx, r.holder); err == nil && saved != nil {
			like = *saved
			like.ReadOnly = ""
		}
	}
	sql, err := like.LiftSQL(ctx, r.taker, r.Taker.Database())
	return append(sql, fence.ForgetSQL), err
}
