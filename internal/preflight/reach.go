package preflight

import (
	"context"
	"fmt"
	"strings"

	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// probe lets the subscriber's server connect to the publisher's. It takes a
// session of its own: creating a subscription, even one that is rolled back, is
// a write.
func probe(ctx context.Context, subscriber *end, conninfo postgres.Conninfo) error {
	var conn *postgres.Session
	var err error
	if subscriber.exists {
		conn, err = subscriber.Connect(ctx)
	} else {
		conn, err = schema.ConnectMaintenance(ctx, subscriber.Server)
	}
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return replication.Probe(ctx, conn, conninfo)
}

// probeSource lets the target reach the source, as the subscription will.
func probeSource(ctx context.Context, s *survey, e *end) error {
	// Without these rights, which are findings of their own, the server does not
	// come to the point of connecting, or is turned away there.
	lacking := s.SourceFromTarget.User() == s.source.role.name && !s.source.role.mayReplicate()
	if lacking || e.standby || !e.maySubscribe() || e.exists && !e.role.create {
		return nil
	}
	conninfo := s.SourceFromTarget.For(e.Version())
	err := probe(ctx, e, conninfo)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !e.exists && postgres.Code(err) == postgres.InsufficientPrivilege {
		e.add(Finding{Code: "probe-source-from-target", Severity: Info, Side: e.Side,
			Text: fmt.Sprintf("whether the target's server reaches the source could not be tried before database %s exists: role %s may create nothing in the maintenance database", e.database(), e.user())})
		return nil
	}
	connecting, hint := replication.SubscribeFailure(e.Side, e.Version(), err)
	what := "subscribe"
	if connecting {
		what = "connect"
	}
	e.add(Finding{Code: "probe-source-from-target", Severity: Blocker, Side: e.Side, Remedy: hint,
		Text: fmt.Sprintf("the target's server cannot %s to the source with %s: %s", what, conninfo.Redacted(), redact(postgres.Describe(err), conninfo))})
	return nil
}

// checkKeywords says what a subscriber's libpq is too old for: its subscription
// connects without.
func checkKeywords(ctx context.Context, s *survey, e *end) error {
	for _, way := range []struct {
		reach      postgres.Reach
		flag       string
		subscriber *end
	}{{s.SourceFromTarget, "--source-from-target", s.target}, {s.TargetFromSource, "--target-from-source", s.source}} {
		names := way.reach.LeftOut(way.subscriber.Version())
		if len(names) == 0 {
			continue
		}
		s.add(Finding{Code: "connection-keywords", Severity: Warning, Side: way.subscriber.Side, Objects: names,
			Text: fmt.Sprintf("PostgreSQL %d does not know %s: the %s's server connects to the %s without", way.subscriber.Version().Major(),
				list(names), way.subscriber.Side, way.subscriber.Side.Other()),
			Remedy: fmt.Sprintf("if that will do, say so: %s \"%s=''\"; if it protected the connection, give there what does the same in that version, for instance sslmode=verify-full",
				way.flag, strings.Join(names, "='' "))})
	}
	return nil
}

// probeTarget lets the source reach the target, as the way back will. A target
// database that is still to be made is stood in for by the maintenance database.
func probeTarget(ctx context.Context, s *survey, e *end) error {
	conninfo := s.TargetFromSource.For(s.source.Version())
	if !e.exists {
		conninfo = conninfo.With("dbname", e.conn.Config().Database)
	}
	if s.source.standby {
		return nil // a finding of its own
	}
	err := probe(ctx, s.source, conninfo)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f := Finding{Code: "probe-target-from-source", Severity: Warning, Side: s.source.Side,
		Text: fmt.Sprintf("the source's server cannot subscribe to the target with %s, so rollback will not be possible: %s",
			conninfo.Redacted(), redact(postgres.Describe(err), conninfo)),
	}
	if _, f.Remedy = replication.SubscribeFailure(s.source.Side, s.source.Version(), err); !s.source.maySubscribe() && s.source.Version().Major() >= 16 {
		f.Remedy = s.source.grantRoles("pg_create_subscription")
	}
	s.add(f)
	return nil
}
