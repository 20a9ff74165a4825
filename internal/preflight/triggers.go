package preflight

import (
	"context"
	"fmt"
	"slices"

	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// checkTriggers tells of triggers that fire in apply workers: what they did on
// the source arrives as rows, and would be done a second time.
func checkTriggers(ctx context.Context, _ *survey, e *end) error {
	triggers, err := schema.ApplyTriggers(ctx, e.conn)
	if err != nil {
		return err
	}
	triggers = slices.DeleteFunc(triggers, func(t schema.Trigger) bool { return e.excluded.Has(t.Table) })
	if len(triggers) == 0 {
		return nil
	}
	var objects []string
	for _, t := range triggers {
		kind := "ENABLE ALWAYS"
		if t.Enabled == "R" {
			kind = "ENABLE REPLICA"
		}
		objects = append(objects, fmt.Sprintf("%s on %s (%s)", postgres.QuoteIdent(t.Name), t.Table, kind))
	}
	e.add(Finding{Code: "apply-triggers", Severity: Warning, Side: e.Side, Objects: objects,
		Text: fmt.Sprintf("%s that fire for replicated rows too: pgbaton switches them off on the target while it receives, so that nothing happens twice, and restores them after the switchover", plural(len(triggers), "trigger"))})
	return nil
}
