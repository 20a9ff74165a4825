package migrate

import (
	"context"
	"path/filepath"
	"slices"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// This file has the planner's statistics of method stream. A target of 18 or newer
// takes those of columns from the source, in the archive with the definitions, before
// the rows: nothing of the load removes them. How many rows and pages a table has, a
// target finds out by itself when it builds an index. Where that is not all that
// belongs to a table, or where the source's are missing or old, it is analyzed.

// worthTaking is the size of a table, in bytes, from which on statistics are taken: of
// a smaller one they are gathered faster than they are dumped and restored.
const worthTaking = 1 << 20

// taken lists the tables whose statistics the target is to be given.
func (st *start) taken(ctx context.Context) (map[postgres.Ident]bool, error) {
	if st.Method != Stream || st.Target.Version().Major() < 18 {
		return nil, nil
	}
	target := st.TargetConn
	if target == nil {
		target = st.maintenance
	}
	var counts bool // an index build does, the rows
	if err := target.QueryRow(ctx, `SELECT pg_catalog.current_setting('autovacuum')::boolean`).Scan(&counts); err != nil || !counts {
		return nil, st.Target.Wrap("reading settings", err)
	}
	fresh, err := catalog.FreshStatistics(ctx, st.SourceConn)
	if err != nil {
		return nil, st.Source.Wrap("looking for statistics", err)
	}
	taken := map[postgres.Ident]bool{}
	for _, t := range st.world.tables {
		if t.Bytes > worthTaking && fresh[t.Ident] {
			taken[t.Ident] = true
		}
	}
	return taken, nil
}

// dumpSchema is the pg_dump of the definitions, with what else goes into the archive.
func (st *start) dumpSchema(ctx context.Context, defined bool) (schema.Command, error) {
	c := schema.DumpSchema(st.Source, st.snapshot(), st.archiveFile(), st.exclusion)
	taken, err := st.taken(ctx)
	if len(taken) > 0 && !defined {
		c = c.WithStatistics()
	}
	return c, err
}

func (st *start) statisticsList() string { return filepath.Join(st.workDir, "statistics.list") }

func (st *start) restoreStatistics(archive string) schema.Command {
	return schema.Restore(st.Target, archive, schema.Data, schema.RestoreOptions{Jobs: st.Jobs, List: st.statisticsList()})
}

func (st *start) planStatistics(ctx context.Context) ([]plan.Action, error) {
	taken, err := st.taken(ctx)
	if err != nil || len(taken) == 0 {
		return nil, err
	}
	return []plan.Action{{Where: "operator", Do: st.restoreStatistics(st.archiveFile()).String()}}, nil
}

// runStatistics gives the target the source's statistics. What it does not take is
// gathered: no reason to stop.
func (st *start) runStatistics(ctx context.Context) error {
	taken, err := st.taken(ctx)
	if err != nil || len(taken) == 0 {
		return err
	}
	entries, err := schema.Entries(ctx, st.tools, st.archive, schema.Data)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for t := range taken {
		named[schema.StatisticsName(t)] = true
	}
	entries = slices.DeleteFunc(entries, func(e schema.Entry) bool { return !named[e.Statistics()] })
	if len(entries) == 0 { // they became fresh just now
		return nil
	}
	if err := schema.WriteList(st.statisticsList(), entries); err != nil {
		return err
	}
	helps, err := schema.RunRestore(ctx, st.tools, st.restoreStatistics(st.archive), nil)
	switch {
	case ctx.Err() != nil:
		return err
	case err != nil:
		helps = append(helps, postgres.Describe(err))
	}
	if len(helps) > 0 {
		st.Observe(event.Warning{Side: postgres.Target, Text: "the source's statistics could not be restored in full: " + helps[0],
			Remedy: "nothing: what is missing is gathered on the target"})
	}
	return nil
}

// analyzed lists the tables that need not be analyzed. A plan, whose target is still
// empty, takes it that all that the source has arrives.
func (st *start) analyzed(ctx context.Context) (map[postgres.Ident]bool, error) {
	taken, err := st.taken(ctx)
	if err != nil || len(taken) == 0 {
		return nil, err
	}
	side, conn := postgres.Target, st.TargetConn
	if st.targetRecord == nil {
		side, conn = postgres.Source, st.SourceConn
	}
	have, err := catalog.HaveStatistics(ctx, conn)
	if err != nil {
		return nil, st.Server(side).Wrap("looking for statistics", err)
	}
	for t := range taken {
		if !have[t] {
			delete(taken, t)
		}
	}
	return taken, nil
}
