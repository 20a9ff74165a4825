package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pgbaton/internal/catalog"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// CleanResult is what finish and reset did, and what they could not do.
type CleanResult struct {
	Phase   string   `json:"phase"`
	Removed []string `json:"removed"`
	Left    []Note   `json:"left"`              // what could not be removed, and how to
	Unfence []string `json:"unfence,omitempty"` // finish: the SQL that lifts the old side's fence
	Fenced  string   `json:"fenced,omitempty"`  // finish: the side that stays fenced
	Emptied bool     `json:"emptied,omitempty"` // reset: the target's tables are gone
	Dropped string   `json:"dropped,omitempty"` // reset: the target database that start had made
}

func (r *CleanResult) did(format string, args ...any) {
	r.Removed = append(r.Removed, fmt.Sprintf(format, args...))
}

func (r *CleanResult) left(text, remedy string) { r.Left = append(r.Left, Note{text, remedy}) }

// cleaner removes what pgbaton made. Each part is tried, whatever became of the
// others.
type cleaner struct {
	Config
	*Sessions
	result CleanResult
	failed map[postgres.Side]bool
}

func newCleaner(c Config, s *Sessions, phase string) *cleaner {
	return &cleaner{Config: c, Sessions: s, failed: map[postgres.Side]bool{},
		result: CleanResult{Phase: phase, Removed: []string{}, Left: []Note{}}}
}

// Finish removes everything pgbaton made, after the baton has passed for good.
// The side without the baton stays fenced unless unfence is set.
func (m *Migration) Finish(ctx context.Context, unfence bool) (CleanResult, error) {
	c, s := m.Config, m.Sessions
	k := newCleaner(c, s, PhaseFinished)
	source, target, err := s.records(ctx, c)
	if err != nil {
		return k.result, err
	}
	if s.SourceConn == nil && s.TargetConn == nil {
		return k.result, errors.Join(s.SourceErr, s.TargetErr)
	}
	b, known := journal.Decide(source, target)
	holder := map[postgres.Side]*journal.Record{postgres.Source: source, postgres.Target: target}[b.Side]
	switch {
	case !known:
		if s.need() == nil && k.unrecorded(ctx) {
			return k.result, refusal.New("finish", "neither side has a record of the migration any more, although there is something of it: where the baton was is not known",
				"pgbaton reset removes what there is, and leaves all rows and tables where they are")
		}
		if s.need() == nil { // nothing is there: done before
			return k.result, nil
		}
		return k.result, refusal.New("finish", "the side that can be reached has no record of the migration", "make the other side reachable")
	case b.Generation == 0:
		return k.result, refusal.New("finish", "the source still holds the baton", "pgbaton switchover first; to give the migration up: pgbaton reset")
	case s.conn(b.Side) == nil:
		return k.result, refusal.New("finish", fmt.Sprintf("the %s has the baton and cannot be reached: %s", b.Side, s.err(b.Side)),
			fmt.Sprintf("make it reachable; until then the %[1]s's record is what keeps the %[1]s closed", b.Side.Other()))
	case holder != nil && !holder.Took:
		return k.result, refusal.New("finish", fmt.Sprintf("the baton has passed, but the %s has not taken it yet", b.Side),
			"pgbaton "+Handover{To: b.Side}.command()+", run again, completes it")
	}
	// A holder without a record was finished while the other was out of reach.
	k.lift(ctx, b.Side) // should a handover have died: applications first
	k.tellLost(ctx, postgres.Source, source)
	k.tellLost(ctx, postgres.Target, target)
	k.cleanStreams(ctx)
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		k.putBack(ctx, side)
	}
	k.tellUnready(ctx, b.Side)
	old := b.Side.Other()
	if s.conn(old) != nil {
		k.finishOldSide(ctx, old, unfence)
	} else {
		k.result.left(fmt.Sprintf("the %s could not be reached: %s", old, s.err(old)),
			"if it comes back, pgbaton finish again cleans it: it stays fenced until then")
	}
	k.dropSchemas(ctx)
	return k.result, nil
}

// finishOldSide lifts the fence of the side without the baton, or says how to.
func (k *cleaner) finishOldSide(ctx context.Context, side postgres.Side, unfence bool) {
	if unfence {
		k.lift(ctx, side)
		return
	}
	k.try(side, "reading what lifts the fence", func() (bool, error) {
		saved, err := fence.Raised(ctx, k.conn(side))
		if damaged := (*journal.Damaged)(nil); errors.As(err, &damaged) {
			k.tellShut(ctx, side)
			return false, nil
		}
		if err != nil || saved == nil {
			return false, err
		}
		sql, err := saved.LiftSQL(ctx, k.conn(side), k.Server(side).Database())
		if err == nil {
			k.tellUnfence(side, sql)
		}
		return false, err
	})
}

// tellUnfence says which side stays fenced, and the SQL that lifts its fence.
func (k *cleaner) tellUnfence(side postgres.Side, sql []string) {
	k.result.Fenced = string(side)
	k.result.Unfence = unfenceSQL(sql)
}

