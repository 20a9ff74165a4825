package preflight_test

import (
	"testing"
	"time"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
)

// TestSynchronous: a server whose commits wait for a standby that is not there is
// found on either side, and nothing waits for it meanwhile.
func TestSynchronous(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 13), pgtest.Start(t, 17)
	pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE app`)
	check := func() preflight.Report {
		t.Helper()
		in := input(t, source, target, options{db: "app"})
		in.TrySchema = preflight.TryFew
		return runInput(t, in)
	}
	r := check()
	for _, side := range []struct {
		preflight.Finding
		uri   string
		names string
	}{
		{preflight.Finding{Side: src}, source.ConnString("postgres"), "nobody"},
		{preflight.Finding{Side: tgt}, target.ConnString("postgres"), "ANY 2 (a, b)"},
	} {
		wantNot(t, r, "synchronous-standbys", side.Side)
		pgtest.Exec(t, side.uri, `ALTER SYSTEM SET synchronous_standby_names = '`+side.names+`'`, `SELECT pg_reload_conf()`)
		pgtest.UntilTrue(t, side.uri, 10*time.Second, "the setting is read", `SELECT current_setting('synchronous_standby_names') = $1`, side.names)
		f := want(t, check(), "synchronous-standbys", side.Side, blocker)
		apply(t, side.uri, f.Remedy)
		pgtest.UntilTrue(t, side.uri, 10*time.Second, "the setting is gone", `SELECT current_setting('synchronous_standby_names') = ''`)
		wantNot(t, check(), "synchronous-standbys", side.Side)
	}
}

// TestSynchronized: the same for slots that wait for a standby.
func TestSynchronized(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 17), pgtest.Start(t, 17)
	pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE app`)
	check := func() preflight.Report {
		t.Helper()
		return runInput(t, input(t, source, target, options{db: "app"}))
	}
	for side, uri := range map[postgres.Side]string{src: source.ConnString("postgres"), tgt: target.ConnString("postgres")} {
		wantNot(t, check(), "synchronized-standby-slots", side)
		pgtest.Exec(t, uri, `SELECT pg_create_physical_replication_slot('away')`, `ALTER SYSTEM SET synchronized_standby_slots = 'away'`, `SELECT pg_reload_conf()`)
		pgtest.UntilTrue(t, uri, 10*time.Second, "the setting is read", `SELECT current_setting('synchronized_standby_slots') = 'away'`)
		f := want(t, check(), "synchronized-standby-slots", side, blocker)
		apply(t, uri, f.Remedy)
		pgtest.UntilTrue(t, uri, 10*time.Second, "the setting is gone", `SELECT current_setting('synchronized_standby_slots') = ''`)
		wantNot(t, check(), "synchronized-standby-slots", side)
	}
}
