package preflight

import (
	"context"
	"fmt"

	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// The versions that pgbaton is made for.
const (
	oldestMajor = 10
	newestMajor = 19
)

// checkVersions judges what each side runs. A migration goes to the same or a
// newer major.
func checkVersions(s *survey) {
	for _, e := range []*end{s.source, s.target} {
		v := e.Version()
		switch {
		case e.conn == nil:
		case v.Major() < oldestMajor:
			s.add(Finding{Code: "version", Severity: Blocker, Side: e.Side,
				Text:   fmt.Sprintf("server %s is older than %d: it has no logical replication", v, oldestMajor),
				Remedy: "use pg_dump and pg_restore, or pg_upgrade"})
		case v.Major() > newestMajor:
			s.add(Finding{Code: "version-untested", Severity: Blocker, Side: e.Side,
				Text:   fmt.Sprintf("server %s is newer than %d, the newest that pgbaton is tested with", v, newestMajor),
				Remedy: "look for a newer pgbaton; or try the whole migration on copies first, then --accept version-untested"})
		}
	}
	if s.source.conn == nil || s.target.conn == nil {
		return
	}
	if from, to := s.source.Version(), s.target.Version(); to.Major() < from.Major() {
		s.add(Finding{Code: "target-older", Severity: Blocker, Side: postgres.Target,
			Text:   fmt.Sprintf("the target runs %s, the source %s: a database moves to the same or a newer major version", to, from),
			Remedy: fmt.Sprintf("use a target of version %d or newer; or are --source and --target exchanged?", from.Major())})
	}
}

// checkSame finds out whether both ends are one database: by the system
// identifier, which a physical copy shares, and the moment the server started,
// which it does not.
func checkSame(ctx context.Context, s *survey) (same bool, err error) {
	var started, identifier [2]string
	for i, e := range []*end{s.source, s.target} {
		if !e.exists {
			return false, nil
		}
		err := e.conn.QueryRow(ctx, `SELECT extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text`).Scan(&started[i])
		if err != nil {
			return false, e.Wrap("reading when the server was started", err)
		}
		err = e.conn.QueryRow(ctx, `SELECT system_identifier::text FROM pg_catalog.pg_control_system()`).Scan(&identifier[i])
		if err != nil && postgres.Code(err) != postgres.InsufficientPrivilege {
			return false, e.Wrap("reading the system identifier", err)
		}
	}
	known := identifier[0] != "" && identifier[1] != ""
	if started[0] != started[1] || known && identifier[0] != identifier[1] || s.Source.Database() != s.Target.Database() {
		return false, nil
	}
	s.add(Finding{Code: "same-database", Severity: Blocker,
		Text:   fmt.Sprintf("--source and --target are the same database %s of the same server", s.source.database()),
		Remedy: "name another server, or another database, as the target"})
	return true, nil
}

// checkTools looks for client programs that both servers understand.
func checkTools(s *survey) {
	newest := max(s.Source.Version(), s.Target.Version())
	if newest == 0 {
		return // neither server is in reach
	}
	if _, err := schema.FindTools(s.PgBin, newest.Major()); err != nil {
		s.add(Finding{Code: "pg-dump", Severity: Blocker, Text: err.Error(),
			Remedy: fmt.Sprintf("install the client programs of PostgreSQL %d, or name their directory with --pg-bin", newest.Major())})
	}
}
