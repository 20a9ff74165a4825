package preflight

import (
	"context"
	"fmt"

	"pgbaton/internal/phrase"
	"pgbaton/internal/postgres"
)

// contentsSQL lists what a target database holds that a restore could collide
// with. What an extension brought along is no content (of a composite type the type is its
// member, not the relation behind it); neither are row types, array types, and what
// belongs to a table.
var contentsSQL = fmt.Sprintf(`
SELECT kind || ' ' || name
FROM (
	SELECT 1 AS rank, 'schema' AS kind, pg_catalog.quote_ident(n.nspname) AS name
	FROM pg_catalog.pg_namespace n
	WHERE %[1]s AND n.nspname <> 'public' AND %[2]s
	UNION ALL
	SELECT 2, CASE c.relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
			WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'table' END,
		pg_catalog.format('%%I.%%I', n.nspname, c.relname)
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE %[1]s AND c.relkind IN ('r', 'p', 'S', 'v', 'm', 'f', 'c') AND c.relpersistence <> 't' AND %[3]s AND %[6]s
	UNION ALL
	SELECT 3, 'function', pg_catalog.format('%%I.%%I(%%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid))
	FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
	WHERE %[1]s AND %[4]s
	UNION ALL
	SELECT 4, 'type', pg_catalog.format('%%I.%%I', n.nspname, t.typname)
	FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
	WHERE %[1]s AND t.typrelid = 0 AND %[5]s
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_type el WHERE el.typarray = t.oid)
) AS contents
ORDER BY rank, name COLLATE "C"`, userSchema,
	notExtension("n.oid", "pg_namespace"), notExtension("c.oid", "pg_class"),
	notExtension("p.oid", "pg_proc"), notExtension("t.oid", "pg_type"), notExtension("c.reltype", "pg_type"))

// shownContents is how many objects a finding names.
const shownContents = 10

// checkEmpty makes sure that the target database holds nothing yet, unless a
// start of this migration has filled it.
func checkEmpty(ctx context.Context, s *survey, e *end) error {
	if !e.exists || !s.fresh(e) {
		return nil
	}
	contents, err := texts(ctx, e.conn, contentsSQL)
	if err != nil || len(contents) == 0 {
		return err
	}
	e.add(Finding{Code: "target-not-empty", Severity: Blocker, Side: e.Side, Objects: contents[:min(shownContents, len(contents))],
		Text:   fmt.Sprintf("database %s is not empty: it holds %s", e.database(), plural(len(contents), "object")),
		Remedy: "name a database that does not exist, which start creates, or one that is empty"})
	return nil
}

// checkRecord makes sure that a side takes part in no other migration. A start
// that continues finds its own.
func checkRecord(s *survey, e *end) {
	r := e.record
	if r == nil {
		return
	}
	f := Finding{Code: "migration-active", Severity: Blocker, Side: e.Side}
	switch {
	case r.Name != s.Name:
		f.Text = fmt.Sprintf("the database belongs to migration %q, which is not finished", r.Name)
		f.Remedy = fmt.Sprintf("continue that one with --migration %s, or end it with pgbaton finish or pgbaton reset", phrase.Shell(r.Name))
	case r.Side != e.Side:
		f.Text = fmt.Sprintf("the database given as %s is the %s of migration %q", e.Side, r.Side, r.Name)
		f.Remedy = "exchange --source and --target"
	default:
		return
	}
	e.add(f)
}

// checkSameRun says whether both records, if there are two, are of one run.
func checkSameRun(s *survey) {
	source, target := s.source.record, s.target.record
	if source == nil || target == nil || source.Name != s.Name || target.Name != s.Name || source.ID == target.ID {
		return
	}
	s.add(Finding{Code: "migration-active", Severity: Blocker, Side: postgres.Target,
		Text:   fmt.Sprintf("source and target belong to different runs of migration %q", s.Name),
		Remedy: "check --source and --target; pgbaton reset removes what is left of an earlier run"})
}
