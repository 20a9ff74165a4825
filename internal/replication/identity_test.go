package replication_test

import (
	"strings"
	"testing"

	"pgbaton/internal/catalog"
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
		if err := journal.Many[string](journal.Progress).Put(t.Context(), conn, key, "x"); err != nil { // another kind
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

// TestRestoreIdentitiesLeft: what the role may not put back is said with the statement
// that does, and forgotten.
func TestRestoreIdentitiesLeft(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 15)
	super := server.ConnString("postgres")
	pgtest.Exec(t, super, `CREATE ROLE mover LOGIN`, `GRANT CREATE ON DATABASE postgres TO mover`, `CREATE TABLE public."It's" (i int NOT NULL)`,
		`CREATE UNIQUE INDEX "the key" ON public."It's" (i)`, `ALTER TABLE public."It's" REPLICA IDENTITY FULL`)
	mover := server.ConnStringAs("mover", "", "postgres")
	pgtest.Exec(t, mover, journal.SchemaSQL())
	conn := pgtest.Connect(t, mover)
	c := replication.IdentityChange{Table: postgres.Ident{Schema: "public", Name: "It's"}, Old: catalog.IdentityIndex, OldIndex: "the key", New: catalog.IdentityFull}
	if err := c.Remember(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	restored, left, err := replication.RestoreIdentities(t.Context(), conn)
	if err != nil || restored != 0 || len(left) != 1 || !strings.Contains(left[0].Why, `replica identity of "public"."It's" is still FULL: ERROR: must be owner of table It's`) {
		t.Fatalf("%d restored, left: %+v, %v", restored, left, err)
	}
	pgtest.Exec(t, super, left[0].Remedy)
	if !pgtest.QueryValue[bool](t, conn, `SELECT c.relreplident = 'i' AND i.indisreplident FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid WHERE c.relname = 'It''s'`) {
		t.Errorf("the remedy does not help: %s", left[0].Remedy)
	}
	if restored, left, err = replication.RestoreIdentities(t.Context(), conn); restored != 0 || len(left) != 0 || err != nil {
		t.Errorf("once more: %d restored, left: %+v, %v", restored, left, err)
	}
}
