package postgres_test

import (
	"errors"
	"testing"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// TestEnded tells a session that was ended, or not let in, from other failures.
func TestEnded(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 15)
	admin := c.ConnString("postgres")
	pgtest.Exec(t, admin, `CREATE DATABASE closed`, `REVOKE CONNECT ON DATABASE closed FROM PUBLIC`, `CREATE ROLE guest LOGIN`)
	proxy := pgtest.NewProxy(t, admin)
	ask := func(conn *postgres.Session, sql string) error {
		_, err := conn.Exec(t.Context(), sql)
		return err
	}
	open := func(uri string) *postgres.Session {
		t.Helper()
		conn, err := serverAt(t, uri).Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(t.Context()) })
		return conn
	}
	ended, broken, well := open(admin), open(proxy.Through(t, admin)), open(admin)
	pgtest.Exec(t, admin, `SELECT pg_terminate_backend(`+pgtest.QueryValue[string](t, ended, `SELECT pg_backend_pid()::text`)+`)`)
	proxy.Cut()
	_, notLetIn := serverAt(t, c.ConnStringAs("guest", "", "closed")).Connect(t.Context())
	_, noDatabase := serverAt(t, c.ConnString("nowhere")).Connect(t.Context())
	for _, e := range []struct {
		what  string
		err   error
		ended bool
	}{
		{"ended", ask(ended, `SELECT 1`), true},
		{"ended before", ask(ended, `SELECT 1`), true},
		{"broken", ask(broken, `SELECT 1`), true},
		{"not let in", notLetIn, true},
		{"no such database", noDatabase, false},
		{"not allowed", ask(well, `DO $$ BEGIN RAISE insufficient_privilege; END $$`), false},
		{"wrong", ask(well, `SELECT 1 / 0`), false},
		{"something else", errors.New("something else"), false},
	} {
		if is := postgres.Ended(e.err); e.err == nil || is != e.ended {
			t.Errorf("%s: %t: %v", e.what, is, e.err)
		}
	}
	if postgres.Ended(nil) {
		t.Error("no error is one")
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := serverAt(t, admin).Connect(t.Context()); err == nil || postgres.Ended(err) {
		t.Errorf("no server: %v", err)
	}
}
