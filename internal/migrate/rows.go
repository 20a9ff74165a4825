package migrate

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
	"pgbaton/internal/tablecopy"
)

// This file has the load of method stream: rows, indexes, keys, foreign keys and
// statistics, and after that the definitions which nothing of it needs.

func (st *start) planRows(ctx context.Context) ([]plan.Action, error) {
	if err := st.readWorld(ctx, nil); err != nil {
		return nil, err
	}
	job, err := st.job(ctx)
	if err != nil {
		return nil, err
	}
	var actions []plan.Action
	statements, err := tablecopy.Plan(ctx, job)
	for _, s := range statements {
		actions = append(actions, plan.On(s.Side, s.SQL)...)
	}
	return actions, err
}

// job is what is still to be loaded.
func (st *start) job(ctx context.Context) (tablecopy.Job, error) {
	job := tablecopy.Job{Source: st.Source, Target: st.Target, Jobs: st.Jobs, IndexJobs: st.IndexJobs, MaxRate: st.MaxRate,
		SplitAbove: st.SplitAbove, Observer: st.Observe}
	there, err := st.readTarget(ctx)
	if err != nil {
		return job, err
	}
	load, err := toLoad(st.world, st.groupOf, there)
	job.Before, job.Tables, job.ForeignKeys = load.before, load.tables, load.foreignKeys
	return job, err
}

func (st *start) readTarget(ctx context.Context) (t thereState, err error) {
	t = thereState{foreignKeys: map[string]bool{}, later: map[postgres.Ident]bool{}}
	// What waits for others is the same on both sides, and known before it is restored.
	later, err := catalog.AnalyzeLater(ctx, st.SourceConn)
	if err != nil {
		return t, st.Source.Wrap("listing extended statistics", err)
	}
	for _, name := range later {
		t.later[name] = true
	}
	if t.analyzed, err = st.analyzed(ctx); err != nil || st.targetRecord == nil { // a plan
		return t, err
	}
	conn := st.TargetConn
	if t.copied, err = copiedEntries.List(ctx, conn); err == nil {
		t.built, err = builtEntries.List(ctx, conn)
	}
	if err != nil {
		return t, st.Target.Wrap("reading the journal", err)
	}
	if t.indexes, err = catalog.BuiltIndexes(ctx, conn); err != nil {
		return t, st.Target.Wrap("listing indexes", err)
	}
	keys, err := catalog.ForeignKeys(ctx, conn)
	if err != nil {
		return t, st.Target.Wrap("listing foreign keys", err)
	}
	for _, f := range keys {
		t.foreignKeys[f.Table.String()+" "+f.Name] = f.Valid
	}
	return t, nil
}

// runRows loads what is still to be loaded.
func (st *start) runRows(ctx context.Context) error {
	if err := schema.EndOrphans(ctx, st.TargetConn); err != nil {
		return st.Target.Wrap("ending what an earlier try left running", err)
	}
	job, err := st.job(ctx)
	if err != nil {
		return err
	}
	if err := st.dropInTheWay(ctx, job); err != nil {
		return err
	}
	note, err := st.Target.Connect(ctx) // a session of its own for the progress that status shows
	if err != nil {
		return err
	}
	defer note.Close(context.WithoutCancel(ctx))
	job.OnProgress = func(ctx context.Context, p event.Progress) {
		// Shown to people only: a failure is no reason to stop the copy.
		_ = st.noteProgress(ctx, note, p)
	}
	job.Record = st.record
	watched, stop, err := st.watchWAL(ctx)
	if err != nil {
		return err
	}
	result, err := tablecopy.Run(watched, job)
	stop()
	if cause := context.Cause(watched); cause != nil && ctx.Err() == nil {
		return st.giveUp(ctx, cause)
	}
	st.result.TablesCopied = job.Before.TablesCopied + result.Tables
	st.result.BytesCopied = job.Before.BytesCopied + result.Bytes
	if err != nil {
		return st.copyAgain(ctx, err)
	}
	if s := result.Elapsed.Seconds(); s > 0 {
		st.result.BytesPerSec = float64(result.Bytes) / s
	}
	if err := st.closeSlots(ctx); err != nil {
		return err
	}
	return st.compareIndexes(ctx)
}

