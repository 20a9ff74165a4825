package handover

import (
	"context"
	"fmt"

	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
	"pgbaton/internal/traffic"
)

// This file looks where applications are led: by the address that is written down
// for them, and through what stands in between.

// addresses logs in through the taker's address as applications will be given
// it, and, if that could be reached, through what leads to the holder now.
func (l *look) addresses(ctx context.Context, through bool) error {
	beacon, err := postgres.LightBeacon(ctx, l.taker)
	if err != nil {
		return l.Taker.Wrap("marking the server", err)
	}
	why, err := l.Taker.LeadsTo(ctx, beacon)
	if err == nil {
		err = beacon.PutOut(ctx, l.taker)
	}
	if err != nil {
		return l.Taker.Wrap("logging in by its address", err)
	}
	if why != "" {
		l.say(fmt.Sprintf("the address to which traffic would be led is not that of the %s: %s", l.Taker.Side, why),
			fmt.Sprintf("give --%s a host name or address that leads to this one server", l.Taker.Side))
	}
	if !through {
		return nil // what stands between is not as it should be; that is told
	}
	seen, err := l.lookThrough(ctx, l.Holder, l.holder)
	if err != nil {
		return err
	}
	l.lookable = map[string]bool{}
	for _, s := range seen {
		l.lookable[s.Name] = s.Err == nil
		switch {
		case s.Err != nil:
			l.Observe(event.Warning{Text: fmt.Sprintf("%s: where it leads cannot be looked at, neither now nor after the handover: %v", s.Name, s.Err),
				Remedy: s.AdmitRemedy})
		case !s.Here:
			l.say(fmt.Sprintf("%s leads to %s, not to the %s, %s", s.Name, s.Where, l.Holder.Side, l.Holder.Address()), s.PointRemedy)
		}
	}
	return nil
}

// lookThrough looks through what stands before a side.
func (r *run) lookThrough(ctx context.Context, p Party, conn *postgres.Session) ([]traffic.Sighting, error) {
	beacon, err := postgres.LightBeacon(ctx, conn)
	if err != nil {
		return nil, p.Wrap("marking the server", err)
	}
	seen := r.Traffic.Look(ctx, r.Route(), p.Server, beacon)
	return seen, p.Wrap("taking the mark from the server", beacon.PutOut(ctx, conn))
}
