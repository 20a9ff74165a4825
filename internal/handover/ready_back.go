package handover

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// orWithout is added to the remedies of what only a way back needs.
const orWithout = "; or hand over without a way back: --no-rollback"

// wayBackPossible looks whether a way back could be made.
func (l *look) wayBackPossible(ctx context.Context) error {
	if l.NoRollback {
		return nil
	}
	var level string
	var slots, senders int
	err := l.taker.QueryRow(ctx, `
		SELECT pg_catalog.current_setting('wal_level'),
			pg_catalog.current_setting('max_replication_slots')::int - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name <> $1)::int,
			pg_catalog.current_setting('max_wal_senders')::int - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication)::int`,
		l.Back.Name()).Scan(&level, &slots, &senders)
	if err != nil {
		return l.Taker.Wrap("reading settings", err)
	}
	side := string(l.Taker.Side)
	// All that needs a restart is said at once: one is enough.
	if !replication.Decodes(l.Taker.Version(), level) {
		l.say(fmt.Sprintf("wal_level is %s on the %s: nothing could flow back", level, side), "set it to logical and restart"+orWithout)
	}
	if slots < 1 {
		l.say("all replication slots of the "+side+" are in use: the way back needs one", "raise max_replication_slots and restart"+orWithout)
	}
	if senders < 1 {
		l.say("all WAL senders of the "+side+" are in use: the way back needs one", "raise max_wal_senders and restart"+orWithout)
	}
	elsewhere, err := replication.SlotElsewhere(ctx, l.taker, l.Back.Name())
	if err != nil {
		return l.Taker.Wrap("looking for slots", err)
	}
	if elsewhere != "" {
		l.say(fmt.Sprintf("the %s's cluster has a slot %s already, for database %s: the way back needs that name", side, l.Back.Name(), postgres.QuoteIdent(elsewhere)),
			"hand over when the migration of that database is finished"+orWithout)
	}
	tables, err := catalog.Shapes(ctx, l.taker, l.Selection)
	if err != nil {
		return l.Taker.Wrap("listing tables", err)
	}
	for i := range tables {
		t := &tables[i]
		switch {
		case t.Unlogged:
		case !t.UsableIdentity():
			l.say(fmt.Sprintf("table %s on the %s has no replica identity: once it is published for the way back, the application's UPDATEs and DELETEs would fail", t.Ident, side),
				"ALTER TABLE "+t.String()+" REPLICA IDENTITY FULL, there"+orWithout)
		}
	}
	if err := l.generated(ctx); err != nil {
		return err
	}
	if senders < 1 {
		return nil // nothing gets in
	}
	// A session of its own: creating a subscription, even one that is rolled
	// back, leaves locks until then.
	if err := replication.Probe(ctx, l.holder, l.Taker.Reach.For(l.Holder.Version())); err != nil {
		_, hint := replication.SubscribeFailure(l.Holder.Side, l.Holder.Version(), err)
		l.say(fmt.Sprintf("the %s's server cannot subscribe to the %s: %s", l.Holder.Side, side, postgres.Describe(err)), hint+orWithout)
	}
	return nil
}

// generatedSQL lists the tables whose replica identity holds a generated column, and
// whether they have a primary key without one.
const generatedSQL = `
SELECT n.nspname, c.relname, EXISTS (
	SELECT FROM pg_catalog.pg_index i
	WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate AND i.indisvalid
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
			WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND a.attnum = ANY (i.indkey::int2[])))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton')
	AND EXISTS (SELECT FROM pg_catalog.pg_attribute a
		WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped
			AND (c.relreplident = 'f' OR EXISTS (SELECT FROM pg_catalog.pg_index i
				WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
					AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident))))
ORDER BY 1, 2`

// generated looks for tables that a taker of 18 and newer cannot publish
// without refusing the application's writes
// (https://www.postgresql.org/docs/18/logical-replication-gencols.html).
func (l *look) generated(ctx context.Context) error {
	if l.Taker.Version().Major() < 18 {
		return nil
	}
	rows, err := l.taker.Query(ctx, generatedSQL)
	if err != nil {
		return l.Taker.Wrap("reading replica identities", err)
	}
	var t postgres.Ident
	var key bool
	_, err = pgx.ForEachRow(rows, []any{&t.Schema, &t.Name, &key}, func() error {
		// A column that is added now would not have the same values on both sides.
		byDefault := fmt.Sprintf("ALTER TABLE ONLY %s REPLICA IDENTITY DEFAULT", t)
		remedy := byDefault + ", there"
		if !key {
			remedy = fmt.Sprintf("if some of its columns are unique, on both sides ALTER TABLE ONLY %s ADD PRIMARY KEY (these columns) and %s; otherwise %s", t, byDefault, l.lost())
		}
		l.say(fmt.Sprintf("table %s has a generated column in its replica identity: PostgreSQL %s refuses UPDATE and DELETE of such a table once it is published for the way back", t, l.Taker.Version()),
			remedy+orWithout)
		return nil
	})
	return l.Taker.Wrap("reading replica identities", err)
}
