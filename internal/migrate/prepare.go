package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/handover"
	"pgbaton/internal/journal"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// This file has the steps before the slot: records, target database, fence,
// replica identities, publication.

func (st *start) planSourceRecord(context.Context) ([]plan.Action, error) {
	return plan.On(postgres.Source, "-- the names of slots, publications and subscriptions carry the beginning of an id that start draws: "+st.label, journal.SchemaSQL(), replication.MarkerTableSQL(st.Group().MarkerTable())), nil
}

func (st *start) doneSourceRecord(context.Context) (bool, error) { return st.sourceRecord != nil, nil }

func (st *start) runSourceRecord(ctx context.Context) error {
	ends, err := st.ends(ctx)
	if err != nil {
		return err
	}
	r := journal.Record{Name: st.Name, ID: st.id, Side: postgres.Source, Method: string(st.Method), Took: true, Ends: &ends}
	if err := st.makeRecord(ctx, postgres.Source, r); err != nil {
		return err
	}
	st.sourceRecord = &r
	return nil
}

func (st *start) makeRecord(ctx context.Context, side postgres.Side, r journal.Record) error {
	conn := st.conn(side)
	// With what it includes: no command must ever take the record for one that includes all.
	err := schema.CreateJournal(ctx, conn, r, func(tx pgx.Tx) error { return selectionEntry.Put(ctx, tx, st.Selection) })
	if err != nil {
		return st.Server(side).WrapRights("creating schema pgbaton", err, fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s",
			postgres.QuoteIdent(st.Server(side).Database()), postgres.QuoteIdent(st.Server(side).User())))
	}
	_, err = conn.Exec(ctx, replication.MarkerTableSQL(st.Group().MarkerTable()))
	return st.Server(side).Wrap("creating the marker table", err)
}

func (st *start) planRoles(context.Context) ([]plan.Action, error) {
	return plan.On(postgres.Target, "-- CREATE ROLE for each role of the source that is missing here, with its settings, memberships and password verifier"), nil
}

func (st *start) doneRoles(ctx context.Context) (bool, error) { return st.targetRecord != nil, nil }

func (st *start) runRoles(ctx context.Context) error {
	roles, withPasswords, err := schema.ReadRoles(ctx, st.SourceConn)
	if err != nil {
		return st.Source.Wrap("reading roles", err)
	}
	if !withPasswords {
		st.Observe(event.Warning{Side: postgres.Source, Text: "password verifiers cannot be read without superuser: the copied roles have no password",
			Remedy: "set passwords on the target with ALTER ROLE ... PASSWORD"})
	}
	created, refused, err := schema.CopyRoles(ctx, st.Target, st.targetCluster(), roles)
	if err != nil {
		return st.Target.WrapRights("copying roles", err, "the role needs CREATEROLE; or create the roles by hand and start without --roles")
	}
	st.warnSettings(refused)
	return st.Source.Wrap("remembering the copied roles",
		rolesMade.Put(ctx, st.SourceConn, created))
}

func (st *start) planDatabase(ctx context.Context) ([]plan.Action, error) {
	d, err := schema.ReadDatabase(ctx, st.SourceConn)
	if err != nil {
		return nil, st.Source.Wrap("reading the database's properties", err)
	}
	exists, err := schema.Roles(ctx, st.targetCluster())
	if err != nil {
		return nil, st.Target.Wrap("listing roles", err)
	}
	name, v := st.Target.Database(), st.Target.Version()
	return plan.On(postgres.Target, append([]string{d.CreateSQL(name, v, false)}, d.FollowSQL(name, func(r string) bool { return exists[r] })...)...), nil
}

// targetCluster is a session on the target for what is the same in all its
// databases.
func (st *start) targetCluster() *postgres.Session {
	if st.TargetConn != nil {
		return st.TargetConn
	}
	return st.maintenance
}

// warnSettings names the settings that the target does not take.
func (st *start) warnSettings(refused []schema.RefusedSetting) {
	for _, s := range refused {
		st.Observe(event.Warning{Side: postgres.Target,
			Text:   fmt.Sprintf("setting %s of %s is left out, for the target does not take it: %s", s.Name, s.Whose, s.Why),
			Remedy: fmt.Sprintf("if it is still needed, ALTER %s SET what the target has in its place, there", s.Whose)})
	}
}

