package migrate

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/phrase"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// This file keeps what an interrupted run has copied: it closes groups at the tables
// that are complete.

// closeGroups closes the groups of interrupted runs at the tables that are
// complete. None: what there is is not worth keeping, or cannot be kept.
func (st *start) closeGroups(ctx context.Context, tables []catalog.Table) ([]*group, error) {
	kept, err := st.keepable(ctx, tables)
	if err != nil || len(kept) == 0 {
		return nil, err
	}
	numbers, err := replication.GroupNumbers(ctx, st.SourceConn, st.TargetConn, st.forward(1))
	if err != nil {
		return nil, err
	}
	rest := len(tables)
	for _, members := range kept {
		rest -= len(members)
	}
	groups := len(kept)
	if rest > 0 {
		groups++
	}
	if lacks, err := replication.RoomFor(ctx, st.SourceConn, st.TargetConn, st.label, groups); err != nil {
		return nil, err
	} else if lacks != "" {
		st.Observe(event.Warning{Text: "the tables that an interrupted run has copied cannot be kept: " + lacks + "; they are copied again"})
		return nil, nil
	}
	terms, err := st.terms(ctx, groups)
	if err != nil {
		return nil, err
	}
	var closed []*group
	count := 0
	for _, n := range numbers {
		g := &group{Group: st.forward(n)}
		members := kept[g.Name()]
		if len(members) == 0 {
			if err := st.dropGroup(ctx, g.Name()); err != nil {
				return nil, err
			}
			continue
		}
		if err := st.closeGroup(ctx, g, members, terms); err != nil {
			return nil, err
		}
		count += len(members)
		closed = append(closed, g)
	}
	if rest > 0 {
		st.Observe(event.Warning{Text: fmt.Sprintf("an earlier run was interrupted: of %s it had copied %d, which are kept; a group of their own gets the rest, %d", phrase.Count(count+rest, "table"), count, rest)})
	}
	return closed, nil
}

// closeGroup makes a group one of finished tables: its publication lists them and
// no others, then its subscription is made, which applies what its publication
// lists. The slot still decodes the others; nobody applies them.
func (st *start) closeGroup(ctx context.Context, g *group, members []catalog.Table, terms replication.Terms) error {
	g.closed = true
	for _, t := range members {
		g.members = append(g.members, t.Ident)
	}
	want := replication.Publishable(members, g.Group)
	have, err := replication.PublicationTables(ctx, st.SourceConn, g.Name())
	if err == nil && !slices.Equal(want, have) {
		err = pgx.BeginFunc(ctx, st.SourceConn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, replication.SetTablesSQL(g.Name(), want)); err != nil {
				return err
			}
			return replication.RememberPublished(ctx, tx, g.Group)
		})
	}
	if err != nil {
		return st.Source.Wrap("closing group "+g.Name(), err)
	}
	sub, err := replication.ReadSubscription(ctx, st.TargetConn, g.Name())
	if err != nil {
		return st.Target.Wrap("reading subscription "+g.Name(), err)
	}
	if sub != nil && replication.VerifySubscription(ctx, st.SourceConn, st.TargetConn, g.Name(), "r") != nil {
		// Made for more tables than are kept: it never was enabled.
		if _, err := replication.DropSubscription(ctx, st.TargetConn, g.Name()); err != nil {
			return st.Target.Wrap("dropping an earlier run's subscription "+g.Name(), err)
		}
		sub = nil
	}
	if sub == nil {
		return st.subscribe(ctx, g.Group, terms)
	}
	return nil
}

// keepable finds the tables whose rows are complete, by the name of their group:
// copied under a slot that is still there, and the same on both sides by now.
func (st *start) keepable(ctx context.Context, tables []catalog.Table) (map[string][]catalog.Table, error) {
	if defined, err := st.isDefined(ctx); err != nil || !defined {
		return nil, err
	}
	copied, err := copiedEntries.List(ctx, st.TargetConn)
	if err != nil {
		return nil, st.Target.Wrap("reading the journal", err)
	}
	points, err := groupPoints.List(ctx, st.SourceConn)
	if err != nil {
		return nil, st.Source.Wrap("reading the journal", err)
	}
	for name := range points {
		slot, err := replication.ReadSlot(ctx, st.SourceConn, name)
		if err != nil {
			return nil, st.Source.Wrap("reading the slot", err)
		}
		exists, err := replication.PublicationExists(ctx, st.SourceConn, name)
		if err != nil {
			return nil, st.Source.Wrap("reading the publication", err)
		}
		gap, err := st.gapOf(ctx, name)
		if err != nil {
			return nil, err
		}
		if slot == nil || slot.Lost || !exists || gap != "" {
			delete(points, name)
		}
	}
	onTarget, err := catalog.Shapes(ctx, st.TargetConn, st.Selection)
	if err != nil {
		return nil, st.Target.Wrap("listing tables", err)
	}
	shapes := map[postgres.Ident]string{}
	for i := range onTarget {
		shapes[onTarget[i].Ident] = onTarget[i].Shape()
	}
	kept := map[string][]catalog.Table{}
	groupOf := map[uint32]string{}
	var bytes, total int64
	for _, t := range tables {
		if shapes[t.Ident] != t.Shape() {
			if len(copied) > 0 {
				st.Observe(event.Warning{Text: fmt.Sprintf("table %s was created or changed on the source since an interrupted run: all tables are copied again", t.Ident)})
			}
			return nil, nil
		}
		delete(shapes, t.Ident)
		total += t.Bytes
		if c, ok := copied[t.Ident.String()]; ok && points[c.Group] != "" && points[c.Group] == c.Point {
			groupOf[t.OID] = c.Group
		}
	}
	if len(shapes) > 0 { // dropped on the source
		return nil, nil
	}
	for _, t := range tables {
		if name := groupOf[t.OID]; name != "" {
			kept[name] = append(kept[name], t)
			bytes += t.Bytes
		}
	}
	// A group costs a slot, a WAL sender that decodes everything, and a worker.
	if bytes < total/100 && len(groupOf) < len(tables) {
		return nil, nil
	}
	return kept, nil
}

// gapOf says why a group's slot is not the one under which its rows were copied, ""
// when it is.
func (st *start) gapOf(ctx context.Context, name string) (string, error) {
	groups, err := st.streams(ctx)
	if err != nil {
		return "", err
	}
	for _, g := range groups {
		if g.Name() == name {
			gap, err := replication.Gap(ctx, st.SourceConn, st.TargetConn, g)
			return gap, st.Source.Wrap("looking for a gap in the stream", err)
		}
	}
	return "", nil
}
