package preflight_test

import (
	"path/filepath"
	"strings"
	"testing"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// TestProbeRemedies: what keeps a server from subscribing is told apart, and what is
// said to do about it helps.
func TestProbeRemedies(t *testing.T) {
	t.Parallel()
	const secret = "correct horse"
	source := pgtest.StartOptions(t, cluster.Options{Major: 12, Password: secret})
	target := pgtest.Start(t, 17)
	pgtest.Exec(t, source.ConnStringAs("postgres", secret, "postgres"), `CREATE DATABASE d`)
	pgtest.Exec(t, target.ConnString("postgres"), `CREATE ROLE maker LOGIN REPLICATION CREATEDB`,
		`GRANT pg_monitor, pg_signal_backend, pg_create_subscription TO maker`, `CREATE DATABASE d OWNER maker`)
	o := options{db: "d", user: "postgres", sourcePw: secret, targetUser: "maker", sourceFromTarget: "postgresql://postgres:another@127.0.0.1:1/d"}

	f := want(t, run(t, source, target, o), "probe-source-from-target", tgt, blocker)
	if !strings.Contains(f.Text, "cannot connect") || !strings.Contains(f.Remedy, "--source-from-target") {
		t.Errorf("out of reach: %+v", f)
	}
	trusting := pgtest.Start(t, 12) // which asks nobody for a password
	pgtest.Exec(t, trusting.ConnString("postgres"), `CREATE DATABASE d`)
	f = want(t, run(t, trusting, target, options{db: "d", targetUser: "maker"}), "probe-source-from-target", tgt, blocker)
	if strings.Contains(f.Remedy, "firewalls") || !strings.Contains(f.Remedy, "give --source-from-target with a password") {
		t.Errorf("without a password: %+v", f)
	}
	o.sourceFromTarget = source.ConnStringAs("postgres", secret, "d")
	wantNot(t, run(t, source, target, o), "probe-source-from-target", tgt)

	// What the server itself has against a subscription is no matter of where it connects to.
	pgtest.Exec(t, target.ConnString("d"), `CREATE FUNCTION refuses() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no subscriptions here'; END $$`,
		`CREATE EVENT TRIGGER "My trigger" ON ddl_command_start WHEN TAG IN ('CREATE SUBSCRIPTION') EXECUTE FUNCTION refuses()`,
		`ALTER EVENT TRIGGER "My trigger" ENABLE ALWAYS`)
	f = want(t, run(t, source, target, o), "probe-source-from-target", tgt, blocker)
	if !strings.Contains(f.Text, "no subscriptions here") || f.Remedy != "remove the reason that the target's server gives: it is not the connection to the source that failed" {
		t.Errorf("a server that refuses: %+v", f)
	}
	pgtest.Exec(t, target.ConnString("d"), `ALTER EVENT TRIGGER "My trigger" DISABLE`)
	wantNot(t, run(t, source, target, o), "probe-source-from-target", tgt)

	// A standby does not subscribe, wherever it gets to.
	if err := target.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(target.DataDir(), "standby.signal"))
	if err := target.Restart(t.Context(), map[string]string{"hot_standby": "on"}); err != nil {
		t.Fatal(err)
	}
	r := run(t, source, target, o)
	if f := want(t, r, "standby", tgt, blocker); !strings.Contains(f.Remedy, "primary") {
		t.Errorf("a standby: %+v", f)
	}
	wantNot(t, r, "probe-source-from-target", tgt)
}