// doneDatabase: one that start has made is not complete before its settings are.
// The target's record comes next.
func (st *start) doneDatabase(ctx context.Context) (bool, error) {
	if st.TargetConn == nil || st.targetRecord != nil {
		return st.TargetConn != nil, nil
	}
	made, err := st.madeDatabase(ctx)
	return !made, err
}

// madeDatabase says whether start makes, or made, the target database.
func (st *start) madeDatabase(ctx context.Context) (bool, error) {
	_, made, err := databaseMade.Get(ctx, st.SourceConn)
	return made, st.Source.Wrap("reading the journal", err)
}

func (st *start) runDatabase(ctx context.Context) error {
	d, err := schema.ReadDatabase(ctx, st.SourceConn)
	if err != nil {
		return st.Source.Wrap("reading the database's properties", err)
	}
	name := st.Target.Database()
	if st.TargetConn == nil {
		if err := st.createDatabase(ctx, d, name); err != nil {
			return err
		}
	}
	refused, err := schema.DressDatabase(ctx, st.Target, st.targetCluster(), d, name)
	if err != nil {
		return st.Target.WrapRights("giving database "+postgres.QuoteIdent(name)+" its properties", err,
			"the role must own the database, and be a member of its owner to be; or create the database, empty, by hand")
	}
	st.warnSettings(refused)
	if st.TargetConn != nil {
		return nil
	}
	conn, err := st.Target.Connect(ctx)
	if err != nil {
		return err
	}
	if _, err := lockSide(ctx, postgres.Target, conn); err != nil {
		conn.Close(ctx)
		return err
	}
	st.TargetConn, st.TargetErr = conn, nil
	return nil
}

func (st *start) createDatabase(ctx context.Context, d schema.Database, name string) error {
	meant, err := st.madeDatabase(ctx)
	if err != nil {
		return err
	}
	// The intention first: a database that nobody remembers making could not be
	// told from one that was there.
	if err := databaseMade.Put(ctx, st.SourceConn, name); err != nil {
		return st.Source.Wrap("writing the journal", err)
	}
	note, err := schema.CreateDatabase(ctx, st.maintenance, d, name)
	switch {
	case postgres.Code(err) == postgres.DuplicateDatabase && meant:
		return nil // made, but not entered, before
	case postgres.Code(err) != "" && !meant:
		// Refused: what is there, or comes to be there, is not ours to dress, nor to drop.
		err = errors.Join(err, databaseMade.Delete(ctx, st.SourceConn))
	}
	if err != nil {
		hint := ""
		switch {
		case postgres.Code(err) == postgres.InsufficientPrivilege:
			hint = "the role needs CREATEDB; or create the database, empty, by hand"
		case postgres.Code(err) != "":
			hint = "create the database, empty, by hand, then run start again"
		}
		return st.Target.WrapHint("creating database "+postgres.QuoteIdent(name), err, hint)
	}
	if note != "" {
		st.Observe(event.Warning{Side: postgres.Target, Text: note})
	}
	return nil
}

func (st *start) planTargetRecord(context.Context) ([]plan.Action, error) {
	return plan.On(postgres.Target, journal.SchemaSQL(), replication.MarkerTableSQL(st.Group().MarkerTable())), nil
}

func (st *start) doneTargetRecord(context.Context) (bool, error) { return st.targetRecord != nil, nil }

func (st *start) runTargetRecord(ctx context.Context) error {
	conn := st.TargetConn
	baseline, err := schema.ReadBaseline(ctx, conn)
	if err != nil {
		return st.Target.Wrap("reading what the target database holds", err)
	}
	if err := targetEntered.Put(ctx, st.SourceConn, true); err != nil {
		return st.Source.Wrap("writing the journal", err)
	}
	ends, err := st.ends(ctx)
	if err != nil {
		return err
	}
	r := journal.Record{Name: st.Name, ID: st.sourceRecord.ID, Side: postgres.Target, Method: string(st.Method), Ends: &ends}
	if err := st.makeRecord(ctx, postgres.Target, r); err != nil {
		return err
	}
	st.targetRecord = &r
	// The database may have been made since the source's record was.
	if err := journal.PutEnds(ctx, st.SourceConn, ends); err != nil {
		return st.Source.Wrap("recording the target", err)
	}
	if err := baselineEntry.PutNew(ctx, conn, baseline); err != nil {
		return st.Target.Wrap("writing the journal", err)
	}
	return nil
}

