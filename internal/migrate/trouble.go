package migrate

import (
	"context"
	"fmt"
	"time"

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
// shows, it is only behind.
func diagnose(ctx context.Context, c Config, s *Sessions) (*Trouble, error) {
	name := c.Group().Name()
	sub, err := replication.ReadSubscription(ctx, s.TargetConn, name)
	if err != nil || sub == nil || !sub.Enabled {
		return nil, postgres.Wrap(postgres.Target, "reading the subscription", err)
	}
	pids, err := replication.WorkerPIDs(ctx, s.TargetConn, name)
	if err != nil {
		return nil, postgres.Wrap(postgres.Target, "reading the subscription's workers", err)
	}
	failures, err := replication.ApplyErrors(ctx, s.TargetConn, c.Target.Version(), sub.OID)
	if err != nil {
		return nil, postgres.Wrap(postgres.Target, "reading the subscription's statistics", err)
	}
	if len(pids) > 0 && failures <= 0 {
		return nil, nil
	}
	message, err := replication.Rehearse(ctx, s.SourceConn, c.Target, name)
	if err != nil {
		return nil, err
	}
	count := ""
	if failures > 0 {
		count = fmt.Sprintf(" (%d failures so far)", failures)
	}
	if message != "" {
		return &Trouble{
			Text:   fmt.Sprintf("the target's apply worker fails%s: %s", count, message),
			Remedy: "mend the row or the definition on the target (as the role that pgbaton uses: the database is fenced); the worker tries again by itself every few seconds",
		}, nil
	}
	if len(pids) > 0 {
		return nil, nil // it failed once, and it runs
	}
	return &Trouble{
		Text: fmt.Sprintf("the subscription is enabled but its worker does not run%s", count),
		Remedy: "the target's log has the reason: no connection to the source (see --source-from-target), or no free worker " +
			"(max_logical_replication_workers, max_worker_processes), or an error while applying",
	}, nil
}

// stuck notices that a stream makes no headway.
type stuck struct {
	last  int64
	since time.Time
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
	if time.Since(w.since) < stuckAfter {
		return nil, nil
	}
	w.since = time.Now()
	return diagnose(ctx, c, s)
}
