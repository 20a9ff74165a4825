package preflight_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgbaton/internal/cluster"
	"pgbaton/internal/demo/shop"
	"pgbaton/internal/journal"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
)

// TestHealthy: between healthy servers the shop gives a few notes and no blocker,
// quickly, and nothing is changed. A database of traps, but without what cannot
// be moved, has no blocker either.
func TestHealthy(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{12, 17}, {15, 18}} {
		t.Run(fmt.Sprintf("%d to %d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Start(t, pair[0]), pgtest.Start(t, pair[1])
			pgtest.Exec(t, source.ConnString("postgres"), `CREATE ROLE shop LOGIN`, `CREATE DATABASE shop OWNER shop`)
			owner := pgtest.Connect(t, source.ConnStringAs("shop", "", "shop"))
			if err := shop.Load(t.Context(), owner.Conn, shop.Size{}); err != nil {
				t.Fatal(err)
			}
			before := catalogs(t, source, "shop") + catalogs(t, target, "postgres")
			var r preflight.Report
			var took []time.Duration // the machine may be busy with something else
			for range 3 {
				began := time.Now()
				r = run(t, source, target, options{db: "shop", jobs: 4})
				took = append(took, time.Since(began))
				if took[len(took)-1] < 2*time.Second {
					break
				}
			}
			if slices.Min(took) > 2*time.Second {
				t.Errorf("checks took %s", took)
			}
			t.Logf("the check took %s", took)
			if after := catalogs(t, source, "shop") + catalogs(t, target, "postgres"); after != before {
				t.Errorf("the check changed something:\n%s\nwas\n%s", after, before)
			}
			var codes []string
			for _, f := range r.Findings {
				codes = append(codes, string(f.Severity)+" "+f.Code)
			}
			expected := []string{"warning no-replica-identity", "warning roles-missing", "info ddl", "info materialized-views", "info target-database"}
			if !slices.Equal(codes, expected) {
				t.Errorf("found %q, expected %q\n%s", codes, expected, print(r))
			}
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}

			pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE nasty`)
			pgtest.Exec(t, source.ConnString("nasty"), pgtest.NastySQL(pair[0]))
			for _, method := range []string{"stream", "native", "dump"} {
				if r := run(t, source, target, options{db: "nasty", method: method}); len(r.Blockers()) > 0 {
					t.Errorf("blockers for method %s:\n%s", method, print(preflight.Report{Findings: r.Blockers()}))
				}
			}
		})
	}
}

// TestConnect: whoever cannot be reached is a finding that names the side, and
// the other side is looked at all the same.
func TestConnect(t *testing.T) {
	t.Parallel()
	const secret = "correct horse battery"
	source := pgtest.StartOptions(t, cluster.Options{Major: 12, Password: secret})
	target := pgtest.Start(t, 12, map[string]string{"wal_level": "replica"})
	pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE d`)
	good := options{db: "d", sourcePw: secret, method: "stream"}

	r := run(t, source, target, good)
	wantNot(t, r, "connect", postgres.Source)
	wantNot(t, r, "connect", postgres.Target)

	bad := good
	bad.sourcePw = "a wrong password"
	r = run(t, source, target, bad)
	f := want(t, r, "connect", postgres.Source, preflight.Blocker)
	if !strings.Contains(f.Text, postgres.InvalidPassword) || !strings.Contains(f.Remedy, "password") {
		t.Errorf("a wrong password: %+v", f)
	}
	want(t, r, "wal-level", postgres.Target, preflight.Blocker) // the other side

	bad = good
	bad.db = "nothing here"
	want(t, run(t, source, target, bad), "connect", postgres.Source, preflight.Blocker)

	bad = good
	bad.targetURI = "postgresql://postgres:" + secret + "@nowhere.invalid:5432/d?sslmode=disable"
	r = run(t, source, target, bad)
	want(t, r, "connect", postgres.Target, preflight.Blocker)
	wantNot(t, r, "wal-level", postgres.Source)

	// A server's refusal of the other server shows as well, without its password.
	bad = good
	bad.sourceFromTarget = source.ConnStringAs("postgres", "quite another", "d")
	want(t, run(t, source, target, bad), "probe-source-from-target", postgres.Target, preflight.Blocker)
}

