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
	if defined, err := st.isDefined(ctx); err != nil || !defined {
		return nil, err
	}
	left, err := st.readLeft(ctx)
	if err != nil {
		return nil, err
	}
	kept, changed := keepable(left, tables)
	if changed != nil {
		st.Observe(event.Warning{Text: fmt.Sprintf("table %s was created or changed on the source since an interrupted run: all tables are copied again", changed)})
	}
	if len(kept) == 0 {
		return nil, nil
	}
	numbers, err := replication.GroupNumbers(ctx, st.SourceConn, st.TargetConn, st.forward(1))
	if err != nil {
		return nil, err
	}
	ends := make([]replication.Group, len(numbers))
	for i, n := range numbers {
		ends[i] = st.forward(n)
	}
	c := closingOf(ends, kept, len(tables))
	groups := len(c.keep)
	if c.rest > 0 {
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
	for _, g := range c.drop {
		if err := st.dropGroup(ctx, g.Name()); err != nil {
			return nil, err
		}
	}
	var closed []*group
	for _, k := range c.keep {
		g := &group{Group: k.Group}
		if err := st.closeGroup(ctx, g, k.members, terms); err != nil {
			return nil, err
		}
		closed = append(closed, g)
	}
	if c.rest > 0 {
		st.Observe(event.Warning{Text: fmt.Sprintf("an earlier run was interrupted: of %s it had copied %d, which are kept; a group of their own gets the rest, %d", phrase.Count(len(tables), "table"), len(tables)-c.rest, c.rest)})
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

// readLeft reads what interrupted runs have left.
func (st *start) readLeft(ctx context.Context) (left leftovers, err error) {
	if left.copied, err = copiedEntries.List(ctx, st.TargetConn); err != nil {
		return left, st.Target.Wrap("reading the journal", err)
	}
	points, err := groupPoints.List(ctx, st.SourceConn)
	if err != nil {
		return left, st.Source.Wrap("reading the journal", err)
	}
	left.groups = map[string]leftGroup{}
	for name, point := range points {
		g := leftGroup{point: point, published: map[postgres.Ident]bool{}}
		slot, err := replication.ReadSlot(ctx, st.SourceConn, name)
		if err != nil {
			return left, st.Source.Wrap("reading the slot", err)
		}
		g.slot = slot != nil && !slot.Lost
		published, err := replication.PublicationTables(ctx, st.SourceConn, name)
		if err != nil {
			return left, st.Source.Wrap("reading the publication", err)
		}
		for _, t := range published {
			g.published[t] = true
		}
		if g.gap, err = st.gapOf(ctx, name); err != nil {
			return left, err
		}
		left.groups[name] = g
	}
	left.onTarget, err = catalog.Shapes(ctx, st.TargetConn, st.Selection)
	return left, st.Target.Wrap("listing tables", err)
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
