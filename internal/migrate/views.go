package migrate

import (
	"context"

	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// This file has the materialized views that are due: see package schema.

// refresh tries what is due on either side, and warns of what fails.
func refresh(ctx context.Context, c Config, s *Sessions) error {
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		if s.conn(side) == nil {
			continue
		}
		failed, err := schema.Refresh(ctx, c.Server(side), s.conn(side))
		if err != nil {
			return c.Server(side).Wrap("refreshing materialized views", err)
		}
		for _, d := range failed {
			c.Observe(event.Warning{Side: side, Text: d.Text(), Remedy: d.Remedy(c.Server(side).Version(), againFor(side, side.Other()))})
		}
	}
	return nil
}

// againFor names the command that tries the views of a side again, by where the
// baton is.
func againFor(side, baton postgres.Side) string {
	if side == baton {
		return "pgbaton " + Handover{To: side}.command() + ", run again,"
	}
	return "pgbaton resume"
}

// noteViews says which views of a side could not be refreshed.
func (r *reader) noteViews(ctx context.Context, side postgres.Side) error {
	conn := r.conn(side)
	if conn == nil {
		return nil
	}
	failed, err := schema.Failed(ctx, conn)
	for _, d := range failed {
		r.note(string(side)+": "+d.Text(), d.Remedy(r.Server(side).Version(), againFor(side, r.baton.Side)))
	}
	return r.Config.Server(side).Wrap("reading the journal", r.unlessDamaged(side, err))
}
