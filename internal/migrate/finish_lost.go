package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pgbaton/internal/fence"
	"pgbaton/internal/handover"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// This file has what finish and reset do about a journal that somebody has emptied: it
// cannot tell what was before, so they say what is.

// lost says whether a side's journal is gone where it cannot be: one that finish has
// removed leaves nothing of ours behind.
func (k *cleaner) lost(ctx context.Context, side postgres.Side, record *journal.Record) bool {
	conn := k.conn(side)
	if conn == nil {
		return false
	}
	var lost bool
	k.try(side, "looking whether the journal is whole", func() (_ bool, err error) {
		lost, err = journal.Lost(ctx, conn, record)
		for _, look := range []func() ([]int, error){
			func() ([]int, error) { return replication.GroupNumbers(ctx, conn, nil, k.stream(side)) },
			func() ([]int, error) { return replication.GroupNumbers(ctx, nil, conn, k.stream(side.Other())) },
		} {
			if record == nil && !lost && err == nil {
				var numbers []int
				numbers, err = look()
				lost = len(numbers) > 0
			}
		}
		return false, err
	})
	return lost
}

// tellLost says of a side whose journal is lost what may be as it was not before.
func (k *cleaner) tellLost(ctx context.Context, side postgres.Side, record *journal.Record) {
	if !k.lost(ctx, side, record) {
		return
	}
	text, remedy := handover.LostText(side), "compare triggers and grants with those of the other side"
	full, err := replication.FullIdentities(ctx, k.conn(side))
	var names, alter []string
	for _, t := range full {
		names = append(names, t.String())
		alter = append(alter, fmt.Sprintf("ALTER TABLE ONLY %s REPLICA IDENTITY DEFAULT", t))
	}
	if len(alter) > 0 {
		text += "; tables whose replica identity is FULL now: " + strings.Join(names, ", ")
		remedy = "for those that were not FULL before: " + strings.Join(alter, "; ") + "; and " + remedy
	}
	if err != nil {
		text += "; the replica identities could not be listed: " + postgres.Describe(err)
	}
	k.result.left(text, remedy)
	k.tellShut(ctx, side)
}

// tellShut says how a side is opened whose fence has lost what it saved.
func (k *cleaner) tellShut(ctx context.Context, side postgres.Side) {
	saved, err := fence.Raised(ctx, k.conn(side))
	if damaged := (*journal.Damaged)(nil); err == nil && saved != nil || err != nil && !errors.As(err, &damaged) {
		return // told by whoever lifts it, or leaves it
	}
	now, err := fence.Read(ctx, k.conn(side))
	if err != nil || !now.Shut(k.holderKeeps(side)) {
		return
	}
	database := postgres.QuoteIdent(k.Server(side).Database())
	k.result.left(fmt.Sprintf("%s: the database is closed to applications, and which grants it had is not known any more", side),
		strings.Join(unfenceSQL([]string{"GRANT CONNECT, TEMPORARY ON DATABASE " + database + " TO PUBLIC", "ALTER DATABASE " + database + " RESET default_transaction_read_only"}), "; ")+
			" (PostgreSQL's own default; or whom it shall let in)")
}

// unrecorded refuses to finish where neither side knows where the baton is, although
// something of the migration is there.
func (k *cleaner) unrecorded(ctx context.Context) bool {
	return k.lost(ctx, postgres.Source, nil) || k.lost(ctx, postgres.Target, nil)
}

// liftFence lifts a side's fence, if there is one; what is damaged is told.
func (k *cleaner) liftFence(ctx context.Context, side postgres.Side, conn *postgres.Session) (bool, error) {
	saved, err := fence.Raised(ctx, conn)
	if damaged := (*journal.Damaged)(nil); errors.As(err, &damaged) {
		k.tellShut(ctx, side)
		return false, nil
	}
	if err != nil || saved == nil {
		return false, err
	}
	_, left, err := fence.Lift(ctx, conn, k.Server(side).Database(), nil)
	k.say(side, left)
	if notOpen := (*fence.NotOpen)(nil); errors.As(err, &notOpen) {
		// The journal, from which these statements delete last, goes with the rest.
		open := slices.DeleteFunc(notOpen.Statements, func(sql string) bool { return sql == fence.ForgetSQL })
		k.result.left(fmt.Sprintf("%s: %s", side, notOpen), "there, as a superuser: "+strings.Join(unfenceSQL(open), "; "))
		err = nil
	}
	return true, err
}
