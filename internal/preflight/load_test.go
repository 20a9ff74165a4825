package preflight_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

const (
	mega = int64(1) << 20
	giga = mega << 10
)

// grow makes a relation's file larger, by blocks that take no room on the disk.
func grow(t *testing.T, c *cluster.Cluster, db, relation string, bytes int64) {
	t.Helper()
	path := filepath.Join(c.DataDir(), value[string](t, c.ConnString(db), `SELECT pg_relation_filepath($1)`, relation))
	for i := 0; bytes > 0; i++ {
		segment := path
		if i > 0 {
			segment = fmt.Sprintf("%s.%d", path, i)
			writeFile(t, segment)
		}
		if err := os.Truncate(segment, min(giga, bytes)); err != nil {
			t.Fatal(err)
		}
		bytes -= min(giga, bytes)
	}
}

// afterwards is the part of a remedy that brings back what was.
func afterwards(t *testing.T, remedy string) string {
	t.Helper()
	var lines []string
	for _, line := range strings.Split(remedy, "\n") {
		if sql, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(sql, ";") {
			lines = append(lines, sql)
		}
	}
	if len(lines) == 0 {
		t.Fatalf("nothing brings back what was:\n%s", remedy)
	}
	return strings.Join(lines, "\n")
}

// TestLoadSettings: what would make a load faster is told when the load is large
// enough, with what it takes there and back.
func TestLoadSettings(t *testing.T) {
	t.Parallel()
	source := pgtest.Start(t, 12)
	target := pgtest.Start(t, 17, map[string]string{"max_wal_size": "512MB", "checkpoint_timeout": "5min", "maintenance_work_mem": "64MB",
		"max_connections": "90"})
	at := target.ConnString("postgres")
	pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE d`)
	pgtest.Exec(t, source.ConnString("d"), `CREATE TABLE t (i int PRIMARY KEY); CREATE TABLE other (i int PRIMARY KEY); CHECKPOINT`)
	o := options{db: "d", jobs: 4}
	codes := []string{"load-settings", "load-settings-restart", "load-wal-level"}
	told := func(o options, has ...string) {
		t.Helper()
		r := run(t, source, target, o)
		for _, code := range codes {
			if strings.Contains(strings.Join(has, " ")+" ", code+" ") {
				want(t, r, code, tgt, info)
			} else {
				wantNot(t, r, code, tgt)
			}
		}
	}
	// says makes sure that a finding has these settings, in this order.
	says := func(o options, settings ...string) (remedy string) {
		t.Helper()
		f := want(t, run(t, source, target, o), "load-settings", tgt, info)
		if len(f.Objects) != len(settings) {
			t.Fatalf("settings: %s, expected are %q", strings.Join(f.Objects, "\n"), settings)
		}
		for i, s := range settings {
			if !strings.HasPrefix(f.Objects[i], s) {
				t.Errorf("%q does not begin with %q", f.Objects[i], s)
			}
		}
		return f.Remedy
	}

	told(o)
	grow(t, source, "d", "t", giga-mega)
	told(o)
	grow(t, source, "d", "t", 2*giga)
	told(o, "load-settings-restart", "load-settings")
	says(o, "max_wal_size = 512MB: ")

	// The remedy helps, and the rest of it brings back what was, also what ALTER
	// SYSTEM had set before.
	show := func(name string) string { return value[string](t, at, `SELECT current_setting($1)`, name) }
	eventually := func(name, to string) { // a reload takes hold in time
		t.Helper()
		conn := pgtest.Connect(t, at)
		for range 1000 {
			if now := pgtest.QueryValue[string](t, conn, `SELECT current_setting($1) FROM pg_sleep(0.01)`, name); now == to {
				return
			}
		}
		t.Errorf("%s is %s, not %s", name, show(name), to)
	}
	apply(t, at, says(o, "max_wal_size"))
	eventually("max_wal_size", "4GB")
	told(o, "load-settings-restart")
	pgtest.Exec(t, at, `ALTER SYSTEM SET max_wal_size = '600MB'`, `SELECT pg_reload_conf()`)
	eventually("max_wal_size", "600MB")
	remedy := says(o, "max_wal_size = 600MB")
	apply(t, at, remedy)
	eventually("max_wal_size", "4GB")
	apply(t, at, afterwards(t, remedy))
	eventually("max_wal_size", "600MB")

	// A large database, with a large index.
	grow(t, source, "d", "t", 40*giga)
	grow(t, source, "d", "t_pkey", 700*mega)
	told(o, codes...)
	remedy = says(o, "max_wal_size = 600MB: the load writes about 41 GB of WAL, which forces about 131 checkpoints",
		"checkpoint_timeout = 5min", "maintenance_work_mem = 64MB: the biggest index has 700 MB")
	if !strings.Contains(remedy, "maintenance_work_mem = '1GB'") || !strings.Contains(remedy, "max_wal_size = '16GB'") {
		t.Errorf("remedy: %s", remedy)
	}
	pgtest.Exec(t, at, `ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 ("a b", c)'`, `SELECT pg_reload_conf()`)
	eventually("synchronous_standby_names", `FIRST 1 ("a b", c)`)
	remedy = says(o, "max_wal_size", "checkpoint_timeout", "maintenance_work_mem", `synchronous_standby_names = FIRST 1 ("a b", c)`)
	apply(t, at, remedy)
	eventually("synchronous_standby_names", "")
	told(o, "load-settings-restart", "load-wal-level")
	apply(t, at, afterwards(t, remedy))
	eventually("synchronous_standby_names", `FIRST 1 ("a b", c)`)
	pgtest.Exec(t, at, `ALTER SYSTEM RESET ALL`, `SELECT pg_reload_conf()`)
	eventually("synchronous_standby_names", "")

	// What a filter leaves out does not count, and method native needs the WAL.
	in := input(t, source, target, o)
	in.Selection.Tables = []string{"other"}
	for _, code := range codes {
		wantNot(t, runInput(t, in), code, tgt)
	}
	native := o
	native.method = "native"
	told(native, "load-settings", "load-settings-restart")

	// With a slot there is somebody who needs the WAL too.
	pgtest.Exec(t, at, `SELECT pg_create_physical_replication_slot('standby')`)
	told(o, "load-settings", "load-settings-restart")
	pgtest.Exec(t, at, `SELECT pg_drop_replication_slot('standby')`)

	// There and back with what takes restarts. More shared buffers mean more memory
	// for our index builds.
	r := run(t, source, target, o)
	buffers, minimal := want(t, r, "load-settings-restart", tgt, info), want(t, r, "load-wal-level", tgt, info)
	if !strings.Contains(buffers.Remedy, "shared_buffers = '4GB'") {
		t.Errorf("remedy: %s", buffers.Remedy)
	}
	apply(t, at, minimal.Remedy)
	apply(t, at, strings.ReplaceAll(buffers.Remedy, "4GB", "1GB"))
	restart(t, target)
	if level := show("wal_level"); level != "minimal" {
		t.Errorf("wal_level is %s", level)
	}
	o.accept = []string{"wal-level"}
	o.jobs = 2
	told(o)
	o.jobs, o.indexJobs = 2, 16 // then each has little
	told(o, "load-settings")
	says(o, "maintenance_work_mem")
	o.accept, o.indexJobs = nil, 0
	apply(t, at, afterwards(t, minimal.Remedy))
	restart(t, target)
	if level, senders := show("wal_level"), show("max_wal_senders"); level != "logical" || senders != "40" {
		t.Errorf("wal_level is %s, max_wal_senders %s", level, senders)
	}
	if r := run(t, source, target, o); len(r.Blockers()) > 0 {
		t.Errorf("blocked:\n%s", print(r))
	}
}

