package preflight

import (
	"context"
	"fmt"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// checkUnreplicated finds rows that logical replication does not carry: large
// objects, unlogged tables, tables of extensions, foreign tables.
func checkUnreplicated(ctx context.Context, _ *survey, e *end) error {
	var largeObjects int64
	err := e.conn.QueryRow(ctx, `SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata`).Scan(&largeObjects)
	if err != nil {
		return err
	}
	if largeObjects > 0 {
		e.add(Finding{Code: "large-objects", Severity: Blocker, Side: e.Side,
			Text:   fmt.Sprintf("%s in the database: they are neither copied nor replicated", plural(int(largeObjects), "large object")),
			Remedy: "remove those that nothing refers to (vacuumlo); move the others by hand, while nobody writes them, and say --accept large-objects"})
	}

	if err := checkUnlogged(ctx, e); err != nil {
		return err
	}

	foreign, err := texts(ctx, e.conn, fmt.Sprintf(`
		SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'f' AND c.oid <> ALL ($1) AND %s AND %s
		ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`, userSchema, notExtension("c.oid", "pg_class")), e.relationsOut)
	if err != nil {
		return err
	}
	if len(foreign) > 0 {
		e.add(Finding{Code: "foreign-tables", Severity: Info, Side: e.Side, Objects: foreign,
			Text: fmt.Sprintf("%s: the definition moves, the data stays where it is; the target must reach it too", plural(len(foreign), "foreign table"))})
	}

	// What an extension's own script put into its tables is there on the target
	// as well; only the size tells, without reading, whether there are rows.
	owned, err := texts(ctx, e.conn, `
		SELECT pg_catalog.format('%I.%I of extension %I', n.nspname, c.relname, x.extname)
		FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_depend d ON d.deptype = 'e' AND d.objid = c.oid
			AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
		JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
		WHERE c.relkind = 'r' AND pg_catalog.pg_relation_size(c.oid) > 0 AND coalesce(c.oid <> ALL (x.extconfig), true)
		ORDER BY x.extname, n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`)
	if err != nil {
		return err
	}
	if len(owned) > 0 {
		e.add(Finding{Code: "extension-tables", Severity: Warning, Side: e.Side, Objects: owned,
			Text:   fmt.Sprintf("%s of extensions with rows: they belong to the extension and are not moved", plural(len(owned), "table")),
			Remedy: "what the extension did not put there itself has to be moved by its own means, such as scheduling jobs again"})
	}
	return checkConfigs(ctx, e)
}

// largeConfig is the size, in bytes, from which on reading the rows of extensions
// would be felt in the pause of a handover.
const largeConfig = 16 << 20

// checkConfigs finds the rows that extensions keep for the user.
func checkConfigs(ctx context.Context, e *end) error {
	tables, err := catalog.ConfigTables(ctx, e.conn)
	if err != nil {
		return err
	}
	var moved, large, unreadable, grants []string
	for _, t := range tables {
		name := fmt.Sprintf("%s of extension %s", t.Ident, postgres.QuoteIdent(t.Extension))
		switch {
		case !t.Readable:
			unreadable = append(unreadable, name)
			grants = append(grants, fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s", postgres.QuoteIdent(t.Schema), e.user()),
				fmt.Sprintf("GRANT SELECT ON %s TO %s", t.Ident, e.user()))
			continue
		case t.Bytes > largeConfig:
			large = append(large, fmt.Sprintf("%s: %d MB", name, t.Bytes>>20))
		}
		moved = append(moved, name)
	}
	if len(unreadable) > 0 {
		e.add(Finding{Code: "extension-rows-privilege", Severity: Warning, Side: e.Side, Objects: unreadable,
			Text:   fmt.Sprintf("%s of extensions with rows of yours that role %s may not read: they are left behind", plural(len(unreadable), "table"), e.user()),
			Remedy: statements(grants...)})
	}
	if len(moved) > 0 {
		e.add(Finding{Code: "extension-rows", Severity: Info, Side: e.Side, Objects: moved,
			Text: fmt.Sprintf("%s of extensions with rows of yours: copied by start, and set again by each handover", plural(len(moved), "table"))})
	}
	if len(large) > 0 {
		e.add(Finding{Code: "extension-rows-large", Severity: Warning, Side: e.Side, Objects: large,
			Text:   "tables of extensions that a handover reads while applications wait",
			Remedy: "remove what is not needed any more, such as records of past runs, before the switchover"})
	}
	return nil
}
