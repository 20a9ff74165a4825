package migrate

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// This file has the groups of method stream (rule 13): a group's rows belong to
// its slot's snapshot, which dies with the process that exported it. What an
// interrupted run has copied in full stays: its group is closed at these tables,
// and the rest goes into a group of its own. Never two snapshots under one slot.

// group is a group of tables as start sees it.
type group struct {
	replication.Group
	// members are its tables; those that are not logged are copied with them, but
	// not published.
	members []postgres.Ident
	closed  bool              // their rows are there
	slot    *replication.Slot // made by this run; nil when closed
}

// copiedTable is what the target's journal says of a table whose rows are there:
// it was committed with them.
type copiedTable struct {
	Group string `json:"group"`
	Point string `json:"consistent_point"` // of the group's slot: another slot may come to have the same name
	OID   uint32 `json:"oid"`              // on the source: another table may, too
	Rows  int64  `json:"rows"`
	Bytes int64  `json:"bytes"`
}

// forward is the forward group of a number.
func (c Config) forward(number int) replication.Group {
	return replication.Group{Label: c.label, Direction: replication.Forward, Number: number}
}

// doneGroups: every run without a live snapshot arranges anew.
func (st *start) doneGroups(ctx context.Context) (bool, error) {
	if loaded, err := st.isLoaded(ctx); err != nil || loaded {
		return loaded, err
	}
	return st.arranged(ctx)
}

// arranged says whether this run's groups are as it made them, their snapshots
// alive: after a failure on the target's side, for instance.
func (st *start) arranged(ctx context.Context) (bool, error) {
	if len(st.groups) == 0 {
		return false, nil
	}
	defined, err := st.isDefined(ctx)
	if err != nil || !defined && st.archive != "" {
		return false, err // a half-restored schema is taken down with all else
	}
	for _, g := range st.groups {
		if g.slot == nil {
			continue
		}
		if alive, err := g.slot.Alive(ctx, st.Source); err != nil || !alive {
			return false, err
		}
	}
	return true, nil
}

func (st *start) isDefined(ctx context.Context) (bool, error) {
	_, ok, err := definedEntry.Get(ctx, st.TargetConn)
	return ok, st.Target.Wrap("reading the journal", err)
}

func (st *start) planGroups(context.Context) ([]plan.Action, error) {
	var actions []plan.Action
	for i, members := range st.divided {
		g := st.forward(i + 1)
		if i > 0 {
			actions = append(actions, plan.On(postgres.Source, replication.MarkerTableSQL(g.MarkerTable()))...)
			actions = append(actions, plan.On(postgres.Target, replication.MarkerTableSQL(g.MarkerTable()))...)
		}
		actions = append(actions, plan.On(postgres.Source, replication.PublicationSQL(g.Name(), replication.Publishable(members, g), st.streamsTruncate()))...)
	}
	return actions, nil
}

// runGroups makes the publications: before their slots, since a change decoded
// from before its publication existed is an error.
func (st *start) runGroups(ctx context.Context) error {
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		if err := schema.EndOrphans(ctx, st.conn(side)); err != nil {
			return st.Server(side).Wrap("ending what an earlier run left running", err)
		}
	}
	st.forget(ctx)
	tables, err := catalog.Tables(ctx, st.SourceConn, st.Selection)
	if err != nil {
		return st.Source.Wrap("listing tables", err)
	}
	closed, err := st.closeGroups(ctx, tables)
	if err != nil {
		return err
	}
	st.groups = closed
	if len(closed) == 0 {
		if err := st.clearAll(ctx); err != nil {
			return err
		}
	}
	return st.openGroups(ctx, tables)
}

// forget ends the sessions that hold snapshots of groups that are arranged anew.
func (st *start) forget(ctx context.Context) {
	for _, g := range st.groups {
		g.slot.Close(ctx)
	}
	st.groups, st.archive, st.world = nil, "", world{}
}

// openGroups makes publications for the tables that are in no group yet: as many
// groups as were asked for on a first run, one for what an interrupted run left.
func (st *start) openGroups(ctx context.Context, tables []catalog.Table) error {
	rest, number := toOpen(st.groups, tables)
	divided := [][]catalog.Table{rest}
	switch {
	case len(st.groups) == 0:
		var err error
		if divided, err = st.divide(ctx, rest); err != nil {
			return err
		}
	case len(rest) == 0:
		return nil
	}
	for i, members := range divided {
		g := &group{Group: st.forward(number + i)}
		if err := st.publish(ctx, g, members); err != nil {
			return err
		}
		st.groups = append(st.groups, g)
	}
	return nil
}

