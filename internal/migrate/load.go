package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/journal"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// This file has the steps from the slot to the complete load. They are done when
// the target says that a load is complete, for the slots that exist. By methods
// native and dump a run that finds an unfinished load starts it over under a new
// slot; method stream keeps what is complete (groups.go, rows.go).

// isLoaded says that the load is complete, and refuses when the slot that it
// goes with is gone: what was written meanwhile is lost, which no new slot would
// show.
func (st *start) isLoaded(ctx context.Context) (bool, error) {
	if st.targetRecord == nil {
		return false, nil
	}
	l, ok, err := loadedEntry.Get(ctx, st.TargetConn)
	if err != nil || !ok {
		return false, st.Target.Wrap("reading the journal", err)
	}
	for _, name := range l.Slots {
		slot, err := replication.ReadSlot(ctx, st.SourceConn, name)
		if err != nil {
			return false, st.Source.Wrap("reading the slot", err)
		}
		if slot == nil || slot.Lost {
			return false, refusal.New("start", fmt.Sprintf("replication slot %s is lost: what was written on the source since then cannot reach the target", name),
				"pgbaton reset, then start again; if the server removed the WAL, raise max_slot_wal_keep_size first")
		}
	}
	return true, nil
}

func (st *start) planSlot(context.Context) ([]plan.Action, error) {
	return plan.On(postgres.Source, replication.CreateSlotCommand(st.Group().Name(), st.Method != Native, st.Source.Version())), nil
}

func (st *start) runSlot(ctx context.Context) error {
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		if err := schema.EndOrphans(ctx, st.conn(side)); err != nil {
			return st.Server(side).Wrap("ending what an earlier run left running", err)
		}
	}
	if err := st.clearTarget(ctx); err != nil {
		return err
	}
	name := st.Group().Name()
	for attempt := 1; ; attempt++ {
		if _, err := replication.DropSlots(ctx, st.SourceConn, replication.Exactly(name)); err != nil {
			return st.Source.Wrap("dropping an earlier run's slot "+name, err)
		}
		if err := replication.RememberFilenodes(ctx, st.SourceConn, st.Target.Version(), st.Group()); err != nil {
			return st.Source.Wrap("remembering the tables' files", err)
		}
		slot, err := replication.CreateSlot(ctx, st.Source, st.SourceConn, name, st.Method != Native, st.Observe)
		if err != nil {
			return err
		}
		st.slot = slot
		if err := replication.LeaveNewSlot(ctx, st.SourceConn, st.Group(), slot.ConsistentPoint); err != nil {
			return st.Source.Wrap("writing the journal", err)
		}
		st.result.Snapshot = slot.ConsistentPoint.String()
		if st.tables, err = snapshotTables(ctx, st.Config, st.SourceConn, slot.Snapshot); err != nil {
			return err
		}
		published, err := replication.PublicationTables(ctx, st.SourceConn, name)
		if err != nil {
			return st.Source.Wrap("reading the publication", err)
		}
		if slices.Equal(published, replication.Publishable(st.tables, st.Group())) {
			return nil
		}
		// A table created between publication and slot would be copied but never
		// streamed.
		slot.Close(ctx)
		if attempt == slotAttempts {
			return refusal.New("start", "tables keep being created and dropped on the source", "stop DDL while start runs")
		}
		if err := st.runPublication(ctx); err != nil {
			return err
		}
	}
}

// snapshotTables lists the tables as a snapshot shows them; "" as they are.
func snapshotTables(ctx context.Context, c Config, conn *postgres.Session, snapshot string) (tables []catalog.Table, err error) {
	if snapshot == "" {
		tables, err = catalog.Tables(ctx, conn, c.Selection)
		return tables, c.Source.Wrap("listing tables", err)
	}
	err = underSnapshot(ctx, conn, snapshot, func(tx pgx.Tx) error {
		tables, err = catalog.Tables(ctx, tx, c.Selection)
		return err
	})
	return tables, c.Source.Wrap("listing tables under the slot's snapshot", err)
}

// clearTarget removes what an unfinished load left on the target: our
// subscription, and everything the restore made.
func (st *start) clearTarget(ctx context.Context) error {
	conn := st.TargetConn
	oid, err := replication.DropSubscription(ctx, conn, st.Group().Name())
	if err == nil && oid != 0 {
		_, err = replication.DropSlots(ctx, st.SourceConn, replication.SyncSlotPattern(oid))
	}
	if err != nil {
		return st.Target.Wrap("dropping an earlier run's subscription", err)
	}
	err = journal.Clear(ctx, conn, journal.Defined, journal.RestBegan, journal.Progress, journal.Loaded, journal.Analyzed,
		journal.Copied, journal.Built, journal.Check, journal.QuietTrigger, journal.EventTrigger)
	if err != nil {
		return st.Target.Wrap("writing the journal", err)
	}
	if err := replication.Withhold(ctx, conn, nil); err != nil {
		return st.Target.Wrap("writing the journal", err)
	}
	left, _, err := emptyTarget(ctx, conn)
	if err == nil && len(left) > 0 {
		err = st.Target.WrapHint("emptying the target database", errors.New(left[0].Why), left[0].Remedy)
	}
	return err
}

