package schema_test

import (
	"fmt"
	"slices"
	"testing"

	"pgbaton/internal/catalog"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// TestConfigWrite: a role whose session keeps triggers and foreign keys from acting may
// write the rows of extensions, whoever has let it; others may not. Where a trigger of
// the extension cannot be fired, the rows are written, and it is said.
func TestConfigWrite(t *testing.T) {
	t.Parallel()
	for major, allow := range map[int]string{
		12: `ALTER ROLE mover SET session_replication_role = replica`, // as a managed service's role: not by a right that a catalog has
		18: `GRANT SET ON PARAMETER session_replication_role TO mover`,
	} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Start(t, major)
			uri := c.ConnString("postgres")
			pgtest.Exec(t, uri, `CREATE ROLE mover LOGIN`, `CREATE SCHEMA stuff`, `CREATE TABLE stuff.jobs (id int PRIMARY KEY, "a, b" text)`, `INSERT INTO stuff.jobs VALUES (1, 'old')`,
				`CREATE TABLE stuff.runs (job int REFERENCES stuff.jobs ON DELETE CASCADE)`, `INSERT INTO stuff.runs VALUES (1)`,
				`CREATE FUNCTION stuff.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'of the extension'; END $$`,
				`CREATE TRIGGER fail AFTER UPDATE OF "a, b" ON stuff.jobs EXECUTE PROCEDURE stuff.fail()`,
				`GRANT USAGE ON SCHEMA stuff TO mover`, `GRANT ALL ON stuff.jobs TO mover`,
				`ALTER EXTENSION plpgsql ADD FUNCTION stuff.fail()`, `ALTER EXTENSION plpgsql ADD TABLE stuff.jobs`,
				`UPDATE pg_extension SET extconfig = ARRAY['stuff.jobs'::regclass::oid], extcondition = '{""}' WHERE extname = 'plpgsql'`)
			tables := func() ([]catalog.ConfigTable, func(schema.Config) (error, error)) {
				t.Helper()
				server, err := postgres.NewServer(postgres.Target, c.ConnStringAs("mover", "", "postgres"))
				if err != nil {
					t.Fatal(err)
				}
				conn, err := server.Connect(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close(t.Context()) })
				all, err := catalog.ConfigTables(t.Context(), conn)
				if err != nil || len(all) != 1 {
					t.Fatalf("%d tables, %v", len(all), err)
				}
				return all, func(c schema.Config) (error, error) { return c.Write(t.Context(), conn, []byte("2\tnew\n")) }
			}
			if all, _ := tables(); all[0].Writable {
				t.Error("writable by a role for which triggers fire")
			}
			pgtest.Exec(t, uri, allow)
			all, write := tables()
			if !all[0].Writable {
				t.Fatal("not writable by a role for which no trigger fires")
			}
			if !slices.Equal(all[0].Heeds, []string{"UPDATE"}) || len(all[0].Deaf) > 0 {
				t.Errorf("heeds %q, deaf %q", all[0].Heeds, all[0].Deaf)
			}
			unheard, err := write(schema.Config{From: all[0], To: all[0]})
			want := "P0001"
			if major == 12 {
				want = postgres.InsufficientPrivilege // to set the other role
			}
			if err != nil || postgres.Code(unheard) != want {
				t.Errorf("written: %v; heard: %v", err, unheard)
			}
			conn := pgtest.Connect(t, uri)
			if got := pgtest.QueryValue[string](t, conn, `SELECT (SELECT string_agg(j::text, ' ') FROM stuff.jobs j) || (SELECT string_agg(r::text, ' ') FROM stuff.runs r)`); got != "(2,new)(1)" {
				t.Errorf("there is %s", got)
			}

			pgtest.Exec(t, uri, `CREATE RULE mine AS ON UPDATE TO stuff.jobs DO ALSO INSERT INTO stuff.runs VALUES (2)`)
			all, _ = tables()
			if len(all[0].Heeds) > 0 || !slices.Equal(all[0].Deaf, []string{"fail"}) {
				t.Errorf("with a rule: heeds %q, deaf %q", all[0].Heeds, all[0].Deaf)
			}
		})
	}
}
