package migrate

import (
	"context"
	"strings"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// This file has what every restore of an archive shares.

// restoreOptions asks which of the roles that the source's objects name the
// target has.
func (st *start) restoreOptions(ctx context.Context) (schema.RestoreOptions, error) {
	ownership, err := schema.ReadOwnership(ctx, st.SourceConn)
	if err != nil {
		return schema.RestoreOptions{}, st.Source.Wrap("reading owners and grants", err)
	}
	exists := map[string]bool{}
	if st.TargetConn == nil { // a plan for a database that is still to be made
		for _, r := range append(ownership.Owners, ownership.Grantees...) {
			exists[r] = true
		}
	} else if exists, err = schema.Roles(ctx, st.TargetConn); err != nil {
		return schema.RestoreOptions{}, st.Target.Wrap("listing roles", err)
	}
	return ownership.OptionsFor(exists, st.Jobs), nil
}

func (st *start) planSection(ctx context.Context, archive, section string) ([]plan.Action, error) {
	o, err := st.restoreOptions(ctx)
	return []plan.Action{{Where: "operator", Do: schema.Restore(st.Target, archive, section, o).String()}}, err
}

func (st *start) restoreSection(ctx context.Context, section string) error {
	o, err := st.restoreOptions(ctx)
	if err == nil && section == schema.Everything {
		o.List, err = st.restoreList(ctx)
	}
	if err != nil {
		return err
	}
	return st.restore(ctx, section, o, nil)
}

// restore runs a restore, and warns of what only helps and could not be restored.
func (st *start) restore(ctx context.Context, section string, o schema.RestoreOptions, onItem func(id string)) error {
	helps, err := schema.RunRestore(ctx, st.tools, schema.Restore(st.Target, st.archive, section, o), onItem)
	for _, text := range helps {
		st.Observe(event.Warning{Side: postgres.Target, Text: "not restored: " + strings.ReplaceAll(text, "\n", " "),
			Remedy: "rows and all other definitions are complete without it; if it is wanted, remove the cause and run the statement there by hand"})
	}
	return err
}

// restoreList writes a list of the archive's entries without the foreign keys that
// refer to tables which are not moved, and without the refreshes of materialized
// views and the rows of extensions' tables: these are done otherwise.
func (st *start) restoreList(ctx context.Context) (file string, err error) {
	lost, err := catalog.LostForeignKeys(ctx, st.SourceConn, st.exclusion)
	if err != nil {
		return "", st.Source.Wrap("listing foreign keys", err)
	}
	entries, err := schema.Entries(ctx, st.tools, st.archive, schema.Everything)
	if err != nil {
		return "", err
	}
	entries = schema.WithoutConfigs(schema.WithoutRefreshes(schema.Without(entries, leftOut(lost))), st.configs)
	return st.listFile(), schema.WriteList(st.listFile(), entries)
}

func leftOut(lost []catalog.LostForeignKey) (constraints []schema.Constraint) {
	for _, f := range lost {
		constraints = append(constraints, schema.Constraint{OID: f.OID, Table: f.Table, Name: f.Name})
	}
	return constraints
}
