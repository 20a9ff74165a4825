package replication

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// Streams compares what must agree before anything is handed over: the tables
// and columns of the publisher, the groups' publications, the tables the
// subscriptions apply (all ready), and the subscriber's tables. It returns the
// differences, as sentences; none means that every row of every table flows.
func Streams(ctx context.Context, publisher, subscriber postgres.DB, pv, sv postgres.Version, groups []Group) ([]string, error) {
	var here, there []catalog.Table
	both, readCtx := errgroup.WithContext(ctx)
	both.Go(func() (err error) {
		here, err = catalog.Tables(readCtx, publisher, pv)
		return err
	})
	both.Go(func() (err error) {
		there, err = catalog.Tables(readCtx, subscriber, sv)
		return err
	})
	if err := both.Wait(); err != nil {
		return nil, err
	}
	published, applied := map[postgres.Ident]bool{}, map[postgres.Ident]string{}
	for _, g := range groups {
		tables, err := PublicationTables(ctx, publisher, g.Name())
		if err != nil {
			return nil, err
		}
		states, err := SubscriptionTables(ctx, subscriber, g.Name())
		if err != nil {
			return nil, err
		}
		for _, t := range tables {
			published[t] = true
		}
		for _, t := range states {
			applied[t.Ident] = t.State
		}
		if !published[g.MarkerTable()] || applied[g.MarkerTable()] == "" {
			return []string{fmt.Sprintf("the marker table of group %d is not in its publication and subscription", g.Number)}, nil
		}
	}
	var diff []string
	for _, g := range groups {
		rewritten, err := Rewritten(ctx, publisher, pv, sv, g)
		if err != nil {
			return nil, err
		}
		diff = append(diff, rewritten...)
	}
	say := func(format string, args ...any) { diff = append(diff, fmt.Sprintf(format, args...)) }
	shapes := map[postgres.Ident]string{}
	for i := range there {
		shapes[there[i].Ident] = there[i].Shape()
	}
	for i := range here {
		t := &here[i]
		state, subscribed := applied[t.Ident]
		shape, exists := shapes[t.Ident]
		delete(shapes, t.Ident)
		switch {
		case t.Unlogged: // cannot be published; accepted at check
		case !published[t.Ident]:
			say("table %s is not in the publication: it was created after the migration started", t.Ident)
		case !subscribed:
			say("table %s is not in the subscription", t.Ident)
		case state != "r":
			say("table %s is not ready: its state is %q", t.Ident, state)
		case !exists:
			say("table %s does not exist on the receiving side", t.Ident)
		case shape != t.Shape():
			say("table %s has other columns on the receiving side: %s here, %s there", t.Ident, t.Shape(), shape)
		}
		delete(published, t.Ident)
	}
	for t := range published {
		if t.Schema != "pgbaton" {
			say("table %s is in the publication but is no longer among the tables", t)
		}
	}
	for t := range shapes {
		say("table %s exists only on the receiving side", t)
	}
	return diff, nil
}
