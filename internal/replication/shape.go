package replication

import (
	"context"
	"fmt"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/routine"
)

// Difference keeps a handover from happening, with its remedy; "" when nothing but a
// new start mends it.
type Difference struct {
	Text   string
	Remedy string
}

// Streams compares what must agree before anything is handed over: the tables
// and columns of the publisher, the groups' publications, the tables the
// subscriptions apply (all ready), and the subscriber's tables. No difference means
// that every row of every table flows.
func Streams(ctx context.Context, publisher, subscriber postgres.DB, groups []Group, sel catalog.Selection) ([]Difference, error) {
	sv := postgres.VersionOf(subscriber)
	var here, there []catalog.Table
	both, readCtx := routine.WithContext(ctx)
	both.Go(func() (err error) {
		here, err = catalog.Shapes(readCtx, publisher, sel)
		return err
	})
	both.Go(func() (err error) {
		there, err = catalog.Shapes(readCtx, subscriber, sel)
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
			if applied[t.Ident] != "" {
				return []Difference{{Text: fmt.Sprintf("table %s is in two groups: its changes would be applied twice", t.Ident)}}, nil
			}
			applied[t.Ident] = t.State
		}
		if !published[g.MarkerTable()] || applied[g.MarkerTable()] == "" {
			return []Difference{{Text: fmt.Sprintf("the marker table of group %d is not in its publication and subscription", g.Number)}}, nil
		}
	}
	var diff []Difference
	for _, g := range groups {
		rewritten, err := Rewritten(ctx, publisher, sv, g)
		if err != nil {
			return nil, err
		}
		for _, text := range rewritten {
			diff = append(diff, Difference{Text: text})
		}
	}
	say := func(remedy, format string, args ...any) {
		diff = append(diff, Difference{Text: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	const later = "drop it until after the handover"
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
			say(later, "table %s is not in the publication: it was created after the migration started", t.Ident)
		case !subscribed:
			say("", "table %s is not in the subscription", t.Ident)
		case state != "r":
			say("wait until pgbaton status shows all tables ready", "table %s is not ready: its state is %q", t.Ident, state)
		case !exists:
			say("", "table %s does not exist on the receiving side", t.Ident)
		case shape != t.Shape():
			say("make its columns the same on both sides", "table %s has other columns on the receiving side: %s here, %s there", t.Ident, t.Shape(), shape)
		}
		delete(published, t.Ident)
	}
	for t := range published {
		if t.Schema != "pgbaton" {
			say("", "table %s is in the publication but is no longer among the tables", t)
		}
	}
	for t := range shapes {
		say(later, "table %s exists only on the receiving side", t)
	}
	return diff, nil
}

// Fingerprint sums up everything about a side's tables and sequences that must not
// change between a comparison by Streams and the end of a handover: whoever finds
// it unchanged need not compare again. It is cheap: no row is sorted or sent.
func Fingerprint(ctx context.Context, db postgres.DB) (string, error) {
	v := postgres.VersionOf(db)
	generated := "a.attgenerated"
	if v.Major() < 12 {
		generated = "''"
	}
	var sum string
	err := db.QueryRow(ctx, `
		SELECT pg_catalog.concat_ws(' ',
			(SELECT pg_catalog.concat_ws('/', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat_ws(' ', n.nspname, c.relname,
					c.oid, c.relkind, c.relpersistence, c.relreplident, c.relispartition))::bigint))
				FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
				WHERE c.relkind IN ('r', 'p', 'S') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton')),
			(SELECT pg_catalog.concat_ws('/', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat_ws(' ',
					a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attisdropped, `+generated+`))::bigint))
				FROM pg_catalog.pg_attribute a
				WHERE a.attnum > 0 AND a.attrelid >= 16384), -- no system catalog: FirstNormalObjectId
			(SELECT pg_catalog.concat_ws('/', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat_ws(' ', prpubid, prrelid))::bigint))
				FROM pg_catalog.pg_publication_rel),
			(SELECT pg_catalog.concat_ws('/', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat_ws(' ', srsubid, srrelid, srsubstate))::bigint))
				FROM pg_catalog.pg_subscription_rel))`).Scan(&sum)
	return sum, err
}
