package migrate

import (
	"context"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// This file has the planner's statistics of method stream. A target of 18 or newer
// takes those of columns from the source, in the archive with the definitions, before
// the rows: nothing of the load removes them. How many rows and pages a table has, a
// target finds out by itself when it builds an index. Where that is not all that
// belongs to a table, or where the source's are missing or old, it is analyzed.

// takesStatistics says whether the target can be given the source's statistics.
func (st *start) takesStatistics() bool {
	return st.Method == Stream && st.Target.Version().Major() >= 18
}

// dumpSchema is the pg_dump of the definitions, with what else goes into the archive.
func (st *start) dumpSchema(defined bool) schema.Command {
	c := schema.DumpSchema(st.Source, st.snapshot(), st.archiveFile(), st.exclusion)
	if st.takesStatistics() && !defined {
		c = c.WithStatistics()
	}
	return c
}

func (st *start) restoreStatistics(archive string) schema.Command {
	return schema.Restore(st.Target, archive, schema.Data, schema.RestoreOptions{Jobs: st.Jobs})
}

func (st *start) planStatistics() []Action {
	if !st.takesStatistics() {
		return nil
	}
	return []Action{{"operator", st.restoreStatistics(st.archiveFile()).String()}}
}

// runStatistics gives the target the source's statistics. What it does not take is
// gathered: no reason to stop.
func (st *start) runStatistics(ctx context.Context) error {
	if !st.takesStatistics() {
		return nil
	}
	helps, err := schema.RunRestore(ctx, st.tools, st.restoreStatistics(st.archive), nil)
	switch {
	case ctx.Err() != nil:
		return err
	case err != nil:
		helps = append(helps, postgres.Describe(err))
	}
	if len(helps) > 0 {
		st.Observe(event.Warning{Side: string(postgres.Target), Text: "the source's statistics could not be restored in full: " + helps[0],
			Remedy: "nothing: what is missing is gathered on the target"})
	}
	return nil
}

// analyzed lists the tables that need not be analyzed. A plan, whose target is still
// empty, takes it that all that the source has arrives.
func (st *start) analyzed(ctx context.Context) (map[postgres.Ident]bool, error) {
	if !st.takesStatistics() {
		return nil, nil
	}
	target := st.TargetConn
	if target == nil {
		target = st.maintenance
	}
	var counts bool // an index build does, the rows
	if err := target.QueryRow(ctx, `SELECT pg_catalog.current_setting('autovacuum')::boolean`).Scan(&counts); err != nil || !counts {
		return nil, postgres.Wrap(postgres.Target, "reading settings", err)
	}
	fresh, err := catalog.FreshStatistics(ctx, st.SourceConn)
	if err != nil {
		return nil, postgres.Wrap(postgres.Source, "looking for statistics", err)
	}
	side, conn := postgres.Target, st.TargetConn
	if st.targetRecord == nil {
		side, conn = postgres.Source, st.SourceConn
	}
	have, err := catalog.HaveStatistics(ctx, conn, st.Server(side).Version())
	if err != nil {
		return nil, postgres.Wrap(side, "looking for statistics", err)
	}
	for t := range fresh {
		if !have[t] {
			delete(fresh, t)
		}
	}
	return fresh, nil
}
