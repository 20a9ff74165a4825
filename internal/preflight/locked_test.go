package preflight_test

import (
	"slices"
	"testing"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/preflight"
)

// TestLocked: a table that somebody holds for long is no reason to stand still; what
// could not be looked at for it is said.
func TestLocked(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 12), pgtest.Start(t, 17)
	pgtest.Exec(t, source.ConnString("postgres"), `CREATE DATABASE d`)
	pgtest.Exec(t, source.ConnString("d"), `CREATE TABLE t (i int PRIMARY KEY)`)
	pgtest.Hold(t, source.ConnString("d"), `LOCK TABLE t`)
	report := run(t, source, target, options{db: "d"}) // not before the lock is released, it would wait
	if !slices.ContainsFunc(report.Findings, func(f preflight.Finding) bool { return f.Code == "unchecked" && f.Remedy != "" }) {
		t.Errorf("%+v", report.Findings)
	}
}