// copyAgain forgets that tables were copied whose rows have to be repaired on the
// source: what changes them there is in the stream, which flows only when the load is
// complete. The next run closes the groups without these tables, and copies them under
// a new snapshot.
func (st *start) copyAgain(ctx context.Context, failure error) error {
	var rows *tablecopy.RowsError
	if !errors.As(failure, &rows) {
		return failure
	}
	err := pgx.BeginFunc(ctx, st.TargetConn, func(tx pgx.Tx) error {
		for _, t := range rows.Tables {
			if err := errors.Join(copiedEntries.Delete(ctx, tx, t.String()), builtEntries.Delete(ctx, tx, t.String())); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(failure, st.Target.Wrap("writing the journal", err))
	}
	return failure
}

// record notes what tables have reached, with the slot that their rows go with.
func (st *start) record(stage tablecopy.Stage, tables []tablecopy.Loaded) string {
	copied, built := map[string]copiedTable{}, map[string]bool{}
	for _, t := range tables {
		if stage == tablecopy.Copied {
			g := st.groupOf[t.Table]
			copied[t.Table.String()] = copiedTable{Group: g.Name(), Point: g.slot.ConsistentPoint.String(), OID: st.world.oids[t.Table], Rows: t.Rows, Bytes: t.Bytes}
		} else {
			built[t.Table.String()] = true
		}
	}
	sql, err := builtEntries.PutSQL(built)
	if stage == tablecopy.Copied {
		sql, err = copiedEntries.PutSQL(copied)
	}
	if err != nil {
		panic(err) // plain structs
	}
	return sql
}

// dropInTheWay drops foreign keys of tables that are emptied again: their group
// was given up after they had been made.
func (st *start) dropInTheWay(ctx context.Context, job tablecopy.Job) error {
	keys, err := catalog.ForeignKeys(ctx, st.TargetConn)
	if err != nil {
		return st.Target.Wrap("listing foreign keys", err)
	}
	for _, f := range inTheWay(keys, job.Tables) {
		sql := fmt.Sprintf("ALTER TABLE ONLY %s DROP CONSTRAINT %s", f.Table, postgres.QuoteIdent(f.Name))
		if _, err := st.TargetConn.Exec(ctx, sql); err != nil {
			return st.Target.Wrap(sql, err)
		}
	}
	return nil
}

// compareIndexes makes sure that no index is missing: a name that was taken by
// something else would go unnoticed.
func (st *start) compareIndexes(ctx context.Context) error {
	have, err := catalog.BuiltIndexes(ctx, st.TargetConn)
	if err != nil {
		return st.Target.Wrap("listing indexes", err)
	}
	moved := map[uint32]bool{}
	for _, t := range st.world.tables {
		moved[t.OID] = true
	}
	for _, x := range st.world.indexes {
		if constraint, ok := have[x.Ident]; moved[x.Table] && (!ok || constraint != x.Constraint) {
			return st.Target.WrapHint("comparing indexes", fmt.Errorf("index %s is not there as on the source", x.Ident),
				"something else has its name there: drop that, then run start again")
		}
	}
	return nil
}

// errRetained is the cause with which a copy ends that makes the source keep too
// much WAL.
var errRetained = errors.New("--max-slot-wal is reached")

// giveUp drops the slots for which the source keeps too much WAL. Rows that were
// copied under them are worth nothing without.
func (st *start) giveUp(ctx context.Context, cause error) error {
	for _, g := range st.groups {
		g.slot.Close(ctx)
		if err := st.dropSlot(ctx, g.Name()); err != nil {
			return errors.Join(cause, err)
		}
	}
	st.groups = nil
	return st.Source.WrapHint("copying rows", cause,
		"the slots were dropped, so that the source can remove its WAL; run start again, it copies all rows: allow more with --max-slot-wal, "+
			"or copy faster (--jobs, no --max-rate), or when less is written")
}

func (st *start) planRest(context.Context) ([]plan.Action, error) {
	c := schema.Restore(st.Target, st.archiveFile(), schema.PostData, schema.RestoreOptions{Jobs: st.Jobs, List: st.listFile()})
	return []plan.Action{{Where: "operator", Do: "-- what is left of the archive: triggers, rules, policies, partitioned indexes, comments, grants"}, {Where: "operator", Do: c.String()}}, nil
}

func (st *start) listFile() string { return filepath.Join(st.workDir, "rest.list") }

// runRest restores what comes after the rows and was not made with them, and
// keeps back the foreign keys between groups.
func (st *start) runRest(ctx context.Context) error {
	withheld, gone := withheld(st.world, st.groupOf)
	entries, err := schema.Entries(ctx, st.tools, st.archive, schema.PostData)
	if err != nil {
		return err
	}
	made := map[schema.Object]bool{} // with the rows
	for _, x := range st.world.indexes {
		made[schema.Object{Class: schema.ClassRelation, OID: x.OID}] = true
		if x.Constraint != "" {
			made[schema.Object{Class: schema.ClassConstraint, OID: x.ConstraintOID}] = true
		}
	}
	for _, f := range st.world.foreignKeys {
		made[schema.Object{Class: schema.ClassConstraint, OID: f.OID}] = true
	}
	entries = schema.Without(slices.DeleteFunc(entries, func(e schema.Entry) bool { return made[e.Object] || e.Statistics() != "" }), gone)
	_, interrupted, err := restBegan.Get(ctx, st.TargetConn)
	if err == nil && interrupted {
		entries, err = schema.Missing(ctx, st.SourceConn, st.TargetConn, entries)
	}
	if err == nil {
		err = restBegan.Put(ctx, st.TargetConn, "")
	}
	if err != nil {
		return st.Target.Wrap("looking at what is restored already", err)
	}
	if len(entries) > 0 {
		o, err := st.restoreOptions(ctx)
		if err != nil {
			return err
		}
		o.List = st.listFile()
		if err := schema.WriteList(o.List, entries); err != nil {
			return err
		}
		if err := st.restore(ctx, schema.PostData, o, nil); err != nil {
			return err
		}
	}
	if err := pgx.BeginFunc(ctx, st.TargetConn, func(tx pgx.Tx) error { return replication.Withhold(ctx, tx, withheld) }); err != nil {
		return st.Target.Wrap("noting foreign keys between groups", err)
	}
	l := loaded{}
	for _, g := range st.groups {
		l.Slots = append(l.Slots, g.Name())
		if g.slot != nil {
			l.ConsistentPoint = g.slot.ConsistentPoint.String()
		}
	}
	return st.markLoaded(ctx, l)
}
