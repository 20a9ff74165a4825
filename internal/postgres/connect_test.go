package postgres_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// admitRule puts a rule before all others into a server's pg_hba.conf; "" takes those out
// again.
func admitRule(t *testing.T, c *cluster.Cluster, rule string) {
	t.Helper()
	name := filepath.Join(c.DataDir(), "pg_hba.conf")
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const mark = " # of this test\n"
	text := string(content)
	if at := strings.LastIndex(text, mark); at >= 0 {
		text = text[at+len(mark):]
	}
	if rule != "" {
		text = rule + mark + text
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Reload(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// TestConnectRemedies: a session that does not come about says what to do; then the next
// one does.
func TestConnectRemedies(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 17, map[string]string{"max_connections": "8", "superuser_reserved_connections": "0", "max_wal_senders": "1"})
	super := c.ConnString("postgres")
	pgtest.Exec(t, super, `CREATE DATABASE d`, `CREATE ROLE plain LOGIN REPLICATION`, `CREATE ROLE secretive LOGIN PASSWORD 'a secret'`)
	plain := c.ConnStringAs("plain", "", "d")
	admin := func(sql ...string) { t.Helper(); pgtest.Exec(t, super, sql...) }
	restart := func(settings map[string]string) {
		t.Helper()
		if err := c.Restart(t.Context(), settings); err != nil {
			t.Fatal(err)
		}
	}
	// hold keeps n sessions open. Those before may still be ending, and in the way.
	var held []*pgconn.PgConn
	hold := func(n int, uri string) {
		t.Helper()
		held = nil
		pgtest.Until(t, time.Minute, "sessions to hold", func() bool {
			if conn, err := pgconn.Connect(t.Context(), uri); err == nil {
				t.Cleanup(func() { conn.Close(context.Background()) })
				held = append(held, conn)
			}
			return len(held) == n
		})
	}
	where := fmt.Sprintf("127.0.0.1:%d", c.Port())
	const (
		limit  = "raise the limit that the server names (max_connections, max_wal_senders, or the CONNECTION LIMIT of the database or the role), or use fewer --jobs"
		reason = "remove the reason that the server gives, there or in --source"
	)
	for _, r := range []struct {
		name    string
		uri     string
		provoke func()
		says    string // the server's message, or the system's
		hint    string
		follow  func(hint string) // nil: through is another connection string
		through string            // instead of uri
		streams bool              // as a walsender
	}{
		{name: "no server", uri: plain, provoke: func() {
			if err := c.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, says: "refused", hint: "check that the server runs and that " + where + " is reachable from this machine", follow: func(string) { restart(nil) }},
		{name: "another port", uri: fmt.Sprintf("host=127.0.0.1 port=%d user=plain dbname=d", deadPort(t)), says: "refused",
			hint: "is reachable from this machine", through: plain},
		{name: "no such database", uri: c.ConnStringAs("plain", "", "dd"), says: `database "dd" does not exist`,
			hint: "check the database name in --source", through: plain},
		{name: "no such host", uri: fmt.Sprintf("host=127.0..1 port=%d user=plain dbname=d", c.Port()), says: "127.0..1",
			hint: "check the host name in --source", through: fmt.Sprintf("host=127.0.0.1 port=%d user=plain dbname=d", c.Port())},
		{name: "a wrong password", uri: c.ConnStringAs("secretive", "another", "d"), provoke: func() { admitRule(t, c, "host all secretive 127.0.0.1/32 scram-sha-256") },
			says: "password authentication failed", hint: `check user "secretive", its password (also PGPASSWORD and the password file) and pg_hba.conf on ` + where,
			through: c.ConnStringAs("secretive", "a secret", "d")},
		{name: "kept out by pg_hba.conf", uri: plain, provoke: func() { admitRule(t, c, "host d plain 127.0.0.1/32 reject") },
			says: "pg_hba.conf rejects connection", hint: `check user "plain", its password (also PGPASSWORD and the password file) and pg_hba.conf on ` + where,
			follow: func(string) { admitRule(t, c, "") }},
		{name: "no such role", uri: c.ConnStringAs("plane", "", "d"), says: `role "plane" does not exist`,
			hint: `check user "plane", its password`, through: plain},
		{name: "no CONNECT", uri: plain, provoke: func() { admin(`REVOKE CONNECT ON DATABASE d FROM PUBLIC`) },
			says: "permission denied for database", hint: `GRANT CONNECT ON DATABASE "d" TO "plain"`, follow: func(hint string) { admin(hint) }},
		{name: "no REPLICATION", uri: plain, streams: true, provoke: func() { admin(`ALTER ROLE plain NOREPLICATION`) },
			says: "permission denied to start WAL sender", hint: `ALTER ROLE "plain" REPLICATION`, follow: func(hint string) { admin(hint) }},
		{name: "a database that is closed", uri: plain, provoke: func() { admin(`ALTER DATABASE d ALLOW_CONNECTIONS false`) },
			says: "not currently accepting connections", hint: reason, follow: func(string) { admin(`ALTER DATABASE d ALLOW_CONNECTIONS true`) }},
		{name: "a setting that there is not", uri: plain + "&options=-c%20no_such%3D1", says: `unrecognized configuration parameter "no_such"`, hint: reason, through: plain},
		{name: "the database's limit", uri: plain, provoke: func() { hold(1, plain); admin(`ALTER DATABASE d CONNECTION LIMIT 1`) },
			says: `too many connections for database "d"`, hint: limit, follow: func(string) { admin(`ALTER DATABASE d CONNECTION LIMIT 5`) }},
		{name: "the role's limit", uri: plain, provoke: func() { admin(`ALTER ROLE plain CONNECTION LIMIT 1`) },
			says: `too many connections for role "plain"`, hint: limit, follow: func(string) { admin(`ALTER ROLE plain CONNECTION LIMIT 5`); held[0].Close(context.Background()) }},
		{name: "too many sessions", uri: super, provoke: func() { hold(8, super) },
			says: "too many clients already", hint: limit, follow: func(string) { // fewer of our own
				for _, conn := range held[:4] {
					conn.Close(context.Background())
				}
				pgtest.Until(t, time.Minute, "four sessions are left", func() bool {
					r := held[4].ExecParams(t.Context(), `SELECT count(*) = 4 FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'`, nil, nil, nil, nil).Read()
					return r.Err == nil && string(r.Rows[0][0]) == "t"
				})
			}},
		{name: "as many again", uri: super, provoke: func() { hold(4, super) },
			says: "too many clients already", hint: limit, follow: func(string) {
				restart(map[string]string{"max_connections": "30"})
				hold(8, super)
			}},
		{name: "too many walsenders", uri: plain, streams: true, provoke: func() { hold(1, plain+"&replication=database") },
			says: "max_wal_senders", hint: limit, follow: func(string) {
				restart(map[string]string{"max_wal_senders": "3"})
				hold(1, plain+"&replication=database")
			}},
	} {
		open := func(uri string) error {
			s := server(t, "%s", uri)
			if r.streams {
				conn, err := s.ConnectReplication(t.Context())
				if err == nil {
					conn.Close(context.Background())
				}
				return err
			}
			conn, err := s.Connect(t.Context())
			if err == nil {
				conn.Close(context.Background())
			}
			return err
		}
		if r.provoke != nil {
			r.provoke()
		}
		err := open(r.uri)
		hint := postgres.Hint(err)
		if err == nil || !strings.Contains(err.Error(), r.says) || !strings.Contains(hint, r.hint) {
			t.Fatalf("%s: want %q and %q\n%v; hint: %s", r.name, r.says, r.hint, err, hint)
		}
		uri := r.uri
		if r.follow != nil {
			r.follow(hint)
		} else {
			uri = r.through
		}
		if err := open(uri); err != nil {
			t.Errorf("%s: the remedy does not help: %v", r.name, err)
		}
	}
}
