package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/fence"
	"pgbaton/internal/handover"
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
func Finish(ctx context.Context, c Config, s *Sessions, unfence bool) (CleanResult, error) {
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
		if s.Need() == nil && k.unrecorded(ctx) {
			return k.result, refusal.New("finish", "neither side has a record of the migration any more, although there is something of it: where the baton was is not known",
				"pgbaton reset removes what there is, and leaves all rows and tables where they are")
		}
		if s.Need() == nil { // nothing is there: done before
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
	saved, err := fence.Raised(ctx, k.conn(side))
	if damaged := (*journal.Damaged)(nil); errors.As(err, &damaged) {
		k.tellShut(ctx, side)
		return
	}
	if err != nil || saved == nil {
		if err != nil {
			k.result.left(fmt.Sprintf("the %s's fence could not be read: %s", side, err), "pgbaton finish again")
		}
		return
	}
	if unfence {
		k.lift(ctx, side)
		return
	}
	sql, err := saved.LiftSQL(ctx, k.conn(side), k.Server(side).Database())
	if err != nil {
		k.result.left(fmt.Sprintf("the %s's grants could not be read: %s", side, err), "pgbaton finish again")
		return
	}
	k.tellUnfence(side, sql)
}

// tellUnfence says which side stays fenced, and the SQL that lifts its fence.
func (k *cleaner) tellUnfence(side postgres.Side, sql []string) {
	k.result.Fenced = string(side)
	k.result.Unfence = unfenceSQL(sql)
}

// Reset abandons a migration whose target never held the baton.
func Reset(ctx context.Context, c Config, s *Sessions, dropDatabase bool) (CleanResult, error) {
	k := newCleaner(c, s, PhaseNew)
	source, target, err := s.records(ctx, c)
	if err != nil {
		return k.result, err
	}
	noTarget := postgres.Code(s.TargetErr) == postgres.UndefinedDatabase
	if s.SourceConn == nil && s.TargetConn == nil {
		return k.result, errors.Join(s.SourceErr, s.TargetErr)
	}
	switch b, _ := journal.Decide(source, target); {
	case b.Side == postgres.Target:
		return k.result, refusal.New("reset", "the target holds the baton: its data is the only current copy", "pgbaton finish")
	case b.Generation > 0:
		return k.result, refusal.New("reset", "the target has held the baton", "pgbaton finish removes what pgbaton made, and leaves the rows on both sides")
	}
	if s.SourceConn != nil && source == nil && target != nil {
		// The record of the true source might say that the baton has passed.
		if drained, err := handover.Drained(ctx, s.TargetConn); err != nil || drained {
			if err == nil {
				err = refusal.New("reset", "the database given as source has no record of this migration, and a handover to the target got as far as the pass: the target may be the only current copy",
					"check --source; if the target is really not needed, DROP DATABASE by hand")
			}
			return k.result, err
		}
	}
	if s.SourceConn != nil {
		// Applications first, if a handover died: the source has the baton.
		k.lift(ctx, postgres.Source)
	}
	made, roles, empty := k.madeTarget(ctx), k.madeRoles(ctx), k.neverEntered(ctx)
	if s.SourceConn != nil && source == nil { // its record is gone: nobody knows where the baton was
		made, roles, empty = "", nil, false
	}
	k.tellLost(ctx, postgres.Source, source)
	k.tellLost(ctx, postgres.Target, target)
	k.cleanStreams(ctx)
	k.putBack(ctx, postgres.Source)
	if s.SourceConn == nil {
		k.result.left("the source could not be reached: "+s.SourceErr.Error(),
			fmt.Sprintf("pgbaton reset again when it is back: slot %s, and those of other groups, keep WAL until then", c.Group().Name()))
	}
	switch {
	case s.TargetConn == nil && !noTarget && made == c.Target.Database() && empty:
		k.dropTarget(ctx) // nobody gets in, and nothing is in it
	case s.TargetConn == nil && !noTarget:
		k.result.left("the target could not be reached: "+s.TargetErr.Error(), "pgbaton reset again when it is back")
	case s.TargetConn == nil:
	case target == nil && made == "":
		// Nothing of ours is there.
	case s.SourceConn == nil:
		k.keepTarget(ctx)
	case dropDatabase && made == c.Target.Database():
		k.dropTarget(ctx)
	case dropDatabase:
		k.result.left("the target database was not made by pgbaton: it was emptied, not dropped", "DROP DATABASE by hand if it is not needed")
		k.emptyTarget(ctx)
	default:
		k.emptyTarget(ctx)
	}
	k.dropSchemas(ctx)
	k.dropRoles(ctx, roles)
	return k.result, nil
}

// madeRoles returns the roles that start --roles made on the target.
func (k *cleaner) madeRoles(ctx context.Context) (names []string) {
	if k.SourceConn != nil {
		if _, err := journal.Get(ctx, k.SourceConn, kindRole, keyCreated, &names); err != nil {
			k.result.left("the source's journal could not be read: "+err.Error(), "pgbaton reset again")
		}
	}
	return names
}

// dropRoles drops them, unless something on the target depends on them by now.
func (k *cleaner) dropRoles(ctx context.Context, names []string) {
	if len(names) == 0 || k.TargetConn == nil && k.TargetErr != nil && postgres.Code(k.TargetErr) != postgres.UndefinedDatabase {
		return
	}
	conn, err := schema.ConnectMaintenance(ctx, k.Target)
	if err != nil {
		k.result.left("roles copied to the target: "+err.Error(), "DROP ROLE by hand")
		return
	}
	defer conn.Close(ctx)
	for _, name := range names {
		sql := "DROP ROLE IF EXISTS " + postgres.QuoteIdent(name)
		if _, err := conn.Exec(ctx, sql); err != nil {
			k.result.left(fmt.Sprintf("target: role %s: %s", postgres.QuoteIdent(name), postgres.Describe(err)), sql+", when nothing depends on it")
			continue
		}
		k.result.did("target: role %s", postgres.QuoteIdent(name))
	}
}

// madeTarget returns the name of the target database if start made it.
func (k *cleaner) madeTarget(ctx context.Context) (name string) {
	if k.SourceConn != nil {
		_, err := journal.Get(ctx, k.SourceConn, kindTarget, keyCreated, &name)
		if err != nil {
			k.result.left("the source's journal could not be read: "+err.Error(), "pgbaton reset again")
		}
	}
	return name
}

// neverEntered says whether start never got into the target database: then there are
// no rows in it, and nobody can have given it the baton.
func (k *cleaner) neverEntered(ctx context.Context) bool {
	if k.SourceConn == nil {
		return false
	}
	var entered bool
	_, err := journal.Get(ctx, k.SourceConn, kindTarget, keyEntered, &entered)
	if err == nil && !entered { // a start of an earlier version did not note it
		var numbers []int
		numbers, err = replication.GroupNumbers(ctx, k.SourceConn, nil, k.stream(postgres.Source))
		entered = len(numbers) > 0
	}
	if err != nil {
		k.result.left("whether the target database was ever entered could not be read: "+postgres.Describe(err), "pgbaton reset again")
	}
	return err == nil && !entered
}

// lift lets applications into a side again.
func (k *cleaner) lift(ctx context.Context, side postgres.Side) {
	k.try(side, "fence lifted", func() (bool, error) { return k.liftFence(ctx, side, k.conn(side)) })
}

func (k *cleaner) emptyTarget(ctx context.Context) {
	k.result.Emptied = k.try(postgres.Target, "copied tables and all else that was restored", func() (bool, error) {
		left, known, err := emptyTarget(ctx, k.TargetConn)
		k.say(postgres.Target, left)
		return known, err
	})
	k.lift(ctx, postgres.Target)
}

// keepTarget leaves the target as it is, but for its subscription: the source,
// which cannot be asked, may be serving, or may have passed the baton. So the
// target stays fenced, with its record, and its rows stay.
func (k *cleaner) keepTarget(ctx context.Context) {
	k.putBack(ctx, postgres.Target)
	k.failed[postgres.Target] = true // its journal is still needed
	k.result.left("the target keeps its rows, its fence and its record, because the source could not be asked where the baton is",
		"pgbaton reset again when the source is back; if it is lost for good and the target's rows are not needed, DROP DATABASE by hand")
	saved, err := fence.Raised(ctx, k.TargetConn)
	if err != nil || saved == nil {
		return
	}
	if sql, err := saved.LiftSQL(ctx, k.TargetConn, k.Target.Database()); err == nil {
		k.tellUnfence(postgres.Target, sql)
	}
}

// dropTarget drops the database that start made, from another database.
func (k *cleaner) dropTarget(ctx context.Context) {
	name := k.Target.Database()
	k.try(postgres.Target, "database "+postgres.QuoteIdent(name), func() (bool, error) {
		conn, err := schema.ConnectMaintenance(ctx, k.Target)
		if err != nil {
			return false, err
		}
		defer conn.Close(ctx)
		if k.TargetConn != nil {
			k.TargetConn.Close(ctx)
			k.TargetConn = nil
		}
		k.TargetErr = nil
		if err := schema.DropDatabase(ctx, conn, name); err != nil {
			return false, err
		}
		k.result.Dropped = name
		return true, nil
	})
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
	failed, err := schema.Failed(ctx, k.conn(side))
	for _, d := range failed {
		k.result.left(fmt.Sprintf("%s: %s", side, d.Text()), schema.RefreshSQL(catalog.MatView{Ident: d.View}, false)+", when the cause is mended")
	}
	if err != nil {
		k.result.left(fmt.Sprintf("%s: the materialized views could not be looked at: %s", side, postgres.Describe(err)), "pgbaton finish again")
	}
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
func (k *cleaner) names(ctx context.Context, side postgres.Side, publisher, subscriber *pgx.Conn, like replication.Group) (names []string) {
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
		k.result.left(fmt.Sprintf("%s: %s: %s", side, what, postgres.Describe(err)), "run the same command again")
		k.failed[side] = true
		return false
	}
	if did {
		k.result.did("%s: %s", side, what)
	}
	return did
}
