package migrate

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// copyConfigs copies the rows that extensions keep for the user into the tables that
// CREATE EXTENSION has made, under a snapshot if there is one. Rows of other tables
// may refer to them, so they come first. By method dump they were read with the dump.
func (st *start) copyConfigs(ctx context.Context, snapshot string) error {
	configs, left, err := schema.ReadConfigs(ctx, st.SourceConn, st.TargetConn)
	if err != nil {
		return st.Source.Wrap("listing the tables of extensions", err)
	}
	for _, text := range left {
		st.Observe(event.Warning{Side: postgres.Source, Text: text, Remedy: "move them by hand, or by the extension's own means"})
	}
	if len(configs) == 0 {
		return nil
	}
	copyAll := func() error {
		for _, c := range configs {
			rows, read := st.configRows[c.From.Ident]
			if !read {
				if rows, err = c.Read(ctx, st.SourceConn); err != nil {
					return st.Source.Wrap("reading the rows of extensions", err)
				}
			}
			unheard, err := c.Write(ctx, st.TargetConn, rows)
			if unheard != nil {
				st.Observe(event.Warning{Side: postgres.Target, Text: c.Unheard(unheard), Remedy: schema.UnheardRemedy})
			}
			if err != nil {
				return st.Target.WrapHint("writing the rows of extensions", err,
					fmt.Sprintf("the extension's version may not be the source's: ALTER EXTENSION %s UPDATE on the source, where packages allow; then run start again", postgres.QuoteIdent(c.To.Extension)))
			}
		}
		return nil
	}
	if snapshot == "" {
		return copyAll()
	}
	return underSnapshot(ctx, st.SourceConn, snapshot, func(pgx.Tx) error { return copyAll() })
}

// dumpConfigs reads the rows under the snapshot of the dump. What the archive has of
// them is not restored: the target's extension may have some of them by itself.
func (st *start) dumpConfigs(ctx context.Context, snapshot string) (err error) {
	err = underSnapshot(ctx, st.SourceConn, snapshot, func(tx pgx.Tx) error {
		if st.configs, err = catalog.ConfigTables(ctx, tx); err != nil {
			return err
		}
		st.configRows = map[postgres.Ident][]byte{}
		for _, t := range st.configs {
			if !t.Readable {
				continue // said by copyConfigs
			}
			if st.configRows[t.Ident], err = (schema.Config{From: t}).Read(ctx, st.SourceConn); err != nil {
				return err
			}
		}
		return nil
	})
	return st.Source.Wrap("reading the rows of extensions", err)
}

// planConfigs adds what copyConfigs does to the actions before it.
func (st *start) planConfigs(ctx context.Context, before []plan.Action, err error) ([]plan.Action, error) {
	if err != nil {
		return nil, err
	}
	configs, _, err := schema.ReadConfigs(ctx, st.SourceConn, st.SourceConn)
	for _, c := range configs {
		before = append(before, plan.On(postgres.Source, c.ReadSQL())...)
		before = append(before, plan.On(postgres.Target, c.ClearSQL(), "COPY "+c.To.Ident.String()+" FROM STDIN")...)
		before = append(before, plan.On(postgres.Target, c.HeedSQL()...)...)
	}
	return before, st.Source.Wrap("listing the tables of extensions", err)
}