func restart(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	if err := c.Restart(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// TestCapacity: more jobs and streams need more of both servers, roles and
// databases have limits of their own, and many tables need a large lock table.
func TestCapacity(t *testing.T) {
	t.Parallel()
	low := map[string]string{"max_connections": "20", "superuser_reserved_connections": "0", "max_locks_per_transaction": "10",
		"max_replication_slots": "3", "max_wal_senders": "3", "max_logical_replication_workers": "2", "max_worker_processes": "3"}
	lowTarget := map[string]string{"max_active_replication_origins": "2"}
	for k, v := range low {
		lowTarget[k] = v
	}
	source, target := pgtest.Start(t, 10, low), pgtest.Start(t, 18, lowTarget)
	atSource, atTarget := source.ConnString("postgres"), target.ConnString("postgres")
	for _, uri := range []string{atSource, atTarget} {
		pgtest.Exec(t, uri, `CREATE ROLE mover LOGIN REPLICATION`, `CREATE DATABASE d OWNER mover`)
	}
	pgtest.Exec(t, atSource, `GRANT pg_monitor TO mover`)
	pgtest.Exec(t, atTarget, `GRANT pg_monitor, pg_create_subscription TO mover`)
	codes := []string{"connections", "role-connections", "database-connections", "replication-slots", "wal-senders",
		"replication-origins", "logical-workers", "worker-processes", "lock-table"}
	none := func(o options) {
		t.Helper()
		r := run(t, source, target, o)
		for _, code := range codes {
			wantNot(t, r, code, src)
			wantNot(t, r, code, tgt)
		}
	}
	contains := func(text string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("%q is not in: %s", p, text)
			}
		}
	}
	o := options{db: "d", jobs: 5, groups: 2}
	none(o)

	// Jobs that build indexes need sessions on the target alone.
	more := o
	more.indexJobs = 18
	r := run(t, source, target, more)
	wantNot(t, r, "connections", src)
	f := want(t, r, "connections", tgt, blocker)
	contains(f.Text, "needed are 23: for 18 jobs that copy or build indexes")
	contains(f.Remedy, "--jobs or --index-jobs", "max_connections = ")

	// Streams.
	more = o
	more.groups = 3
	r = run(t, source, target, more)
	contains(want(t, r, "replication-slots", src, blocker).Text, "needed are 4", "3 streams (--groups)")
	contains(want(t, r, "wal-senders", src, blocker).Text, "needed are 4", "one to set up")
	for _, code := range []string{"replication-origins", "logical-workers", "worker-processes"} {
		wantNot(t, r, code, src) // the way back is one stream
		contains(want(t, r, code, tgt, blocker).Text, "needed are 3")
	}
	for _, f := range r.Findings {
		if f.Severity == blocker && strings.Contains(f.Remedy, "ALTER SYSTEM") {
			at := atSource
			if f.Side == tgt {
				at = atTarget
			}
			applyHigher(t, at, f.Remedy)
		}
	}
	restart(t, source)
	restart(t, target)
	none(more)
	more.groups = 9 // sessions with a snapshot, one per stream, on the source
	contains(want(t, run(t, source, target, more), "replication-slots", src, blocker).Text, "needed are 10")
	more.groups, more.jobs, more.indexJobs = 9, 7, 1
	f = want(t, run(t, source, target, more), "connections", src, blocker)
	contains(f.Text, "7 jobs and 9 streams")
	contains(f.Remedy, "--jobs or --groups")

	// Limits of the role and of the database, which do not hold for superusers.
	mover := o
	mover.user = "mover"
	none(mover)
	for _, uri := range []string{atSource, atTarget} {
		pgtest.Exec(t, uri, `ALTER ROLE mover CONNECTION LIMIT 4`, `ALTER DATABASE d CONNECTION LIMIT 7`)
	}
	none(o)
	r = run(t, source, target, mover)
	for side, at := range map[string]string{"source": atSource, "target": atTarget} {
		s := src
		if side == "target" {
			s = tgt
		}
		f := want(t, r, "role-connections", s, blocker)
		contains(f.Text, `role "mover" = 4 leaves 4`)
		apply(t, at, f.Remedy)
		f = want(t, r, "database-connections", s, blocker)
		contains(f.Text, `database "d" = 7 leaves 7`)
		apply(t, at, f.Remedy)
	}
	none(mover)

	// 20 connections and no prepared transactions have room for 200 locks.
	var tables []string
	for i := range 160 {
		tables = append(tables, fmt.Sprintf(`CREATE TABLE t%d (i int PRIMARY KEY)`, i+1))
	}
	pgtest.Exec(t, source.ConnString("d"), tables...)
	none(o)
	pgtest.Exec(t, source.ConnString("d"), `CREATE VIEW v AS SELECT 1`)
	r = run(t, source, target, o)
	wantNot(t, r, "lock-table", tgt)
	contains(want(t, r, "lock-table", src, warn).Text, "room for 200 locks", "161 tables and views")
	pgtest.Exec(t, source.ConnString("d"), `CREATE TABLE t161 (i int PRIMARY KEY)`)
	r = run(t, source, target, o)
	contains(want(t, r, "lock-table", tgt, warn).Text, "room for 200 locks", "161 tables")
	filtered := input(t, source, target, o)
	filtered.Selection.ExcludeTables = []string{"t1*", "v"}
	r = runInput(t, filtered)
	wantNot(t, r, "lock-table", src)
	wantNot(t, r, "lock-table", tgt)
	r = run(t, source, target, o)
	apply(t, atSource, want(t, r, "lock-table", src, warn).Remedy)
	apply(t, atTarget, want(t, r, "lock-table", tgt, warn).Remedy)
	restart(t, source)
	restart(t, target)
	none(o)
}