// TestKeywords: a subscriber whose libpq is too old for a keyword of the connection
// string connects without it, and check says so; options come along.
func TestKeywords(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 12), pgtest.Start(t, 18)
	for _, c := range []*cluster.Cluster{source, target} {
		pgtest.Exec(t, c.ConnString("postgres"), `CREATE DATABASE d`)
	}
	o := options{db: "d", targetURI: target.ConnString("d") + "&channel_binding=disable&sslsni=0&load_balance_hosts=random&options=-c%20work_mem%3D5MB"}
	r := run(t, source, target, o)
	f := want(t, r, "connection-keywords", postgres.Source, preflight.Warning)
	if !slices.Equal(f.Objects, []string{"channel_binding", "sslsni"}) {
		t.Errorf("%+v", f)
	}
	wantNot(t, r, "connection-keywords", postgres.Target)
	wantNot(t, r, "probe-target-from-source", postgres.Source)
	_, remedy, _ := strings.Cut(f.Remedy, "--target-from-source \"")
	o.targetFromSource, _, _ = strings.Cut(remedy, "\"")
	r = run(t, source, target, o)
	wantNot(t, r, "connection-keywords", postgres.Source)
	wantNot(t, r, "probe-target-from-source", postgres.Source)
	// A setting that the server refuses shows that options reach it.
	o.targetURI = target.ConnString("d")
	o.targetFromSource = target.ConnString("d") + "&options=-c%20nonsense%3D1"
	want(t, run(t, source, target, o), "probe-target-from-source", postgres.Source, preflight.Warning)
}

