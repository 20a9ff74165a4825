package replication_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/journal"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// TestWithheld: foreign keys that were held back are added, and taken back, also when a
// table of one of them was dropped since: that one is told, and forgotten at the end.
func TestWithheld(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	conn := pgtest.Connect(t, pgtest.Start(t, 15).ConnString("postgres"))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(journal.Create(ctx, conn, journal.Record{Name: "m", ID: "1", Side: postgres.Target, Method: "stream"}, nil))
	var keys []replication.WithheldKey
	for _, name := range []string{"a", "b", "c"} {
		_, err := conn.Exec(ctx, `CREATE TABLE public.`+name+`_to (i int PRIMARY KEY); CREATE TABLE public.`+name+` (i int)`)
		must(err)
		keys = append(keys, replication.WithheldKey{Table: postgres.Ident{Schema: "public", Name: name}, Name: "k",
			Add:      `ALTER TABLE public.` + name + ` ADD CONSTRAINT k FOREIGN KEY (i) REFERENCES public.` + name + `_to NOT VALID`,
			Validate: `ALTER TABLE public.` + name + ` VALIDATE CONSTRAINT k`})
	}
	must(pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return replication.Withhold(ctx, tx, keys) }))
	_, err := conn.Exec(ctx, `DROP TABLE public.a; DROP TABLE public.b_to`)
	must(err)
	there := func() int {
		return pgtest.QueryValue[int](t, conn, `SELECT count(*)::int FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conname = 'k'`)
	}
	for _, again := range []bool{false, true} {
		gone, err := replication.AddWithheld(ctx, conn, keys)
		must(err)
		if len(gone) != 2 || gone[0].Table.Name != "a" || gone[1].Table.Name != "b" || there() != 1 {
			t.Errorf("gone: %v; %d keys are there", gone, there())
		}
		if !again {
			must(replication.DropWithheld(ctx, conn, keys))
			if there() != 0 {
				t.Error("a key is still there")
			}
		}
	}
	left, err := replication.ValidateWithheld(ctx, conn)
	must(err)
	rest, err := replication.Withheld(ctx, conn)
	must(err)
	if len(left)+len(rest) > 0 {
		t.Errorf("left: %v, remembered: %v", left, rest)
	}
}
