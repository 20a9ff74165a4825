package migrate

import (
	"context"

	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
	"pgbaton/internal/refusal"
)

// Check looks at both servers for what a start would need; again, when somebody has
// ended its sessions.
func Check(ctx context.Context, c Config) (report preflight.Report, err error) {
	for range looksTimes {
		if report, err = preflight.Run(ctx, c.Input); !postgres.Ended(err) || ctx.Err() != nil {
			break
		}
	}
	return report, err
}

// checked refuses a start with what check finds in its way, and observes its warnings
// once the start may begin.
func (m *Migration) checked(ctx context.Context) (warn func(), err error) {
	report, err := Check(ctx, m.Config)
	if err != nil {
		return nil, err
	}
	if found := report.Blockers(); len(found) > 0 {
		refused := &refusal.Refusal{What: "start"}
		for _, f := range found {
			why := f.Text
			if f.Side != "" {
				why = string(f.Side) + ": " + why
			}
			refused.Reasons = append(refused.Reasons, refusal.Reason{Why: why, Remedy: f.Remedy})
		}
		return nil, refused
	}
	return func() {
		for _, f := range report.Findings {
			if f.Severity == preflight.Warning {
				m.Observe(event.Warning{Side: f.Side, Text: f.Text, Remedy: f.Remedy})
			}
		}
	}, nil
}
