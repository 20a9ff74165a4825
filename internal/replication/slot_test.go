package replication_test

import (
	"context"
	"strings"
	"testing"

	"pgbaton/internal/event"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// TestSlotRemedies: what keeps a slot from being made is said with what helps, and then
// the slot is made.
func TestSlotRemedies(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 15, map[string]string{"max_replication_slots": "1", "max_prepared_transactions": "1"})
	uri, elsewhere := c.ConnString("postgres"), c.ConnString("other")
	pgtest.Exec(t, uri, `CREATE DATABASE other`)
	pgtest.Exec(t, elsewhere, `CREATE TABLE t (i int)`)
	server, err := postgres.NewServer(postgres.Source, uri)
	if err != nil {
		t.Fatal(err)
	}
	const name = "pgbaton_m_forward_1"
	// try makes the slot, as start does after removing what an earlier one has left.
	try := func(ctx context.Context, observe event.Observer) error {
		t.Helper()
		conn, err := server.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := replication.DropSlots(t.Context(), conn, replication.Exactly(name)); err != nil {
			t.Fatal(err)
		}
		slot, err := replication.CreateSlot(ctx, server, conn, name, true, observe)
		if err == nil {
			err = slot.Close(t.Context())
		}
		return err
	}
	refused := func(err error, says string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "creating replication slot "+name) || postgres.Hint(err) != says {
			t.Fatalf("want %q\n%v; hint: %s", says, err, postgres.Hint(err))
		}
	}
	made := func() {
		t.Helper()
		if err := try(t.Context(), func(event.Event) {}); err != nil {
			t.Errorf("the remedy does not help: %v", err)
		}
		pgtest.Exec(t, uri, `SELECT pg_drop_replication_slot('`+name+`')`)
	}

	const another = `SELECT pg_create_physical_replication_slot('another')`
	const full = "all replication slots are in use: drop one, or raise max_replication_slots and restart"
	pgtest.Exec(t, uri, another)
	refused(try(t.Context(), func(event.Event) {}), full)
	pgtest.Exec(t, uri, `SELECT pg_drop_replication_slot('another')`)
	made()
	pgtest.Exec(t, uri, another)
	refused(try(t.Context(), func(event.Event) {}), full)
	if err := c.Restart(t.Context(), map[string]string{"max_replication_slots": "2"}); err != nil {
		t.Fatal(err)
	}
	made()

	pgtest.Hold(t, elsewhere, `INSERT INTO t VALUES (1)`)
	pgtest.Exec(t, elsewhere, `BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'p'`)
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	var behind []string
	err = try(ctx, func(e event.Event) {
		if w, ok := e.(event.Waiting); ok {
			behind = w.Behind
			giveUp()
		}
	})
	refused(err, "it waits for every open transaction that has written, in any database of the cluster: wait for them, or end them: pg_terminate_backend for the sessions with a backend_xid in pg_stat_activity, COMMIT PREPARED or ROLLBACK PREPARED for what is in pg_prepared_xacts")
	if len(behind) != 2 {
		t.Errorf("it waits for %q", behind)
	}
	if n := pgtest.QueryValue[int](t, pgtest.Connect(t, uri), `SELECT count(pg_terminate_backend(pid, 10000))::int FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = 'other'`); n != 1 {
		t.Errorf("%d sessions have a backend_xid", n)
	}
	pgtest.Exec(t, elsewhere, `ROLLBACK PREPARED 'p'`)
	made()
}
