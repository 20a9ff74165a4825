package replication_test

import (
	"testing"

	"pgbaton/internal/journal"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// TestLocateIdentities: what else is in the journal is no table's name, and a plan that
// reads it from end to end must not take it for one.
func TestLocateIdentities(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 15)
	pgtest.Exec(t, server.ConnString("postgres"), journal.SchemaSQL(), `CREATE TABLE public."a table" (i int)`)
	conn := pgtest.Connect(t, server.ConnString("postgres"))
	for _, key := range []string{"", "rest began", `"`, "a.b.c.d"} {
		if err := journal.Put(t.Context(), conn, "copy", key, "x"); err != nil {
			t.Fatal(err)
		}
	}
	c := replication.IdentityChange{Table: postgres.Ident{Schema: "public", Name: "a table"}}
	if err := c.RememberAhead(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, server.ConnString("postgres"), `ANALYZE pgbaton.journal`)
	if err := replication.LocateIdentities(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if !pgtest.QueryValue[bool](t, conn, `SELECT (value ->> 'oid')::oid = 'public."a table"'::regclass FROM pgbaton.journal WHERE kind = 'replica-identity'`) {
		t.Error("the table was not found")
	}
}
