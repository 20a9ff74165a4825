package migrate

import (
	"context"
	"errors"
	"fmt"

	"pgbaton/internal/fence"
	"pgbaton/internal/handover"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// This file has reset, and what only it removes: what start made of the target.

// Reset abandons a migration whose target never held the baton.
func (m *Migration) Reset(ctx context.Context, dropDatabase bool) (CleanResult, error) {
	c, s := m.Config, m.Sessions
	k := newCleaner(c, s, PhaseNew)
	source, target, err := s.bothRecords(ctx, c)
	if err != nil {
		return k.result, err
	}
	runs := otherRuns(c, source, target)
	if runs != nil && !neverPassed(source, target) {
		return k.result, runs
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
	if s.SourceConn != nil && target != nil && (source == nil || runs != nil) {
		// The record of the true source might say that the baton has passed.
		if drained, err := handover.Drained(ctx, s.TargetConn); err != nil || drained {
			if err == nil {
				err = refusal.New("reset", "the database given as source has no record of the target's migration, and a handover to the target got as far as the pass: the target may be the only current copy",
					"check --source; if the target is really not needed, drop its subscriptions and the database by hand")
			}
			return k.result, err
		}
	}
	if s.SourceConn != nil {
		// Applications first, if a handover died: the source has the baton.
		k.lift(ctx, postgres.Source)
	}
	made, roles, empty := k.madeTarget(ctx), k.madeRoles(ctx), k.neverEntered(ctx)
	if s.SourceConn != nil && (source == nil || runs != nil) { // the source's record of it is gone: nobody knows where the baton was
		made, roles, empty = "", nil, false
	}
	k.tellLost(ctx, postgres.Source, source)
	k.tellLost(ctx, postgres.Target, target)
	k.cleanStreams(ctx)
	if runs != nil { // and those of the target's run
		k.label = target.Label()
		k.cleanStreams(ctx)
	}
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
	k.dropRoles(ctx, roles)
	k.dropSchemas(ctx)
	return k.result, nil
}

// madeRoles returns the roles that start --roles made on the target.
func (k *cleaner) madeRoles(ctx context.Context) []string { return noted(ctx, k, rolesMade) }

// noted is what start noted on the source.
func noted[T any](ctx context.Context, k *cleaner, entry journal.Entry[T]) (v T) {
	if k.SourceConn == nil {
		return v
	}
	k.try(postgres.Source, "reading the journal", func() (_ bool, err error) {
		v, _, err = entry.Get(ctx, k.SourceConn)
		return false, err
	})
	return v
}

// dropRoles drops them, unless something on the target depends on them by now, or the
// server is out of reach.
func (k *cleaner) dropRoles(ctx context.Context, names []string) {
	if len(names) == 0 {
		return
	}
	conn, away := k.TargetConn, k.TargetErr
	if conn == nil && (away == nil || postgres.Code(away) == postgres.UndefinedDatabase) {
		if conn, away = schema.ConnectMaintenance(ctx, k.Target); away == nil {
			defer conn.Close(ctx)
		}
	}
	for _, name := range names {
		sql, err := "DROP ROLE IF EXISTS "+postgres.QuoteIdent(name), away
		if conn != nil {
			_, err = conn.Exec(ctx, sql)
		}
		if err != nil {
			k.result.left(fmt.Sprintf("target: role %s: %s", postgres.QuoteIdent(name), postgres.Describe(err)), sql+", when nothing depends on it")
			continue
		}
		k.result.did("target: role %s", postgres.QuoteIdent(name))
	}
}

// madeTarget returns the name of the target database if start made it.
func (k *cleaner) madeTarget(ctx context.Context) string { return noted(ctx, k, databaseMade) }

// neverEntered says whether start never got into the target database: then there are
// no rows in it, and nobody can have given it the baton.
func (k *cleaner) neverEntered(ctx context.Context) (never bool) {
	if k.SourceConn == nil {
		return false
	}
	k.try(postgres.Source, "looking whether the target database was ever entered", func() (bool, error) {
		entered, _, err := targetEntered.Get(ctx, k.SourceConn)
		if err == nil && !entered { // a start of an earlier version did not note it
			var numbers []int
			numbers, err = replication.GroupNumbers(ctx, k.SourceConn, nil, k.stream(postgres.Source))
			entered = len(numbers) > 0
		}
		never = err == nil && !entered
		return false, err
	})
	return never
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
