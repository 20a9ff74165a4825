package preflight

import (
	"context"
	"fmt"

	"pgbaton/internal/journal"
)

// checkEnds makes sure that a migration goes on between its own two databases.
func checkEnds(ctx context.Context, s *survey) error {
	for _, e := range []*end{s.source, s.target} {
		if e.conn == nil {
			continue
		}
		have := journal.Database{Name: e.Database(), Address: e.Address()}
		var err error
		if e.exists {
			have, err = journal.ReadDatabase(ctx, e.conn, e.Server)
		} else {
			have.System, err = journal.ReadSystem(ctx, e.conn)
		}
		if err != nil {
			return e.Wrap("identifying the database", err)
		}
		for _, other := range []*end{s.source, s.target} {
			if s.fresh(other) || other.record.Ends == nil {
				continue
			}
			want := other.record.Ends.Of(e.Side)
			is, err := want.Is(ctx, e.conn, have)
			if err != nil {
				return e.Wrap("identifying the database", err)
			}
			if is {
				continue
			}
			e.add(Finding{Code: "migration-active", Severity: Blocker, Side: e.Side,
				Text:   fmt.Sprintf("migration %q has another %s: %s", s.Name, e.Side, want.Address),
				Remedy: fmt.Sprintf("give --%[1]s that database; or end that migration first: pgbaton reset (or finish) with that --%[1]s", e.Side)})
			break
		}
	}
	return nil
}