func (st *start) planFence(ctx context.Context) ([]plan.Action, error) {
	granted, err := fence.NeedGrant(ctx, st.targetCluster(), st.holderKeeps(postgres.Target))
	if err != nil {
		return nil, st.Target.Wrap("reading roles", err)
	}
	var saved fence.Saved
	if st.TargetConn != nil {
		if saved, err = fence.Read(ctx, st.TargetConn); err != nil {
			return nil, st.Target.Wrap("reading the database's grants", err)
		}
	} else { // a new database has the default grants: of PUBLIC and its owner
		d, err := schema.ReadDatabase(ctx, st.SourceConn)
		if err != nil {
			return nil, st.Source.Wrap("reading the database's properties", err)
		}
		exists, err := schema.Roles(ctx, st.maintenance)
		if err != nil {
			return nil, st.Target.Wrap("listing roles", err)
		}
		owner := st.Target.User()
		if exists[d.Owner] {
			owner = d.Owner
		}
		saved.Grants = []fence.Grant{{Grantee: ""}, {Grantee: owner}}
	}
	return plan.On(postgres.Target, saved.RaiseSQL(st.Target.Database(), granted)...), nil
}

func (st *start) doneFence(ctx context.Context) (bool, error) {
	if st.targetRecord == nil {
		return false, nil
	}
	saved, err := fence.Raised(ctx, st.TargetConn)
	if damaged := (*journal.Damaged)(nil); errors.As(err, &damaged) {
		return false, nil
	}
	return saved != nil, st.Target.Wrap("looking for the fence", err)
}

// refuseClosed refuses to start on a side that is shut, and whose journal does not tell
// how it was open.
func (c Config) refuseClosed(ctx context.Context, s *Sessions, side postgres.Side) error {
	closed, err := handover.FindClosed(ctx, c.handover(Handover{To: side}).Taker, s.conn(side), s.conn(side.Other()))
	if err == nil && closed != nil {
		return refusal.New("start", closed.Error(), closed.Remedy())
	}
	return err
}

func (st *start) runFence(ctx context.Context) error {
	var instead *fence.Saved
	made, err := st.madeDatabase(ctx)
	if err != nil {
		return err
	}
	if made {
		onSource, err := fence.Read(ctx, st.SourceConn)
		if err != nil {
			return st.Source.Wrap("reading the database's grants", err)
		}
		exists, err := schema.Roles(ctx, st.TargetConn)
		if err != nil {
			return st.Target.Wrap("listing roles", err)
		}
		here, err := fence.Read(ctx, st.TargetConn)
		if err != nil {
			return st.Target.Wrap("reading the database's grants", err)
		}
		grants := onSource.OnlyRoles(exists, here.Owner)
		instead = &grants
	} else if err := st.refuseClosed(ctx, st.Sessions, postgres.Target); err != nil {
		return err // the fence would save what there is now as what is to come back
	}
	database := st.Target.Database()
	_, err = fence.Raise(ctx, st.TargetConn, database, st.holderKeeps(postgres.Target), instead)
	if err == nil {
		err = fence.Barrier(ctx, st.TargetConn, database, fenceTimeout)
	}
	if err == nil {
		evictCtx, cancel := context.WithTimeout(ctx, fenceTimeout)
		defer cancel()
		_, err = fence.Evict(evictCtx, st.TargetConn, []int32{int32(st.TargetConn.PgConn().PID())}, replication.AllOf(st.label))
	}
	return st.Target.WrapRights("fencing the target database", err, "the role must own the database or be superuser")
}

// fenceTimeout bounds the wait for sessions on the target, where nobody should
// be at work yet.
const fenceTimeout = 30 * time.Second