// publish makes a group's marker tables and its publication. One of the same name
// that an earlier run left goes first, with the slot that knows it.
func (st *start) publish(ctx context.Context, g *group, members []catalog.Table) error {
	name := g.Name()
	if err := st.dropSlot(ctx, name); err != nil {
		return err
	}
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		if _, err := st.conn(side).Exec(ctx, replication.MarkerTableSQL(g.MarkerTable())); err != nil {
			return st.Server(side).Wrap("creating the marker table", err)
		}
	}
	g.members = nil
	for _, t := range members {
		g.members = append(g.members, t.Ident)
	}
	err := execAll(ctx, postgres.Source, st.SourceConn, replication.DropPublicationSQL(name),
		replication.PublicationSQL(name, replication.Publishable(members, g.Group), st.streamsTruncate()))
	return st.Source.WrapRights("creating the publication", err, "the role must own every table and have CREATE on the database: see pgbaton check")
}

// dropSlot drops a group's slot, and first of all what rests on it: rows that were
// copied under it count no more.
func (st *start) dropSlot(ctx context.Context, name string) error {
	err := postgres.Durably(ctx, st.TargetConn, func(tx pgx.Tx) error {
		return copiedEntries.DeleteWith(ctx, tx, "group", name)
	})
	if err != nil {
		return st.Target.Wrap("writing the journal", err)
	}
	if err := groupPoints.Delete(ctx, st.SourceConn, name); err != nil {
		return st.Source.Wrap("writing the journal", err)
	}
	_, err = replication.DropSlots(ctx, st.SourceConn, replication.Exactly(name))
	return st.Source.Wrap("dropping an earlier run's slot "+name, err)
}

// dropGroup removes all there is of an earlier run's group.
func (st *start) dropGroup(ctx context.Context, name string) error {
	if _, err := replication.DropSubscription(ctx, st.TargetConn, name); err != nil {
		return st.Target.Wrap("dropping an earlier run's subscription "+name, err)
	}
	if err := st.dropSlot(ctx, name); err != nil {
		return err
	}
	_, err := st.SourceConn.Exec(ctx, replication.DropPublicationSQL(name))
	return st.Source.Wrap("dropping an earlier run's publication "+name, err)
}

// clearAll takes back everything that earlier runs have copied.
func (st *start) clearAll(ctx context.Context) error {
	numbers, err := replication.GroupNumbers(ctx, st.SourceConn, st.TargetConn, st.forward(1))
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if err := st.dropGroup(ctx, st.forward(n).Name()); err != nil {
			return err
		}
	}
	return st.clearTarget(ctx)
}

// slotAttempts bounds how often groups are made anew because tables were created
// between publication and slot.
const slotAttempts = 5

func (st *start) planSlots(context.Context) ([]plan.Action, error) {
	var actions []plan.Action
	for i := range st.divided {
		actions = append(actions, plan.On(postgres.Source, replication.CreateSlotCommand(st.forward(i+1).Name(), true, st.Source.Version()))...)
	}
	return actions, nil
}

func (st *start) doneSlots(ctx context.Context) (bool, error) {
	if loaded, err := st.isLoaded(ctx); err != nil || loaded {
		return loaded, err
	}
	return !slices.ContainsFunc(st.groups, lacksSlot) && st.world.read, nil
}

func lacksSlot(g *group) bool { return g.slot == nil && !g.closed }

// runSlots makes the open groups' slots, with a snapshot each, and reads what is
// to be loaded as the last of them shows it.
func (st *start) runSlots(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		same := true
		var made *replication.Slot // the last one,
		var tables []catalog.Table // and what it shows
		for _, g := range st.groups {
			if !lacksSlot(g) {
				continue
			}
			var err error
			if same, tables, err = st.makeSlot(ctx, g); err != nil {
				return err
			}
			made = g.slot
			if !same {
				break
			}
		}
		open := st.openSlot()
		switch {
		case open == nil: // all are closed, and a table may have been created since
			var err error
			if tables, err = catalog.Tables(ctx, st.SourceConn, st.Selection); err != nil {
				return st.Source.Wrap("listing tables", err)
			}
			_, same = planned(st.groups, nil, tables)
		case made != open:
			tables = nil
		}
		if same {
			return st.readWorld(ctx, tables)
		}
		if attempt == slotAttempts {
			return refusal.New("start", "tables keep being created and dropped on the source", "stop DDL while start runs")
		}
		if err := st.runGroups(ctx); err != nil {
			return err
		}
	}
}

