package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// This file has what is done when all rows are there, and what only helps: that
// warns, and stops nothing.

// holdChecks takes the constraints that call the user's functions from the restored
// tables, together with what more is done.
func (st *start) holdChecks(ctx context.Context, more func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, st.TargetConn, func(tx pgx.Tx) error {
		if err := schema.HoldChecks(ctx, tx); err != nil || more == nil {
			return err
		}
		return more(tx)
	})
	return st.Target.Wrap("putting constraints aside that call functions", err)
}

// planHeld adds what holdChecks does to the actions before it.
func (st *start) planHeld(ctx context.Context, before []plan.Action, err error) ([]plan.Action, error) {
	if err != nil {
		return nil, err
	}
	hold, _, err := schema.PlanChecks(ctx, st.SourceConn)
	return append(before, plan.On(postgres.Target, hold...)...), st.Source.Wrap("listing constraints", err)
}

// addChecks gives them back when all rows are there. With several groups of changes
// that is when these are drained.
func (st *start) addChecks(ctx context.Context) error {
	groups, err := st.streams(ctx)
	if err != nil || len(groups) > 1 {
		return err
	}
	const doing = "adding constraints that call functions"
	if _, err := schema.AddChecks(ctx, st.TargetConn); err != nil { // those that are gone are nobody's loss before the first handover
		return st.Target.Wrap(doing, err)
	}
	not, err := schema.ValidateChecks(ctx, st.TargetConn)
	for _, u := range not {
		st.Observe(event.Warning{Side: postgres.Target, Text: u.Text(), Remedy: u.Remedy()})
	}
	return st.Target.Wrap(doing, err)
}

// analyzeSQL gathers the statistics that are not there yet: by method stream those
// that wait for other definitions, or for all children of a table.
func (st *start) analyzeSQL(ctx context.Context, q catalog.Querier) ([]string, error) {
	if st.Method != Stream {
		return []string{"ANALYZE"}, nil
	}
	return st.analyzeEach(ctx, q, catalog.AnalyzeLater)
}

func (st *start) analyzeEach(ctx context.Context, q catalog.Querier, list func(context.Context, catalog.Querier) ([]postgres.Ident, error)) (sql []string, err error) {
	analyze := "ANALYZE "
	if st.Target.Version().Major() >= 18 {
		analyze = "ANALYZE ONLY " // before, the partitions of a partitioned table are analyzed with it
	}
	tables, err := list(ctx, q)
	for _, t := range tables {
		sql = append(sql, analyze+t.String())
	}
	return sql, err
}

// analyze gathers statistics. The server gives a whole database up at the first
// table that fails: then each is tried by itself.
func (st *start) analyze(ctx context.Context) error {
	sql, err := st.analyzeSQL(ctx, st.TargetConn)
	if err != nil {
		return st.Target.Wrap("listing tables", err)
	}
	for len(sql) > 0 {
		_, err := st.TargetConn.Exec(ctx, sql[0])
		switch {
		case err == nil:
		case ctx.Err() != nil || st.TargetConn.IsClosed():
			return st.Target.Wrap("gathering statistics", errors.Join(context.Cause(ctx), err))
		case sql[0] == "ANALYZE":
			if sql, err = st.analyzeEach(ctx, st.TargetConn, catalog.WithStatistics); err != nil {
				return st.Target.Wrap("listing tables", err)
			}
			continue
		default:
			st.Observe(event.Warning{Side: postgres.Target, Text: "gathering statistics: " + sql[0] + ": " + postgres.Describe(err),
				Remedy: fmt.Sprintf("the planner guesses until they are there: remove the cause, then %s on the target", sql[0])})
		}
		sql = sql[1:]
	}
	return nil
}
