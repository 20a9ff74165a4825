package migrate

import (
	"context"
	"time"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// This file reads what the tables are divided by into groups, whose changes are applied
// in parallel.

// divide puts tables into groups of about the same number of writes, and of bytes
// where nothing is written. Tables that foreign keys connect stay together.
func (st *start) divide(ctx context.Context, tables []catalog.Table) ([][]catalog.Table, error) {
	if st.Groups == 1 || len(tables) < 2 {
		return [][]catalog.Table{tables}, nil
	}
	if st.Groups == 0 {
		n, err := st.groupsForWrites(ctx)
		if err != nil || n == 1 {
			return [][]catalog.Table{tables}, err
		}
		st.Groups = n
	}
	writes, err := catalog.Writes(ctx, st.SourceConn)
	if err != nil {
		return nil, st.Source.Wrap("reading the statistics of writes", err)
	}
	keys, err := catalog.ForeignKeys(ctx, st.SourceConn)
	if err != nil {
		return nil, st.Source.Wrap("listing foreign keys", err)
	}
	partitioned, err := catalog.PartitionedKeys(ctx, st.SourceConn)
	if err != nil {
		return nil, st.Source.Wrap("listing foreign keys", err)
	}
	return pack(tables, ties(keys, partitioned), writes, st.Groups), nil
}

// watchWrites is how long writes are counted for --groups auto.
const watchWrites = 3 * time.Second

// groupsForWrites is how many groups the writes of now ask for.
func (st *start) groupsForWrites(ctx context.Context) (int, error) {
	count := func() (total int64, err error) {
		byTable, err := catalog.Writes(ctx, st.SourceConn)
		for _, n := range byTable {
			total += n
		}
		return total, st.Source.Wrap("reading the statistics of writes", err)
	}
	before, err := count()
	if err == nil {
		err = postgres.Pause(ctx, watchWrites)
	}
	if err != nil {
		return 0, err
	}
	after, err := count()
	return groupsFor(after-before, watchWrites), err
}
