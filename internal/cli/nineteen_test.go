package cli_test

import (
	"strings"
	"testing"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// TestNineteen: servers of 19 need no restart for wal_level, and their subscriptions
// have the connection string from a foreign server, which leaves nothing behind.
func TestNineteen(t *testing.T) {
	t.Parallel()
	replica := map[string]string{"wal_level": "replica"}
	m := &move{t: t, db: "app",
		source: pgtest.StartOptions(t, cluster.Options{Major: 19, Settings: replica, Password: "s3cr3t-s"}),
		target: pgtest.StartOptions(t, cluster.Options{Major: 19, Settings: replica, Password: "s3cr3t-t"})}
	m.load(pgtest.WriterSchema, `CREATE EXTENSION postgres_fdw`)
	before := dump(t, m.source, m.db)
	w := pgtest.StartWriters(t.Context(), t, m.sourceURI(), 2, pgtest.WritersOptions{Rate: 40})
	// secret counts the servers, and where else than in their mappings the other
	// side's password is.
	look := func(c *cluster.Cluster, secret string) {
		t.Helper()
		conn := pgtest.Connect(t, c.ConnString(m.db))
		if n := pgtest.QueryValue[int](t, conn, `SELECT count(*) FROM pg_subscription s JOIN pg_foreign_server f ON f.oid = s.subserver
			JOIN pg_user_mappings u ON u.srvid = f.oid WHERE s.subconninfo IS NULL AND u.umoptions::text LIKE '%' || $1 || '%'`, secret); n != 1 {
			t.Errorf("%d subscriptions through a server", n)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}

	if r := m.run(0, "check"); strings.Contains(r.Stdout, "wal_level") {
		t.Errorf("%s", r.Stdout)
	}
	if r := m.run(0, "plan"); strings.Count(r.Stdout, "CREATE USER MAPPING FOR CURRENT_USER SERVER") != 2 || strings.Contains(r.Stdout, "s3cr3t") {
		t.Errorf("%s", r.Stdout)
	}
	m.run(0, "start")
	look(m.target, "s3cr3t-s")
	if err := w.Await(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	m.handOver(t.Context(), w, "switchover", m.targetURI())
	look(m.source, "s3cr3t-t")
	m.handOver(t.Context(), w, "rollback", m.sourceURI())
	m.handOver(t.Context(), w, "switchover", m.targetURI())
	w.Stop()
	if problems := w.Check(t.Context(), pgtest.Connect(t, m.targetURI())); len(problems) > 0 {
		t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
	}
	m.run(0, "finish", "--yes", "--unfence")
	equal(t, "the source", before, dump(t, m.source, m.db))
	if n := pgtest.QueryValue[int](t, pgtest.Connect(t, m.targetURI()), `SELECT count(*) FROM pg_foreign_server`); n != 0 {
		t.Errorf("%d foreign servers are left on the target", n)
	}
	for _, c := range []*cluster.Cluster{m.source, m.target} {
		if log := c.Log(); strings.Contains(log, "s3cr3t") {
			t.Errorf("a password is in the log:\n%s", grep(log, "s3cr3t"))
		}
	}
}
