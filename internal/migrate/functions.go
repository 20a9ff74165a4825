package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"pgbaton/internal/event"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// This file has the step that brings functions which an earlier run has defined on
// the target up to the source's: one that was mended there must not stop the copy,
// or the stream, a second time.

// readFunctions lists them; nil as long as nothing is defined on the target.
func (st *start) readFunctions(ctx context.Context) (*schema.Functions, error) {
	if st.targetRecord == nil {
		return nil, nil
	}
	defined, err := st.isDefined(ctx)
	if err == nil && !defined {
		defined, err = st.isLoaded(ctx)
	}
	if err != nil || !defined {
		return nil, err
	}
	return schema.ReadFunctions(ctx, st.SourceConn, st.TargetConn, st.exclusion)
}

func (st *start) planFunctions(ctx context.Context) ([]plan.Action, error) {
	functions, err := st.readFunctions(ctx)
	if err != nil || functions == nil {
		return nil, err
	}
	var sql []string
	for _, f := range functions.Changes {
		sql = append(sql, f.Definition)
	}
	return plan.On(postgres.Target, sql...), nil
}

// doneFunctions: what the target refuses is tried again by the next start.
func (st *start) doneFunctions(ctx context.Context) (bool, error) {
	functions, err := st.readFunctions(ctx)
	return functions == nil || functions.Settled(), err
}

func (st *start) runFunctions(ctx context.Context) error {
	functions, err := st.readFunctions(ctx)
	if err != nil || functions == nil {
		return err
	}
	failed, err := functions.Apply(ctx, st.TargetConn)
	if err != nil {
		return st.Target.Wrap("bringing functions up to the source's", err)
	}
	var done []string
	for _, f := range functions.Changes {
		if failed[f.Signature] == nil {
			done = append(done, f.Signature)
		}
	}
	if len(done) > 0 {
		st.Observe(event.Warning{Side: postgres.Target,
			Text: "functions were changed on the source since an earlier run; the target has them now: " + strings.Join(done, ", ")})
	}
	for _, signature := range slices.Sorted(maps.Keys(failed)) {
		remedy := "change it on the target by hand, as pgbaton's role, after SET default_transaction_read_only = off; or pgbaton reset, and start again"
		var missing *schema.MissingOwner
		if errors.As(failed[signature], &missing) {
			remedy = fmt.Sprintf("CREATE ROLE %s on the target, then start again", postgres.QuoteIdent(missing.Owner))
		}
		st.Observe(event.Warning{Side: postgres.Target,
			Text:   fmt.Sprintf("function %s was changed on the source since an earlier run, and the target does not take it: %s", signature, postgres.Describe(failed[signature])),
			Remedy: remedy})
	}
	return nil
}
