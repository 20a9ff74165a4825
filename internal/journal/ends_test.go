package journal_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/journal"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

func TestSame(t *testing.T) {
	t.Parallel()
	d := journal.Database{System: "1", OID: 5, Name: "shop", Address: "old:5432/shop"}
	for name, test := range map[string]struct {
		other journal.Database
		want  bool
	}{
		"itself, by another address":   {journal.Database{System: "1", OID: 5, Name: "shop", Address: "new:1/shop"}, true},
		"renamed":                      {journal.Database{System: "1", OID: 5, Name: "shop2"}, true},
		"another server's":             {journal.Database{System: "2", OID: 5, Name: "shop"}, false},
		"another one of the server":    {journal.Database{System: "1", OID: 6, Name: "crm"}, false},
		"made again under its name":    {journal.Database{System: "1", OID: 6, Name: "shop"}, false},
		"still to be made":             {journal.Database{System: "1", Name: "shop"}, true},
		"another one, still to come":   {journal.Database{System: "1", Name: "crm"}, false},
		"of a server that is not told": {journal.Database{OID: 5, Name: "shop"}, true},
	} {
		if got := d.Same(test.other); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
		if got := test.other.Same(d); got != test.want {
			t.Errorf("%s, asked the other way: %t", name, got)
		}
	}
}

// TestRecord: what Create writes Read returns; a record from before the ends were
// recorded keeps its names.
func TestRecord(t *testing.T) {
	t.Parallel()
	conn := pgtest.Connect(t, pgtest.Start(t, 12).ConnString("postgres"))
	if r, err := journal.Read(t.Context(), conn); err != nil || r != nil {
		t.Fatalf("before: %v, %v", r, err)
	}
	id := journal.NewID()
	ends := journal.Ends{Label: journal.Label("my move", id), Source: journal.Database{System: "1", OID: 1, Name: "a", Address: "h:1/a"}}
	err := journal.Create(t.Context(), conn, journal.Record{Name: "my move", ID: id, Side: postgres.Source, Method: "stream", Ends: &ends},
		func(tx pgx.Tx) error {
			return journal.One[int](journal.Name{Kind: "kind", Key: "key"}).Put(t.Context(), tx, 1)
		})
	if err != nil {
		t.Fatal(err)
	}
	r, err := journal.Read(t.Context(), conn)
	if err != nil || r == nil || *r.Ends != ends || r.Label() != ends.Label || !r.Took {
		t.Fatalf("%+v, %v", r, err)
	}
	ends.Target = journal.Database{Name: "b"}
	if err := journal.PutEnds(t.Context(), conn, ends); err != nil {
		t.Fatal(err)
	}
	if r, err = journal.Read(t.Context(), conn); err != nil || r.Ends.Of(postgres.Target) != ends.Target {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := conn.Exec(t.Context(), `ALTER TABLE pgbaton.migration DROP COLUMN ends`); err != nil {
		t.Fatal(err)
	}
	if r, err = journal.Read(t.Context(), conn); err != nil || r.Ends != nil || r.Label() != "my move" {
		t.Fatalf("an old record: %+v, %v", r, err)
	}
	if err := journal.PutEnds(t.Context(), conn, ends); err != nil {
		t.Fatalf("an old record: %v", err)
	}
}

// TestIs: a database is recognised under any address, and taken for the one in
// whose place it was made only where the old one is gone.
func TestIs(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 15)
	conn := pgtest.Connect(t, c.ConnString("postgres"))
	server, err := postgres.NewServer(postgres.Target, c.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	here, err := journal.ReadDatabase(t.Context(), conn, server)
	if err != nil || here.System == "" || here.OID == 0 || here.Name != "postgres" {
		t.Fatalf("%+v, %v", here, err)
	}
	oid := pgtest.QueryValue[uint32](t, conn, `SELECT oid FROM pg_database WHERE datname = 'template1'`)
	for name, test := range map[string]struct {
		was  journal.Database
		want bool
	}{
		"itself":                  {here, true},
		"in place of one gone":    {journal.Database{System: here.System, OID: 1 << 30, Name: "postgres"}, true},
		"beside the one":          {journal.Database{System: here.System, OID: oid, Name: "postgres"}, false},
		"of another server, gone": {journal.Database{System: "1", OID: 1 << 30, Name: "postgres"}, false},
		"of another name, gone":   {journal.Database{System: here.System, OID: 1 << 30, Name: "crm"}, false},
	} {
		if got, err := test.was.Is(t.Context(), conn, here); err != nil || got != test.want {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
}