// identityChanges are the tables whose replica identity has to change (rule 11).
func (st *start) identityChanges(ctx context.Context) ([]replication.IdentityChange, error) {
	tables, err := catalog.Shapes(ctx, st.SourceConn, st.Selection)
	if err != nil {
		return nil, st.Source.Wrap("listing tables", err)
	}
	var changes []replication.IdentityChange
	for i := range tables {
		if c, ok := replication.SettleIdentity(&tables[i]); ok && !tables[i].Unlogged {
			changes = append(changes, c)
		}
	}
	return changes, nil
}

func (st *start) planIdentities(ctx context.Context) ([]plan.Action, error) {
	changes, err := st.identityChanges(ctx)
	var sql []string
	for _, c := range changes {
		sql = append(sql, c.ApplySQL())
	}
	return plan.On(postgres.Source, sql...), err
}

func (st *start) doneIdentities(ctx context.Context) (bool, error) {
	changes, err := st.identityChanges(ctx)
	return len(changes) == 0, err
}

// identityLockTimeout bounds the wait for a table's lock: while ALTER TABLE waits,
// the application queues behind it.
const identityLockTimeout = "500ms"

func (st *start) runIdentities(ctx context.Context) error {
	changes, err := st.identityChanges(ctx)
	if err != nil {
		return err
	}
	for _, c := range changes {
		// The target gets the identity with the schema: it must be restored there too.
		if err := c.RememberAhead(ctx, st.TargetConn); err != nil {
			return st.Target.Wrap("writing the journal", err)
		}
		began := time.Now()
		for {
			err := pgx.BeginFunc(ctx, st.SourceConn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+identityLockTimeout+"'"); err != nil {
					return err
				}
				if err := c.Remember(ctx, tx); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, c.ApplySQL())
				return err
			})
			if err == nil {
				break
			}
			if postgres.Code(err) != postgres.LockNotAvailable {
				return st.Source.Wrap(c.ApplySQL(), err)
			}
			st.Observe(event.Waiting{For: "a lock to set the replica identity of " + c.Table.String(),
				Side: postgres.Source, Seconds: event.Since(began)})
			if err := postgres.Pause(ctx, time.Second); err != nil {
				return err
			}
		}
	}
	return nil
}

func (st *start) publicationTables(ctx context.Context) ([]postgres.Ident, error) {
	tables, err := catalog.Shapes(ctx, st.SourceConn, st.Selection)
	if err != nil {
		return nil, st.Source.Wrap("listing tables", err)
	}
	return replication.Publishable(tables, st.Group()), nil
}

func (st *start) planPublication(ctx context.Context) ([]plan.Action, error) {
	tables, err := st.publicationTables(ctx)
	return plan.On(postgres.Source, replication.PublicationSQL(st.Group().Name(), tables, st.streamsTruncate())), err
}

// donePublication: a publication of a load that is not complete must list the
// tables as they are now; that of a complete one is what the target has.
func (st *start) donePublication(ctx context.Context) (bool, error) {
	exists, err := replication.PublicationExists(ctx, st.SourceConn, st.Group().Name())
	if err != nil || !exists {
		return false, st.Source.Wrap("looking for the publication", err)
	}
	if done, err := st.isLoaded(ctx); err != nil || done {
		return done, err
	}
	want, err := st.publicationTables(ctx)
	if err != nil {
		return false, err
	}
	have, err := replication.PublicationTables(ctx, st.SourceConn, st.Group().Name())
	return slices.Equal(want, have), st.Source.Wrap("reading the publication", err)
}

// runPublication makes the publication before the slot: a change decoded from
// before it existed is an error. One that an earlier run left goes first, with
// the slot that knows it.
func (st *start) runPublication(ctx context.Context) error {
	name := st.Group().Name()
	if _, err := replication.DropSlots(ctx, st.SourceConn, replication.Exactly(name)); err != nil {
		return st.Source.Wrap("dropping an earlier run's slot "+name, err)
	}
	tables, err := st.publicationTables(ctx)
	if err != nil {
		return err
	}
	err = execAll(ctx, postgres.Source, st.SourceConn, replication.DropPublicationSQL(name), replication.PublicationSQL(name, tables, st.streamsTruncate()))
	return st.Source.WrapRights("creating the publication", err, "the role must own every table and have CREATE on the database: see pgbaton check")
}