// makeSlot makes a group's slot. same says that under its snapshot the tables are
// those of the publications: one created between publication and slot would be
// copied but never streamed.
func (st *start) makeSlot(ctx context.Context, g *group) (same bool, tables []catalog.Table, err error) {
	name := g.Name()
	if err := st.dropSlot(ctx, name); err != nil {
		return false, nil, err
	}
	if err := replication.RememberFilenodes(ctx, st.SourceConn, st.Target.Version(), g.Group); err != nil {
		return false, nil, st.Source.Wrap("remembering the tables' files", err)
	}
	if g.slot, err = replication.CreateSlot(ctx, st.Source, st.SourceConn, name, true, st.Observe); err != nil {
		return false, nil, err
	}
	err = errors.Join(groupPoints.Put(ctx, st.SourceConn, name, g.slot.ConsistentPoint.String()),
		replication.LeaveNewSlot(ctx, st.SourceConn, g.Group, g.slot.ConsistentPoint))
	if err != nil {
		return false, nil, st.Source.Wrap("writing the journal", err)
	}
	st.result.Snapshot = g.slot.ConsistentPoint.String()
	tables, err = snapshotTables(ctx, st.Config, st.SourceConn, g.slot.Snapshot)
	if err != nil {
		return false, nil, err
	}
	members, same := planned(st.groups, g, tables)
	if !same {
		return false, nil, nil
	}
	published, err := replication.PublicationTables(ctx, st.SourceConn, name)
	return slices.Equal(published, replication.Publishable(members, g.Group)), tables, st.Source.Wrap("reading the publication", err)
}

// openSlot is one of this run's slots, nil when all groups are closed.
func (st *start) openSlot() *replication.Slot {
	for _, g := range slices.Backward(st.groups) {
		if g.slot != nil {
			return g.slot
		}
	}
	return nil
}

// world is everything that a load makes on the target, as the source has it.
type world struct {
	read        bool
	tables      []catalog.Table
	oids        map[postgres.Ident]uint32 // of the tables
	indexes     []catalog.Index
	foreignKeys []catalog.ForeignKey
	partitioned []catalog.PartitionedKey
	lost        map[uint32]schema.Constraint // foreign keys that refer to rows which are not moved
}

// readWorld reads it under the last slot's snapshot; when all groups are closed,
// as it is. tables are those of it, nil if they have not been read.
func (st *start) readWorld(ctx context.Context, tables []catalog.Table) error {
	read := func(q catalog.Querier) (err error) {
		w := world{read: true, tables: tables}
		if tables == nil {
			if w.tables, err = catalog.Tables(ctx, q, st.Selection); err != nil {
				return err
			}
		}
		if w.indexes, err = catalog.Indexes(ctx, q); err != nil {
			return err
		}
		if w.foreignKeys, err = catalog.ForeignKeys(ctx, q); err != nil {
			return err
		}
		if w.partitioned, err = catalog.PartitionedKeys(ctx, q); err != nil {
			return err
		}
		if st.exclusion, err = catalog.Excluded(ctx, q, st.Selection); err != nil {
			return err
		}
		lost, err := catalog.LostForeignKeys(ctx, q, st.exclusion)
		w.lost = map[uint32]schema.Constraint{}
		for _, c := range leftOut(lost) {
			w.lost[c.OID] = c
		}
		st.world = w
		return err
	}
	var err error
	if slot := st.openSlot(); slot != nil {
		err = underSnapshot(ctx, st.SourceConn, slot.Snapshot, func(tx pgx.Tx) error { return read(tx) })
	} else {
		err = read(st.SourceConn)
	}
	st.groupOf = membership(st.groups)
	st.world.oids = map[postgres.Ident]uint32{}
	for _, t := range st.world.tables {
		st.world.oids[t.Ident] = t.OID
	}
	return st.Source.Wrap("listing tables, indexes and foreign keys", err)
}

// underSnapshot reads under an exported snapshot.
func underSnapshot(ctx context.Context, conn *postgres.Session, snapshot string, read func(pgx.Tx) error) error {
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	return pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET TRANSACTION SNAPSHOT "+postgres.QuoteLiteral(snapshot)); err != nil {
			return err
		}
		return read(tx)
	})
}

// closeSlots ends the sessions that hold snapshots; the source can vacuum again.
func (st *start) closeSlots(ctx context.Context) error {
	var errs []error
	for _, g := range st.groups {
		errs = append(errs, g.slot.Close(ctx))
	}
	return st.Source.Wrap("releasing the snapshots", errors.Join(errs...))
}
