package handover

import (
	"context"
	"fmt"

	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/traffic"
)

// This file looks where applications are led: by the address that is written down
// for them, and through what stands in between.

// readyAddresses logs in through the taker's address as applications will be given
// it, and, if that could be reached, through what leads to the holder now.
func (r *run) readyAddresses(ctx context.Context, through bool) (reasons []refusal.Reason, err error) {
	beacon, err := postgres.LightBeacon(ctx, r.taker)
	if err != nil {
		return nil, r.Taker.Wrap("marking the server", err)
	}
	why, err := r.Taker.LeadsTo(ctx, beacon)
	if err == nil {
		err = beacon.PutOut(ctx, r.taker)
	}
	if err != nil {
		return nil, r.Taker.Wrap("logging in by its address", err)
	}
	if why != "" {
		reasons = append(reasons, refusal.Reason{Why: fmt.Sprintf("the address to which traffic would be led is not that of the %s: %s", r.Taker.Side, why),
			Remedy: fmt.Sprintf("give --%s a host name or address that leads to this one server", r.Taker.Side)})
	}
	if !through {
		return reasons, nil // what stands between is not as it should be; that is told
	}
	seen, err := r.look(ctx, r.Holder, r.holder)
	if err != nil {
		return nil, err
	}
	r.lookable = map[string]bool{}
	for _, s := range seen {
		r.lookable[s.Name] = s.Err == nil
		switch {
		case s.Err != nil:
			r.Observe(event.Warning{Text: fmt.Sprintf("%s: where it leads cannot be looked at, neither now nor after the handover: %v", s.Name, s.Err),
				Remedy: s.AdmitRemedy})
		case !s.Here:
			reasons = append(reasons, refusal.Reason{Why: fmt.Sprintf("%s leads to %s, not to the %s, %s", s.Name, s.Where, r.Holder.Side, r.Holder.Address()),
				Remedy: s.PointRemedy})
		}
	}
	return reasons, nil
}

// look looks through what stands before a side.
func (r *run) look(ctx context.Context, p Party, conn *postgres.Session) ([]traffic.Sighting, error) {
	beacon, err := postgres.LightBeacon(ctx, conn)
	if err != nil {
		return nil, p.Wrap("marking the server", err)
	}
	seen := r.Traffic.Look(ctx, r.Route(), p.Server, beacon)
	return seen, p.Wrap("taking the mark from the server", beacon.PutOut(ctx, conn))
}