// TestReach: the servers reach each other, or the finding shows why not.
func TestReach(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{12, 18}} {
		t.Run(fmt.Sprintf("%d to %d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Start(t, pair[0]), pgtest.Start(t, pair[1])
			pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE d`)
			for _, exists := range []bool{false, true} {
				if exists {
					pgtest.Exec(t, target.ConnString("postgres"), `CREATE DATABASE d`)
				}
				r := run(t, source, target, options{db: "d"})
				wantNot(t, r, "probe-source-from-target", postgres.Target)
				wantNot(t, r, "probe-target-from-source", postgres.Source)
				r = run(t, source, target, options{db: "d",
					sourceFromTarget: "postgresql://postgres:s3cret@127.0.0.1:1/d", targetFromSource: "postgresql://postgres:s3cret@127.0.0.1:1/d"})
				f := want(t, r, "probe-source-from-target", postgres.Target, preflight.Blocker)
				if !strings.Contains(f.Text, "refused") || strings.Contains(f.Text, "s3cret") {
					t.Errorf("text: %s", f.Text)
				}
				want(t, r, "probe-target-from-source", postgres.Source, preflight.Warning)
			}
			if subs := value[int64](t, target.ConnString("d"), `SELECT count(*) FROM pg_subscription`); subs != 0 {
				t.Error("the probe left a subscription")
			}
			if source.Major() < 16 {
				pgtest.Exec(t, source.ConnString("postgres"), `CREATE ROLE mover LOGIN REPLICATION`)
				f := want(t, run(t, source, target, options{db: "d", user: "mover", targetUser: "postgres"}),
					"probe-target-from-source", postgres.Source, preflight.Warning)
				if !strings.Contains(f.Remedy, "superuser") {
					t.Errorf("remedy: %s", f.Remedy)
				}
			}
		})
	}
}

// TestUntestedVersion: a server newer than the newest that pgbaton is tested with is
// the operator's decision. There is none yet: one says that it is.
func TestUntestedVersion(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 19)
	pgtest.Exec(t, c.ConnString("postgres"), `CREATE DATABASE d`, `CREATE DATABASE e`)
	proxy := pgtest.NewProxy(t, c.ConnString("d"))
	proxy.Replace([]byte("server_version\x0019"), []byte("server_version\x0099"))
	o := options{db: "d", targetDB: "e", targetURI: proxy.Through(t, c.ConnString("e"))}
	wantNot(t, run(t, c, c, o), "version-untested", postgres.Source)
	want(t, run(t, c, c, o), "version-untested", postgres.Target, preflight.Blocker)
	o.accept = []string{"version-untested"}
	want(t, run(t, c, c, o), "version-untested", postgres.Target, preflight.Warning)
}

// TestVersions: a database moves to the same or a newer major version, to
// another server, never from or to a standby.
func TestVersions(t *testing.T) {
	t.Parallel()
	older, newer := pgtest.Start(t, 12), pgtest.Start(t, 13)
	pgtest.Exec(t, older.ConnString("postgres"), `CREATE DATABASE d`)
	pgtest.Exec(t, newer.ConnString("postgres"), `CREATE DATABASE d`)
	r := run(t, older, newer, options{db: "d"})
	for _, code := range []string{"target-older", "version", "standby"} {
		wantNot(t, r, code, postgres.Target)
	}
	wantNot(t, r, "same-database", "")
	want(t, run(t, newer, older, options{db: "d", pgBin: newer.BinDir()}), "target-older", postgres.Target, preflight.Blocker)
	want(t, run(t, older, older, options{db: "d"}), "same-database", "", preflight.Blocker)
	wantNot(t, run(t, older, older, options{db: "d", targetDB: "e"}), "same-database", "")

	// The client programs must understand the newer of both servers.
	empty := t.TempDir()
	f := want(t, run(t, older, newer, options{db: "d", pgBin: empty}), "pg-dump", "", preflight.Blocker)
	if !strings.Contains(f.Text, "13") {
		t.Errorf("text: %s", f.Text)
	}
	wantNot(t, run(t, older, newer, options{db: "d", pgBin: newer.BinDir()}), "pg-dump", "")

	// A server that waits for WAL from nowhere is a standby.
	if err := newer.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(newer.DataDir(), "standby.signal"))
	if err := newer.Restart(t.Context(), map[string]string{"hot_standby": "on"}); err != nil {
		t.Fatal(err)
	}
	r = run(t, older, newer, options{db: "d"})
	want(t, r, "standby", postgres.Target, preflight.Blocker)
	wantNot(t, r, "standby", postgres.Source)
}

// TestSettings: with the limits too low everything is told, and after the
// remedies and a restart nothing is.
func TestSettings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		source, target int
		method         string
	}{{12, 17, "stream"}, {13, 18, "native"}} {
		t.Run(fmt.Sprintf("%d to %d by %s", tc.source, tc.target, tc.method), func(t *testing.T) {
			t.Parallel()
			low := map[string]string{"wal_level": "replica", "max_replication_slots": "0", "max_wal_senders": "0",
				"max_logical_replication_workers": "0", "max_worker_processes": "0", "max_connections": "6"}
			if tc.method == "native" {
				low["max_sync_workers_per_subscription"] = "3"
			}
			lowTarget := map[string]string{}
			for k, v := range low {
				lowTarget[k] = v
			}
			if tc.target >= 18 {
				lowTarget["max_active_replication_origins"] = "0"
			}
			source, target := pgtest.Start(t, tc.source, low), pgtest.Start(t, tc.target, lowTarget)
			o := options{db: "postgres", method: tc.method, jobs: 3}
			expected := []struct {
				code     string
				side     postgres.Side
				severity preflight.Severity
			}{
				{"wal-level", postgres.Source, preflight.Blocker},
				{"replication-slots", postgres.Source, preflight.Blocker},
				{"wal-senders", postgres.Source, preflight.Blocker},
				{"connections", postgres.Source, preflight.Blocker},
				{"replication-origins", postgres.Source, preflight.Warning},
				{"logical-workers", postgres.Source, preflight.Warning},
				{"worker-processes", postgres.Source, preflight.Warning},
				{"wal-level", postgres.Target, preflight.Blocker},
				{"replication-origins", postgres.Target, preflight.Blocker},
				{"logical-workers", postgres.Target, preflight.Blocker},
				{"worker-processes", postgres.Target, preflight.Blocker},
				{"connections", postgres.Target, preflight.Blocker},
			}
			r := run(t, source, target, o)
			remedies := map[postgres.Side][]string{}
			for _, e := range expected {
				f := want(t, r, e.code, e.side, e.severity)
				if !strings.Contains(f.Remedy, "needs a restart") {
					t.Errorf("remedy of %s: %s", e.code, f.Remedy)
				}
				remedies[e.side] = append(remedies[e.side], f.Remedy)
			}
			accepted := o
			accepted.accept = []string{"wal-level"}
			r = run(t, source, target, accepted)
			want(t, r, "wal-level", postgres.Source, preflight.Blocker) // there is no migration without
			want(t, r, "wal-level", postgres.Target, preflight.Warning)

			fix := func(side postgres.Side, c *cluster.Cluster) {
				for _, remedy := range remedies[side] {
					// Two findings can name one setting: the higher value is needed.
					applyHigher(t, c.ConnString("postgres"), remedy)
				}
				if err := c.Restart(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			}
			fix(postgres.Source, source)
			fix(postgres.Target, target)
			r = run(t, source, target, o)
			for _, e := range expected {
				wantNot(t, r, e.code, e.side)
			}
			// wal_level hid what the target lacks as a publisher.
			for _, code := range []string{"replication-slots", "wal-senders"} {
				if f := find(r, code, postgres.Target); f != nil {
					applyHigher(t, target.ConnString("postgres"), f.Remedy)
				}
			}
			if err := target.Restart(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			r = run(t, source, target, o)
			for _, code := range []string{"replication-slots", "wal-senders"} {
				wantNot(t, r, code, postgres.Target)
			}
			if blockers := r.Blockers(); len(blockers) > 0 {
				t.Errorf("still blocked:\n%s", print(r))
			}
		})
	}
}

// applyHigher runs ALTER SYSTEM statements, but none that lowers a setting that
// an earlier one raised.
func applyHigher(t *testing.T, uri, remedy string) {
	t.Helper()
	for _, line := range strings.Split(remedy, "\n") {
		var name, to string
		if _, err := fmt.Sscanf(line, "ALTER SYSTEM SET %s = %s", &name, &to); err != nil {
			continue
		}
		var n, set int
		if _, err := fmt.Sscanf(to, "%d;", &n); err == nil {
			set = value[int](t, uri, `SELECT coalesce(max(setting::int), -1) FROM pg_file_settings WHERE name = $1 AND sourcefile LIKE '%auto.conf'`, name)
			if set >= n {
				continue
			}
		}
		pgtest.Exec(t, uri, line)
	}
}

// TestActive: what another migration has begun blocks; what this one has begun
// does not, so that start continues.
func TestActive(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 15), pgtest.Start(t, 15)
	record := func(c *cluster.Cluster, db string, r journal.Record) {
		conn := pgtest.Connect(t, c.ConnString(db))
		if err := journal.Create(t.Context(), conn, r, nil); err != nil {
			t.Fatal(err)
		}
	}
	fill := func(db string) {
		pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE `+db)
		pgtest.Exec(t, target.ConnString("postgres"), `CREATE DATABASE `+db)
		pgtest.Exec(t, target.ConnString(db), `CREATE TABLE t (i int PRIMARY KEY)`)
	}
	fill("own")
	want(t, run(t, source, target, options{db: "own"}), "target-not-empty", postgres.Target, preflight.Blocker)
	record(source, "own", journal.Record{Name: "m", ID: "1", Side: postgres.Source, Method: "stream"})
	record(target, "own", journal.Record{Name: "m", ID: "1", Side: postgres.Target, Method: "stream"})
	r := run(t, source, target, options{db: "own"})
	if len(r.Blockers()) > 0 {
		t.Errorf("a start that continues is blocked:\n%s", print(r))
	}
	r = run(t, target, source, options{db: "own"})
	want(t, r, "migration-active", postgres.Source, preflight.Blocker) // sides exchanged
	want(t, r, "migration-active", postgres.Target, preflight.Blocker)

	fill("other")
	record(source, "other", journal.Record{Name: "another one", ID: "2", Side: postgres.Source, Method: "stream"})
	record(target, "other", journal.Record{Name: "m", ID: "3", Side: postgres.Target, Method: "stream"})
	r = run(t, source, target, options{db: "other"})
	if f := want(t, r, "migration-active", postgres.Source, preflight.Blocker); !strings.Contains(f.Text, `"another one"`) {
		t.Errorf("text: %s", f.Text)
	}
	wantNot(t, r, "migration-active", postgres.Target)

	// Only what can be accepted is.
	wantNot(t, run(t, source, target, options{db: "postgres", accept: []string{"large-objects"}}), "accept", "")
	want(t, run(t, source, target, options{db: "postgres", accept: []string{"target-older"}}), "accept", "", preflight.Warning)

	// An interrupted check is an error, not a finding.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := preflight.Run(ctx, input(t, source, target, options{db: "postgres"})); err == nil {
		t.Errorf("no error, but:\n%s", print(r))
	}
}