// emptyTarget takes everything out of the target database that a restore put
// in: it was empty when the migration began. left is what could not be taken out;
// known says whether it could know what there is to take.
func emptyTarget(ctx context.Context, conn *postgres.Session) (left []refusal.Reason, known bool, err error) {
	baseline, known, err := baselineEntry.Get(ctx, conn)
	if err == nil && known {
		left, err = schema.Empty(ctx, conn, baseline)
	}
	return left, known, postgres.Wrap(postgres.Target, "emptying the target database", err)
}

// snapshot is what the archive is read under, "" for none.
func (st *start) snapshot() string {
	switch {
	case st.Method == Native:
		return ""
	case st.Method == Stream && len(st.groups) > 0:
		if slot := st.openSlot(); slot != nil {
			return slot.Snapshot
		}
		return "" // all rows are there
	case st.slot != nil:
		return st.slot.Snapshot
	}
	return "<the slot's snapshot>"
}

func (st *start) archiveFile() string { return filepath.Join(st.workDir, "schema.dump") }

func (st *start) planArchive(ctx context.Context) ([]plan.Action, error) {
	c, err := st.dumpSchema(ctx, false)
	return []plan.Action{{Where: "operator", Do: c.String()}}, err
}

// doneArchive: the archive of this run is good as long as its groups are.
func (st *start) doneArchive(ctx context.Context) (bool, error) {
	if loaded, err := st.isLoaded(ctx); err != nil || loaded {
		return loaded, err
	}
	return st.archive != "", nil
}

func (st *start) runArchive(ctx context.Context) error {
	defined, err := st.isDefined(ctx)
	if err != nil {
		return err
	}
	dump, err := st.dumpSchema(ctx, defined)
	if err == nil {
		err = schema.Dump(ctx, st.tools, dump)
	}
	if err != nil {
		return err
	}
	st.archive = st.archiveFile()
	return nil
}

func (st *start) planPreData(ctx context.Context) ([]plan.Action, error) {
	actions, err := st.planSection(ctx, st.archiveFile(), schema.PreData)
	if err == nil {
		var statistics []plan.Action
		statistics, err = st.planStatistics(ctx)
		actions = append(actions, statistics...)
	}
	actions, err = st.planConfigs(ctx, actions, err)
	return st.planHeld(ctx, actions, err)
}

// donePreData: by method stream the definitions outlive an interrupted load.
func (st *start) donePreData(ctx context.Context) (bool, error) {
	if loaded, err := st.isLoaded(ctx); err != nil || loaded || st.targetRecord == nil {
		return loaded, err
	}
	return st.isDefined(ctx)
}

func (st *start) runPreData(ctx context.Context) error {
	err := st.restoreSection(ctx, schema.PreData)
	if err == nil {
		err = st.runStatistics(ctx)
	}
	if err != nil {
		return err
	}
	if err := st.copyConfigs(ctx, st.snapshot()); err != nil {
		return err
	}
	return st.holdChecks(ctx, func(tx pgx.Tx) error {
		return definedEntry.Put(ctx, tx, time.Now().UTC().Format(time.RFC3339))
	})
}

func (st *start) noteProgress(ctx context.Context, conn *postgres.Session, p event.Progress) error {
	return progressEntry.Put(ctx, conn, p)
}

// markLoaded is the commit after which the load counts. It is synchronous, and
// with it all that the copy committed before.
func (st *start) markLoaded(ctx context.Context, l loaded) error {
	before, err := schema.EventTriggersBefore(ctx, st.SourceConn)
	if err != nil {
		return st.Source.Wrap("reading the journal", err)
	}
	if err := schema.QuietTriggers(ctx, st.TargetConn, before); err != nil {
		return st.Target.Wrap("keeping triggers from firing twice", err)
	}
	if err := replication.LocateIdentities(ctx, st.TargetConn); err != nil {
		return st.Target.Wrap("writing the journal", err)
	}
	err = postgres.Durably(ctx, st.TargetConn, func(tx pgx.Tx) error {
		if err := journal.Clear(ctx, tx, journal.Copied, journal.Built); err != nil { // what counts is the whole now
			return err
		}
		l.Tables, l.Bytes = st.result.TablesCopied, st.result.BytesCopied
		return loadedEntry.Put(ctx, tx, l)
	})
	return st.Target.Wrap("recording that the load is complete", err)
}

