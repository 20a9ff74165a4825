package handover

import (
	"context"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/schema"
)

// This file has the materialized views, whose rows are not replicated: behind the
// pass those that the holder had populated are refreshed on the taker. What cannot
// be refreshed is said by status until it can; the handover is complete without.

// heldViews are the holder's materialized views.
type heldViews struct {
	Generation int64             `json:"generation"` // that the holder took
	Views      []catalog.MatView `json:"views"`
}

// viewsDue says which views could not be refreshed on the taker so far.
func (l *look) viewsDue(ctx context.Context) error {
	failed, err := schema.Failed(ctx, l.taker)
	for _, d := range failed {
		l.Observe(event.Warning{Side: l.Taker.Side, Text: d.Text(), Remedy: d.Remedy(l.Taker.Version(), "the "+l.Command)})
	}
	return l.Taker.Wrap("reading the journal", err)
}

// noteViews remembers on the taker which views the holder has populated: behind the
// pass it may be out of reach.
func (r *run) noteViews(ctx context.Context) error {
	views, err := catalog.MatViews(ctx, r.holder, r.Selection)
	if err != nil {
		return r.Holder.Wrap("listing materialized views", err)
	}
	return r.Taker.Wrap("writing the journal",
		viewsEntry.Put(ctx, r.taker, heldViews{r.generation, views}))
}

// noteViewsByForce does so for a holder that is lost: what it had populated is known
// from an earlier try of this handover, or else from what the taker has populated
// and what is due there.
func (r *run) noteViewsByForce(ctx context.Context) error {
	noted, ok, err := viewsEntry.Get(ctx, r.taker)
	if err != nil {
		return r.Taker.Wrap("reading the journal", err)
	}
	if ok && noted.Generation == r.generation {
		return nil
	}
	views, err := catalog.MatViews(ctx, r.taker, r.Selection)
	if err != nil {
		return r.Taker.Wrap("listing materialized views", err)
	}
	failed, err := schema.Failed(ctx, r.taker)
	for i := range views {
		for _, d := range failed {
			views[i].Populated = views[i].Populated || d.View == views[i].Ident && !d.Empty
		}
	}
	if err == nil {
		err = viewsEntry.Put(ctx, r.taker, heldViews{r.generation, views})
	}
	return r.Taker.Wrap("writing the journal", err)
}

// populate refreshes the taker's views. What the holder has populated is asked once,
// and from then on stands in the taker's journal until it is done.
func (r *run) populate(ctx context.Context) error {
	noted, ok, err := viewsEntry.Get(ctx, r.taker)
	if err != nil {
		return err
	}
	if ok && noted.Generation == r.generation {
		if r.holder != nil && !r.holder.IsClosed() {
			if views, err := catalog.MatViews(ctx, r.holder, r.Selection); err == nil {
				noted.Views = views // behind the fence: nobody has refreshed any since
			}
		}
		err := pgx.BeginFunc(ctx, r.taker, func(tx pgx.Tx) error {
			if err := schema.Enlist(ctx, tx, noted.Views); err != nil {
				return err
			}
			return viewsEntry.Delete(ctx, tx)
		})
		if err != nil {
			return err
		}
	}
	failed, err := schema.Refresh(ctx, r.Taker.Server, r.taker)
	for _, d := range failed {
		r.Observe(event.Warning{Side: r.Taker.Side, Text: d.Text(), Remedy: d.Remedy(r.Taker.Version(), "pgbaton "+r.Command+", run again,")})
	}
	if r.holder != nil && !r.holder.IsClosed() && err == nil {
		// What was due there is for the next handover to say.
		err = schema.Unlist(ctx, r.holder)
	}
	return err
}
