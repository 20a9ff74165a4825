package journal_test

import (
	"errors"
	"maps"
	"testing"
	"time"

	"pgbaton/internal/journal"
	"pgbaton/internal/pgtest"
)

// TestEntries: what is put is read again, as what it is; what others wrote is damaged,
// and the statements for people put it right.
func TestEntries(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 10)
	conn := pgtest.Connect(t, server.ConnString("postgres"))
	ctx := t.Context()
	one := journal.One[map[string]int](journal.Name{Kind: "one", Key: "it's"})
	many := journal.Many[[]string](journal.Name{Kind: "many"})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, there, err := one.Get(ctx, conn); there || err != nil {
		t.Errorf("without a journal: %t, %v", there, err)
	}
	if all, err := many.List(ctx, conn); len(all) > 0 || err != nil {
		t.Errorf("without a journal: %v, %v", all, err)
	}
	if written, err := journal.Written(ctx, conn, time.Hour, journal.Attempt); written || err != nil {
		t.Errorf("without a journal: %t, %v", written, err)
	}
	pgtest.Exec(t, server.ConnString("postgres"), journal.SchemaSQL())

	must(one.Put(ctx, conn, map[string]int{"a": 1}))
	must(one.PutNew(ctx, conn, map[string]int{"a": 2}))
	v, at, err := one.At(ctx, conn)
	must(err)
	if v["a"] != 1 || at == nil || time.Since(*at).Abs() > time.Minute {
		t.Errorf("%v at %v", v, at)
	}
	must(one.Put(ctx, conn, map[string]int{"a": 3}))
	if v, _, _ := one.Get(ctx, conn); v["a"] != 3 {
		t.Errorf("%v is not replaced", v)
	}

	sql, err := many.PutSQL(map[string][]string{`"a"."b's"`: {`\`, "'"}, "c": nil})
	must(err)
	pgtest.Exec(t, server.ConnString("postgres"), sql, sql)
	all, err := many.List(ctx, conn)
	must(err)
	if !maps.EqualFunc(all, map[string][]string{`"a"."b's"`: {`\`, "'"}, "c": nil}, func(a, b []string) bool { return len(a) == len(b) }) {
		t.Errorf("%q", all)
	}
	must(many.Delete(ctx, conn, "c"))
	if any, err := many.Any(ctx, conn); !any || err != nil {
		t.Errorf("one is left: %t, %v", any, err)
	}

	pgtest.Exec(t, server.ConnString("postgres"), `UPDATE pgbaton.journal SET value = '"x"'`)
	_, _, err = one.Get(ctx, conn)
	damaged := (*journal.Damaged)(nil)
	if !errors.As(err, &damaged) || !damaged.Of(journal.Name{Kind: "one", Key: "it's"}) || damaged.Of(journal.Name{Kind: "one", Key: "its"}) {
		t.Fatalf("%v", err)
	}
	pgtest.Exec(t, server.ConnString("postgres"), damaged.SetSQL(`{"b": 4}`))
	if v, _, err := one.Get(ctx, conn); v["b"] != 4 || err != nil {
		t.Errorf("%v, %v", v, err)
	}
	pgtest.Exec(t, server.ConnString("postgres"), one.DeleteSQL())
	if _, there, err := one.Get(ctx, conn); there || err != nil {
		t.Errorf("still there: %t, %v", there, err)
	}
	if _, err := many.List(ctx, conn); !errors.As(err, &damaged) || !damaged.Of(journal.Name{Kind: "many"}) {
		t.Errorf("%v", err)
	}

	must(journal.Clear(ctx, conn, journal.Name{Kind: "many"}))
	members := journal.Many[map[string]string](journal.Name{Kind: "members"})
	must(members.Put(ctx, conn, "1", map[string]string{"group": "g1"}))
	must(members.Put(ctx, conn, "2", map[string]string{"group": "g2"}))
	must(members.DeleteWith(ctx, conn, "group", "g1"))
	must(one.Replaced(ctx, conn, journal.Name{Kind: "members", Key: "2"}, map[string]int{"c": 5}))
	if n := pgtest.QueryValue[int](t, conn, `SELECT count(*)::int FROM pgbaton.journal`); n != 1 {
		t.Errorf("%d entries are left", n)
	}

	upsert := members.UpsertSQL(`pg_catalog.jsonb_build_object('n', 'x')`, `excluded.value || j.value || '{"again": "yes"}'`)
	for range 2 {
		_, err := conn.Exec(ctx, upsert, "3")
		must(err)
	}
	_, err = conn.Exec(ctx, members.UpdateSQL(`value || '{"n": "y"}'`, `value ? 'again'`), "3")
	must(err)
	if v, _, err := members.Get(ctx, conn, "3"); v["n"] != "y" || v["again"] != "yes" || err != nil {
		t.Errorf("%v, %v", v, err)
	}
	for within, want := range map[time.Duration]bool{time.Hour: true, 0: false} {
		if written, err := journal.Written(ctx, conn, within, journal.Name{Kind: "members"}); written != want || err != nil {
			t.Errorf("within %s: %t, %v", within, written, err)
		}
	}
}
