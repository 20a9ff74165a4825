package handover

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// This file lets applications into a side, and proves that they are let in: into the
// holder again, or into the taker.

// Closed is a side that is shut as a fence leaves it, and of which nobody knows any
// more how it was open.
type Closed struct {
	Side       postgres.Side
	Why        string
	Statements []string // that open it as the other side was open
}

// Error implements error.
func (c *Closed) Error() string {
	return fmt.Sprintf("the %s is closed to applications, and %s", c.Side, c.Why)
}

// Remedy says how it is opened by hand.
func (c *Closed) Remedy() string { return byHand(c.Side, c.Statements) }

func byHand(side postgres.Side, statements []string) string {
	return fmt.Sprintf("in the %s's database, as a superuser, or as its owner who is a member of the roles that are set: BEGIN READ WRITE; %s; COMMIT", side, strings.Join(statements, "; "))
}

// mayGrant is the remedy where a fence could not be raised, or not be lifted as a whole:
// each grant is given back by who gave it.
const mayGrant = "the role must be superuser, or a member of the database's owner and of each role that has granted something on the database"

// FindClosed looks whether a side is shut without a journal that tells how it was open;
// nil when it is open, or its fence can be lifted. The other side may be nil.
func FindClosed(ctx context.Context, p Party, conn, other *postgres.Session) (*Closed, error) {
	saved, err := fence.Raised(ctx, conn)
	damaged := (*journal.Damaged)(nil)
	if err != nil && !errors.As(err, &damaged) {
		return nil, p.Wrap("looking for a fence", err)
	}
	if saved != nil {
		return nil, nil
	}
	now, err := fence.Read(ctx, conn)
	if err != nil {
		return nil, p.Wrap("reading the database's grants", err)
	}
	c := &Closed{Side: p.Side, Why: "what its fence saved is gone from the journal"}
	switch {
	case damaged != nil && now.ReadOnly == "on":
		c.Why = damaged.Error()
	case damaged != nil || !now.Shut(p.Keeps):
		return nil, nil
	}
	c.Statements, err = openSQL(ctx, p, conn, other, now.Owner)
	if damaged != nil {
		c.Statements = append(c.Statements, fence.ForgetSQL)
	}
	return c, p.Wrap("looking how it could be opened", err)
}

// openSQL opens a side whose grants nobody knows any more as the other side was open,
// or, if that is not known either, as a new database is.
func openSQL(ctx context.Context, p Party, conn, other *postgres.Session, owner string) ([]string, error) {
	like := fence.Saved{Owner: owner, Grants: []fence.Grant{{Grantor: owner, Privileges: []string{"CONNECT", "TEMPORARY"}},
		{Grantee: owner, Grantor: owner, Privileges: []string{"CONNECT", "CREATE", "TEMPORARY"}}}}
	if other != nil && !other.IsClosed() {
		if saved, err := fence.Raised(ctx, other); err == nil && saved != nil && letsIn(saved.Grants) {
			like = *saved
			like.ReadOnly = "" // its own, not this side's
		}
	}
	return like.LiftSQL(ctx, conn, p.Database())
}

// openTaker lifts the taker's fence. Whom alone it does not let in is a problem, but
// nothing for which the others wait.
func (r *run) openTaker(ctx context.Context) error {
	err := r.letIn(ctx, r.Taker, r.taker, r.holder, r.opening)
	if serves(r.Taker, err) {
		r.problems = append(r.problems, err)
		return nil
	}
	return err
}

// letIn lifts a side's fence, says whom it cannot let in, and proves that it is open.
// remembered is what this run knows of what the fence saved. Its error says how the
// side is opened by hand; it is a *Closed where the journal does not tell.
func (r *run) letIn(ctx context.Context, p Party, conn, other *postgres.Session, remembered *fence.Saved) error {
	now, left, err := fence.Lift(ctx, conn, p.Database(), remembered)
	for _, l := range left {
		r.Observe(event.Warning{Side: p.Side, Text: l.Why, Remedy: l.Remedy})
	}
	const doing = "letting applications in"
	var notOpen *fence.NotOpen
	var damaged *journal.Damaged
	switch {
	case errors.As(err, &notOpen):
		return p.WrapHint(doing, err, byHand(p.Side, notOpen.Statements))
	case err != nil && !errors.As(err, &damaged):
		return err
	case now != nil && !now.Shut(p.Keeps):
		return nil
	}
	closed, findErr := FindClosed(ctx, p, conn, other)
	switch {
	case closed != nil:
		return p.WrapHint(doing, closed, closed.Remedy())
	case findErr != nil:
		return errors.Join(err, findErr)
	}
	return err
}
