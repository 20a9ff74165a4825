package replication_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// TestKnownTerms: what each pair of versions is given, and that a server which is
// told of it by nobody else knows the option.
func TestKnownTerms(t *testing.T) {
	for _, c := range []struct {
		publisher, subscriber int
		want                  string
	}{
		{10, 13, ""}, {13, 17, "run_as_owner = true"}, {17, 13, ""},
		{14, 15, "streaming = on"}, {15, 18, "streaming = on, run_as_owner = true"}, {18, 15, "streaming = on"},
		{16, 18, "streaming = parallel, run_as_owner = true"}, {18, 16, "streaming = parallel, run_as_owner = true"},
		{17, 18, "streaming = parallel, failover = true, run_as_owner = true"},
	} {
		terms := replication.KnownTerms(postgres.Version(c.publisher*10000), postgres.Version(c.subscriber*10000), false)
		sql := replication.SubscriptionSQL("s", postgres.Conninfo{"host": "x"}, terms)
		_, options, _ := strings.Cut(sql[0], "slot_name = 's'")
		if got := strings.TrimPrefix(strings.TrimSuffix(options, ")"), ", "); got != c.want {
			t.Errorf("from %d to %d: %q, want %q", c.publisher, c.subscriber, got, c.want)
		}
	}
}

// TestDecodes: from 19 on wal_level = replica is enough.
func TestDecodes(t *testing.T) {
	for level, since := range map[string]int{"logical": 10, "replica": 19, "minimal": 99} {
		for major := 10; major <= 20; major++ {
			if got := replication.Decodes(postgres.Version(major*10000), level); got != (major >= since) {
				t.Errorf("%d with wal_level = %s: %t", major, level, got)
			}
		}
	}
}

// TestServerTerms: from 19 on the connection string is in a foreign server of ours,
// the secrets in its user mapping, where the database has a wrapper for it.
func TestServerTerms(t *testing.T) {
	t.Parallel()
	conn := pgtest.Connect(t, pgtest.Start(t, 19).ConnString("postgres"))
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec("CREATE SCHEMA elsewhere; CREATE ROLE plain; SET search_path = ''")
	const v = postgres.Version(190000)
	for _, c := range []struct {
		name, before string
		want         bool
	}{
		{"without the extension", "SELECT 1", false},
		{"with an old one", "CREATE EXTENSION postgres_fdw SCHEMA elsewhere VERSION '1.2'", false},
		{"with a new one", "ALTER EXTENSION postgres_fdw UPDATE", true},
		{"without the right to use it", "SET ROLE plain", false},
		{"with it", "RESET ROLE; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO plain; SET ROLE plain", true},
	} {
		exec(c.before)
		terms, err := replication.TermsFor(t.Context(), conn, v, "demo", 1, false)
		if err != nil || terms.Server != c.want {
			t.Errorf("%s: %t, %v", c.name, terms.Server, err)
		}
	}
	secrets := postgres.Conninfo{"host": "o'x", "user": `M "y"`, "password": `p'\ w`, "sslpassword": "sp"}
	sql := replication.SubscriptionSQL(`s "1"`, secrets, replication.Terms{Server: true})
	exec("RESET ROLE")
	for i, s := range sql {
		if has := strings.Contains(s, " w'"); has != (i == 1) {
			t.Errorf("the password is in %s", s)
		}
		if i < 2 { // the third would connect
			exec(s)
		}
	}
	if got := pgtest.QueryValue[[]string](t, conn, `SELECT umoptions FROM pg_catalog.pg_user_mappings`); len(got) != 3 || got[0] != `password=p'\ w` {
		t.Errorf("%q", got)
	}
}

// TestParallelApplyNeedsWorkers: large transactions are applied while they run only
// where each stream has all the workers that it may take.
func TestParallelApplyNeedsWorkers(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 18, map[string]string{"max_logical_replication_workers": "7", "max_worker_processes": "8"})
	conn := pgtest.Connect(t, server.ConnString("postgres"))
	const v = postgres.Version(180000)
	for _, c := range []struct {
		each    int
		others  int
		streams int
		want    string
	}{
		{2, 0, 1, "parallel"}, {2, 0, 2, "parallel"}, {2, 0, 3, "on"}, {2, 2, 2, "on"}, {6, 0, 1, "parallel"}, {7, 0, 1, "on"}, {0, 0, 1, "on"},
	} {
		t.Run(fmt.Sprintf("%d each, %d others, %d streams", c.each, c.others, c.streams), func(t *testing.T) {
			for _, sql := range []string{fmt.Sprintf("ALTER SYSTEM SET max_parallel_apply_workers_per_subscription = %d", c.each), "SELECT pg_reload_conf()"} {
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			pgtest.Until(t, time.Minute, "the setting is read", func() bool {
				return pgtest.QueryValue[string](t, conn, `SHOW max_parallel_apply_workers_per_subscription`) == fmt.Sprint(c.each)
			})
			tx, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(t.Context())
			for i := range c.others { // enabled, but never committed: no worker starts
				sql := fmt.Sprintf("CREATE SUBSCRIPTION other_%[1]d CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false); UPDATE pg_subscription SET subenabled = true", i)
				if _, err := tx.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			terms, err := replication.TermsFor(t.Context(), tx, v, "demo", c.streams, false)
			if err != nil || terms.Streaming != c.want {
				t.Errorf("streaming %q, want %q (%v)", terms.Streaming, c.want, err)
			}
		})
	}
}