// one is what markLoaded records of a load in one group.
func (st *start) one() loaded {
	return loaded{Slots: []string{st.slot.Name}, ConsistentPoint: st.slot.ConsistentPoint.String()}
}

func (st *start) planSchema(ctx context.Context) ([]plan.Action, error) {
	actions, err := st.planSection(ctx, st.archiveFile(), schema.Everything)
	actions, err = st.planConfigs(ctx, actions, err)
	return st.planHeld(ctx, actions, err)
}

// runSchema restores all definitions at once, for a subscription that copies.
func (st *start) runSchema(ctx context.Context) error {
	if err := st.restoreSection(ctx, schema.Everything); err != nil {
		return err
	}
	if err := st.copyConfigs(ctx, ""); err != nil {
		return err
	}
	if err := st.holdChecks(ctx, nil); err != nil {
		return err
	}
	return st.markLoaded(ctx, st.one())
}

func (st *start) dumpDirectory() string {
	if st.DumpDir != "" {
		return st.DumpDir
	}
	return filepath.Join(st.workDir, "dump")
}

func (st *start) planDump(context.Context) ([]plan.Action, error) {
	return []plan.Action{{Where: "operator", Do: schema.DumpAll(st.Source, st.snapshot(), st.dumpDirectory(), st.Jobs, st.exclusion).String()}}, nil
}

func (st *start) runDump(ctx context.Context) error {
	st.archive = st.dumpDirectory()
	if err := st.discardDump(); err != nil {
		return err
	}
	if err := schema.Dump(ctx, st.tools, schema.DumpAll(st.Source, st.slot.Snapshot, st.archive, st.Jobs, st.exclusion)); err != nil {
		return err
	}
	if err := st.dumpConfigs(ctx, st.slot.Snapshot); err != nil {
		return err
	}
	return st.Source.Wrap("releasing the snapshot", st.slot.Close(ctx))
}

// discardDump removes an earlier run's archive from a directory that the
// operator named: it belongs to another snapshot. Anything else in its place is
// not ours to remove.
func (st *start) discardDump() error {
	entries, err := os.ReadDir(st.archive)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(st.archive, "toc.dat")); err != nil && !unfinishedDump(entries) {
		return refusal.New("start", fmt.Sprintf("%s is not empty and holds no pg_dump archive", st.archive), "name an empty directory with --dump-dir")
	}
	return os.RemoveAll(st.archive)
}

// unfinishedDump says whether a directory holds nothing but data files of a
// pg_dump that was killed before it wrote its table of contents.
func unfinishedDump(entries []os.DirEntry) bool {
	for _, e := range entries {
		if ok, _ := filepath.Match("[0-9]*.dat*", e.Name()); !ok {
			return false
		}
	}
	return true
}

func (st *start) planRestore(ctx context.Context) ([]plan.Action, error) {
	actions, err := st.planSection(ctx, st.dumpDirectory(), schema.PreData)
	actions, err = st.planConfigs(ctx, actions, err)
	if actions, err = st.planHeld(ctx, actions, err); err != nil {
		return nil, err
	}
	rest, err := st.planSection(ctx, st.dumpDirectory(), schema.AfterPre)
	return append(actions, rest...), err
}

func (st *start) runRestore(ctx context.Context) error {
	o, err := st.restoreOptions(ctx)
	if err != nil {
		return err
	}
	items, err := schema.Items(ctx, st.tools, st.archive)
	if err != nil {
		return err
	}
	if o.List, err = st.restoreList(ctx); err != nil {
		return err
	}
	if err := st.restore(ctx, schema.PreData, o, nil); err != nil {
		return err
	}
	if err := st.copyConfigs(ctx, ""); err != nil {
		return err
	}
	if err := st.holdChecks(ctx, nil); err != nil {
		return err
	}
	// Only a parallel restore reports its items.
	o.Jobs = max(2, o.Jobs)
	note, err := st.Target.Connect(ctx)
	if err != nil {
		return err
	}
	defer note.Close(context.WithoutCancel(ctx))
	p := event.Progress{TablesTotal: len(items)}
	for _, t := range st.tables {
		p.BytesTotal += t.Bytes
	}
	sizes := map[postgres.Ident]int64{}
	for _, t := range st.tables {
		sizes[t.Ident] = t.Bytes
	}
	err = st.restore(ctx, schema.AfterPre, o, func(id string) {
		t, ok := items[id]
		if !ok {
			return
		}
		p.TablesCopied++
		p.BytesCopied += sizes[t]
		st.Observe(p)
		_ = st.noteProgress(ctx, note, p) // shown to people only
	})
	if err != nil {
		return err
	}
	st.result.TablesCopied, st.result.BytesCopied = p.TablesTotal, p.BytesTotal
	return st.markLoaded(ctx, st.one())
}
