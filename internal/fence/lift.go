package fence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
)

// NotOpen says that a side lets in fewer than it should, after its fence was lifted as
// far as the server would. The entry in the journal stays: lifting is tried again.
type NotOpen struct {
	Now        Saved    // as it is
	Writable   bool     // those who connect can write, as they could before
	Missing    []string // what is not as it was
	Statements []string // that open the side, to be run by a superuser or the owner
}

// Error implements error.
func (n *NotOpen) Error() string {
	return "applications cannot all connect: " + strings.Join(n.Missing, "; ")
}

// Serves says whether the side is open to some applications all the same: to others than
// the roles that keep CONNECT.
func (n *NotOpen) Serves(keep []string) bool { return n.Writable && !n.Now.Shut(keep) }

// ForgetSQL is the last of the statements that open a side by hand: its fence is no more.
var ForgetSQL = savedEntry.DeleteSQL()

// Shut says whether a database, as Read found it, is as a fence leaves it: read-only by
// default, and to be connected to by nobody but the roles that keep that right.
func (s Saved) Shut(keep []string) bool {
	return s.ReadOnly == "on" && !slices.ContainsFunc(s.Grants, func(g Grant) bool {
		return slices.Contains(g.Privileges, "CONNECT") && !slices.Contains(keep, g.Grantee)
	})
}

// Effective is a saved list as it can be given back now: without roles that are gone,
// of which left tells, and with the owner of today.
func (s Saved) Effective(ctx context.Context, db postgres.DB, owner string) (known Saved, left []refusal.Reason, err error) {
	rows, err := db.Query(ctx, `SELECT rolname FROM pg_catalog.pg_roles`)
	if err != nil {
		return known, nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return known, nil, err
	}
	exists := map[string]bool{}
	for _, n := range names {
		exists[n] = true
	}
	var gone []string
	for _, g := range s.Grants {
		for _, name := range []string{g.Grantee, g.Grantor} {
			if name != "" && name != s.Owner && !exists[name] && !slices.Contains(gone, name) {
				gone = append(gone, name)
				left = append(left, refusal.Reason{Why: fmt.Sprintf("role %s is gone: it, and whom it had let in, do not get back their grants on the database", role(name)),
					Remedy: "nothing, if it was dropped; GRANT CONNECT ON DATABASE ... to the role, if it was renamed"})
			}
		}
	}
	return s.OnlyRoles(exists, owner), left, nil
}

// LiftSQL is the exact set of statements that lifts a fence now, to be run in one
// transaction by a superuser or the owner.
func (s Saved) LiftSQL(ctx context.Context, db postgres.DB, database string) ([]string, error) {
	now, err := Read(ctx, db)
	if err != nil {
		return nil, err
	}
	known, _, err := s.Effective(ctx, db, now.Owner)
	return known.liftSQL(database, now.Grants), err
}

// Lift restores what the fence changed, in one transaction, and proves it: the grants
// are those that were saved, the read-only default is gone. A side that is not fenced is
// left alone. remembered, if not nil, is what this process knows was saved on a side
// that is fenced, should the journal have lost it. left tells of grants of roles that
// are gone, now is what the side lets in by that; nil when it was not fenced. The error may
// be a *NotOpen.
func Lift(ctx context.Context, conn *postgres.Session, database string, remembered *Saved) (now *Saved, left []refusal.Reason, err error) {
	var notOpen *NotOpen
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		saved, err := Raised(ctx, tx)
		if damaged := (*journal.Damaged)(nil); saved == nil && remembered != nil && (err == nil || errors.As(err, &damaged)) {
			saved, err = remembered, nil
		}
		if err != nil || saved == nil {
			return err
		}
		before, err := Read(ctx, tx)
		if err != nil {
			return err
		}
		want, gone, err := saved.Effective(ctx, tx, before.Owner)
		if err != nil {
			return err
		}
		left = gone
		sql := want.liftSQL(database, before.Grants)
		if err := liftBy(ctx, tx, sql); err != nil {
			return err
		}
		after, err := Read(ctx, tx)
		if err != nil {
			return err
		}
		now = &after
		if missing := want.missing(after); len(missing) > 0 {
			notOpen = &NotOpen{Now: after, Writable: after.ReadOnly == want.ReadOnly, Missing: missing, Statements: append(sql, ForgetSQL)}
			return nil // as open as can be
		}
		return savedEntry.Delete(ctx, tx)
	})
	if err == nil && notOpen != nil {
		err = notOpen
	}
	return now, left, err
}

// liftBy runs the statements in one message. If one is refused, each runs by itself:
// nobody is kept out for somebody else.
func liftBy(ctx context.Context, tx pgx.Tx, sql []string) error {
	err := execAll(ctx, tx, slices.Concat([]string{"SAVEPOINT lift"}, sql, []string{"RELEASE SAVEPOINT lift"}))
	if !postgres.Refused(err) {
		return err
	}
	if _, err := tx.Exec(ctx, "ROLLBACK TO SAVEPOINT lift"); err != nil {
		return err
	}
	as := "" // the role of a grantor
	for _, one := range sql {
		switch {
		case strings.HasPrefix(one, setRole):
			as = one
			continue
		case one == resetRole:
			as = ""
			continue
		}
		statements := []string{one}
		if as != "" {
			statements = []string{as, one, resetRole}
		}
		err := pgx.BeginFunc(ctx, tx, func(save pgx.Tx) error { return execAll(ctx, save, statements) })
		if err != nil && !postgres.Refused(err) {
			return err
		}
	}
	return nil
}

// missing tells what a database lacks of a list.
func (s Saved) missing(now Saved) (missing []string) {
	have := map[[2]string]Grant{}
	for _, g := range now.Grants {
		have[[2]string{g.Grantee, g.Grantor}] = g
	}
	for _, g := range s.Grants {
		is := have[[2]string{g.Grantee, g.Grantor}]
		for _, p := range g.Privileges {
			if !slices.Contains(is.Privileges, p) {
				missing = append(missing, fmt.Sprintf("%s has no %s by %s", role(g.Grantee), p, role(g.Grantor)))
			}
		}
		for _, p := range g.Grantable {
			if !slices.Contains(is.Grantable, p) {
				missing = append(missing, fmt.Sprintf("%s may not grant %s", role(g.Grantee), p))
			}
		}
	}
	if now.ReadOnly != s.ReadOnly {
		missing = append(missing, fmt.Sprintf("default_transaction_read_only of the database is %q, not %q", now.ReadOnly, s.ReadOnly))
	}
	return missing
}