// lift lets applications into a side again.
func (k *cleaner) lift(ctx context.Context, side postgres.Side) {
	k.try(side, "fence lifted", func() (bool, error) { return k.liftFence(ctx, side, k.conn(side)) })
}

// cleanStreams removes subscriptions, slots and publications of both directions.
// Either side is cleaned without the other.
func (k *cleaner) cleanStreams(ctx context.Context) {
	oids := map[postgres.Side][]uint32{} // of the subscriptions to the other side's publications
	for _, side := range []postgres.Side{postgres.Target, postgres.Source} {
		conn := k.conn(side)
		if conn == nil {
			continue
		}
		for _, name := range k.names(ctx, side, nil, conn, k.stream(side.Other())) {
			k.try(side, "subscription "+name, func() (bool, error) {
				oid, err := replication.DropSubscription(ctx, conn, name)
				oids[side] = append(oids[side], oid)
				return oid != 0, err
			})
		}
	}
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		conn := k.conn(side)
		if conn == nil {
			continue
		}
		names := k.names(ctx, side, conn, nil, k.stream(side))
		k.try(side, "slot "+strings.Join(names, ", "), func() (bool, error) {
			dropped, err := replication.DropSlots(ctx, conn, replication.AllOf(k.label))
			for _, oid := range oids[side.Other()] {
				if err == nil && oid != 0 {
					_, err = replication.DropSlots(ctx, conn, replication.SyncSlotPattern(oid))
				}
			}
			return dropped > 0, err
		})
		for _, name := range names {
			k.try(side, "publication "+name, func() (bool, error) {
				exists, err := replication.PublicationExists(ctx, conn, name)
				if err == nil && exists {
					_, err = conn.Exec(ctx, replication.DropPublicationSQL(name))
				}
				return exists, err
			})
		}
	}
}

// putBack puts back what a side remembers of what was changed for the time of the
// migration, once nothing publishes its tables, or applies to them, any more: each
// thing by itself. What cannot be put back is said and forgotten.
func (k *cleaner) putBack(ctx context.Context, side postgres.Side) {
	conn := k.conn(side)
	if conn == nil {
		return
	}
	k.try(side, "replica identities restored", func() (bool, error) {
		restored, left, err := replication.RestoreIdentities(ctx, conn)
		k.say(side, left)
		return restored > 0, err
	})
	k.try(side, "triggers restored", func() (bool, error) {
		restored, left, err := schema.RestoreTriggers(ctx, conn)
		k.say(side, left)
		return restored > 0, err
	})
}

// tellUnready says what the side with the baton never got, before it is forgotten.
func (k *cleaner) tellUnready(ctx context.Context, side postgres.Side) {
	k.try(side, "looking at the materialized views", func() (bool, error) {
		failed, err := schema.Failed(ctx, k.conn(side))
		for _, d := range failed {
			k.result.left(fmt.Sprintf("%s: %s", side, d.Text()), schema.RefreshSQL(catalog.MatView{Ident: d.View}, false)+", when the cause is removed")
		}
		return false, err
	})
	k.try(side, "foreign keys between groups", func() (bool, error) {
		left, err := replication.ValidateWithheld(ctx, k.conn(side))
		k.say(side, left)
		return false, err
	})
}

// say takes up what could not be put back on a side.
func (k *cleaner) say(side postgres.Side, left []refusal.Reason) {
	for _, l := range left {
		k.result.left(fmt.Sprintf("%s: %s", side, l.Why), l.Remedy)
	}
}

// names lists the names of what there is of a direction's groups on one side, as
// publisher or as subscriber.
func (k *cleaner) names(ctx context.Context, side postgres.Side, publisher, subscriber *postgres.Session, like replication.Group) (names []string) {
	k.try(side, "groups", func() (bool, error) {
		numbers, err := replication.GroupNumbers(ctx, publisher, subscriber, like)
		for _, n := range numbers {
			like.Number = n
			names = append(names, like.Name())
		}
		return false, err
	})
	return names
}

// dropSchemas removes the journal last, and only where nothing failed: it holds
// what a second try needs.
func (k *cleaner) dropSchemas(ctx context.Context) {
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		if conn := k.conn(side); conn != nil && !k.failed[side] {
			k.try(side, "schema pgbaton", func() (bool, error) {
				exists, err := journal.SchemaExists(ctx, conn)
				if err == nil && exists {
					err = schema.DropJournal(ctx, conn)
				}
				return exists, err
			})
		}
	}
}

// try runs one part of the cleaning and says how it went; f tells whether there
// was anything to do.
func (k *cleaner) try(side postgres.Side, what string, f func() (bool, error)) bool {
	did, err := f()
	if err != nil {
		k.result.left(fmt.Sprintf("%s: %s: %s", side, what, postgres.Describe(err)), again(err))
		k.failed[side] = true
		return false
	}
	if did {
		k.result.did("%s: %s", side, what)
	}
	return did
}

// again says what makes the same command succeed when it is run again.
func again(err error) (remedy string) {
	if damaged := (*journal.Damaged)(nil); errors.As(err, &damaged) {
		return fmt.Sprintf("%s, there, in a session with default_transaction_read_only = off; then run the same command again", damaged.DeleteSQL())
	}
	return "remove the cause, then run the same command again"
}
