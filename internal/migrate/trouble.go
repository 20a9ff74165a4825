package migrate

import (
	"context"
	"fmt"
	"strings"
	"time"

	"pgbaton/internal/journal"
	"pgbaton/internal/phrase"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// Trouble is the reason for which a stream does not flow, as far as it can be
// found out from outside.
type Trouble struct {
	Text   string
	Remedy string
}

// Error makes a Trouble what start fails with.
func (t *Trouble) Error() string { return "the subscription does not get on: " + t.Text }

// diagnose looks at a stream that does not flow. nil: nothing is wrong that
// shows, it is only behind. long says that nothing has moved for a long time:
// before 15 no statistics tell of failures. The stream is the one away from the
// side that has the baton.
func diagnose(ctx context.Context, c Config, s *Sessions, b journal.Baton, long bool) (*Trouble, error) {
	for _, g := range c.streams(b.Side) {
		if t, err := diagnoseGroup(ctx, c, s, b, g.Name(), long); t != nil || err != nil {
			return t, err
		}
	}
	return nil, nil
}

func diagnoseGroup(ctx context.Context, c Config, s *Sessions, b journal.Baton, name string, long bool) (*Trouble, error) {
	from, to := b.Side, b.Side.Other()
	publisher, subscriber := s.conn(from), s.conn(to)
	sub, err := replication.ReadSubscription(ctx, subscriber, name)
	if err != nil || sub == nil || !sub.Enabled {
		return nil, c.Server(to).Wrap("reading the subscription", err)
	}
	slot, err := replication.ReadSlot(ctx, publisher, name)
	if err != nil {
		return nil, c.Server(from).Wrap("reading the slot", err)
	}
	if slot == nil || slot.Lost {
		return &Trouble{Text: fmt.Sprintf("replication slot %s is lost or gone from the %s", name, from), Remedy: lostRemedy(b)}, nil
	}
	absent, err := replication.AbsentStandbys(ctx, publisher)
	if err != nil {
		return nil, c.Server(from).Wrap("looking for standbys", err)
	}
	if slot.Failover && len(absent) > 0 {
		return &Trouble{
			Text:   fmt.Sprintf("the %s sends nothing before the standbys named in synchronized_standby_slots have it, and none reads slot %s", from, strings.Join(absent, ", ")),
			Remedy: fmt.Sprintf("connect the standby; or on the %s: ALTER SYSTEM SET synchronized_standby_slots = ''; SELECT pg_reload_conf()", from),
		}, nil
	}
	runs, err := replication.Applies(ctx, subscriber, name)
	if err != nil {
		return nil, c.Server(to).Wrap("looking for the apply worker", err)
	}
	failures, err := replication.ApplyErrors(ctx, subscriber, sub.OID)
	if err != nil {
		return nil, c.Server(to).Wrap("reading the subscription's statistics", err)
	}
	if runs && failures <= 0 && !long {
		return nil, nil
	}
	message, err := replication.ApplyFailure(ctx, c.Server(from), publisher, c.Server(to), subscriber, name, sub.OID)
	if err != nil {
		return nil, err
	}
	count := ""
	if failures > 0 {
		count = fmt.Sprintf(" (%s so far)", phrase.Count(failures, "failure"))
	}
	if message != "" {
		return &Trouble{
			Text:   fmt.Sprintf("the %s's apply worker fails%s: %s", to, count, message),
			Remedy: replication.MendApply(to),
		}, nil
	}
	waiting, err := unsynchronized(ctx, subscriber, to, name)
	if err != nil {
		return nil, err
	}
	if len(waiting) > 0 && (failures > 0 || long) {
		return &Trouble{
			Text: fmt.Sprintf("the servers' own copy of %s does not get on%s", strings.Join(waiting, ", "), count),
			Remedy: "the target's log has the server's message; rows that violate a NOT VALID constraint cannot be copied by --method native: " +
				"repair them on the source, then run start again; or pgbaton reset, and start with --method stream",
		}, nil
	}
	if runs && failures <= 0 {
		return nil, nil
	}
	if runs {
		return &Trouble{
			Text:   fmt.Sprintf("the %s's apply worker runs, but nothing arrives, and it has failed%s", to, count),
			Remedy: fmt.Sprintf("the %s's log has the reason if it goes on failing: a full disk, a lock, a connection that breaks", to),
		}, nil
	}
	return &Trouble{
		Text: fmt.Sprintf("the subscription is enabled but its worker does not run at the moment%s", count),
		Remedy: fmt.Sprintf("after an interruption servers up to 15 take wal_retrieve_retry_interval (5 s) to start it; if it stays so, the %[1]s's log has the reason: no connection to the %[2]s (see --%[2]s-from-%[1]s), or no free worker ", to, from) +
			"(max_logical_replication_workers, max_worker_processes), or an error while applying",
	}, nil
}

// unsynchronized lists tables whose initial copy is not done.
func unsynchronized(ctx context.Context, subscriber *postgres.Session, to postgres.Side, name string) ([]string, error) {
	states, err := replication.SubscriptionTables(ctx, subscriber, name)
	var names []string
	for _, t := range states {
		if t.State == "i" || t.State == "d" {
			names = append(names, t.String())
		}
	}
	return names, postgres.Wrap(to, "reading the subscription", err)
}

// stuck notices that a stream makes no headway.
type stuck struct {
	last   int64
	since  time.Time // the figure has not changed
	looked time.Time
}

// stuckAfter is how long nothing may move before a stream is looked into:
// longer than wal_retrieve_retry_interval, after which workers are restarted.
const stuckAfter = 8 * time.Second

// look is told a figure that changes as the stream gets on. After a while
// without change it looks for the reason.
func (w *stuck) look(ctx context.Context, c Config, s *Sessions, figure int64) (*Trouble, error) {
	if w.since.IsZero() || figure != w.last {
		w.last, w.since = figure, time.Now()
		return nil, nil
	}
	if time.Since(w.since) < stuckAfter || time.Since(w.looked) < stuckAfter {
		return nil, nil
	}
	w.looked = time.Now()
	return diagnose(ctx, c, s, journal.Baton{Side: postgres.Source}, time.Since(w.since) > 3*stuckAfter)
}
