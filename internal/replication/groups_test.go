package replication_test

import (
	"strings"
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

// TestWithheldLeft: a foreign key that some rows violate is said with the statements that
// make it what it was, once the rows are corrected; another look at it does the same.
func TestWithheldLeft(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	uri := pgtest.Start(t, 15).ConnString("postgres")
	conn := pgtest.Connect(t, uri)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(journal.Create(ctx, conn, journal.Record{Name: "m", ID: "1", Side: postgres.Target, Method: "stream"}, nil))
	pgtest.Exec(t, uri, `CREATE TABLE public.parent (i int PRIMARY KEY)`, `CREATE TABLE public."It's" (i int) PARTITION BY RANGE (i)`,
		`CREATE TABLE public.leaf PARTITION OF public."It's" DEFAULT`, `INSERT INTO public."It's" VALUES (1), (2)`, `INSERT INTO public.parent VALUES (1)`)
	const key = `ADD CONSTRAINT k FOREIGN KEY (i) REFERENCES public.parent`
	keys := []replication.WithheldKey{
		{Table: postgres.Ident{Schema: "public", Name: "leaf"}, Name: "k", Add: `ALTER TABLE ONLY public.leaf ` + key + ` NOT VALID`, Validate: `ALTER TABLE public.leaf VALIDATE CONSTRAINT k`},
		{Table: postgres.Ident{Schema: "public", Name: "It's"}, Name: "k", Whole: `ALTER TABLE public."It's" ` + key, Comment: `COMMENT ON CONSTRAINT k ON public."It's" IS 'kept'`},
	}
	as := func(when string, want bool) {
		t.Helper()
		if got := pgtest.QueryValue[bool](t, conn, `SELECT count(*) FILTER (WHERE convalidated) = 2 AND count(obj_description(oid, 'pg_constraint')) = 1
			FROM pg_constraint WHERE conname = 'k'`); got != want {
			t.Errorf("%s: the keys are as they were: %t", when, got)
		}
	}
	for _, again := range []bool{false, true} {
		must(pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return replication.Withhold(ctx, tx, keys) }))
		_, err := replication.AddWithheld(ctx, conn, keys)
		must(err)
		left, err := replication.ValidateWithheld(ctx, conn)
		must(err)
		as("with a row that violates it", false)
		const says = "correct the rows that the server names, or what else it says, then "
		if len(left) != 2 || !strings.Contains(left[0].Why, `Key (i)=(2) is not present in table "parent"`) || !strings.HasPrefix(left[0].Remedy, says) || !strings.HasPrefix(left[1].Remedy, says) {
			t.Fatalf("left: %+v", left)
		}
		pgtest.Exec(t, uri, `DELETE FROM public.leaf WHERE i = 2`)
		if again {
			if left, err = replication.ValidateWithheld(ctx, conn); len(left) > 0 {
				t.Errorf("left: %+v", left)
			}
			must(err)
		} else {
			for _, l := range left {
				pgtest.Exec(t, uri, strings.TrimPrefix(l.Remedy, says))
			}
		}
		as("as said", true)
		pgtest.Exec(t, uri, `ALTER TABLE public."It's" DROP CONSTRAINT k`, `INSERT INTO public.leaf VALUES (2)`)
	}
}
