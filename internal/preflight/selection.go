package preflight

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
)

// readSelection learns what the filters leave out of the source, for its own
// checks and for those to which a relation that stays behind does not matter.
// Neither list is nil: SQL would take that for unknown.
func (e *end) readSelection(ctx context.Context) (err error) {
	if e.excluded, err = catalog.Excluded(ctx, e.conn, e.selection); err != nil {
		return err
	}
	e.schemasOut = append([]string{}, e.excluded.Schemas...)
	e.relationsOut, err = e.excluded.OIDs(ctx, e.conn)
	return err
}

// checkSelection looks at where the filters cut. What is left out takes foreign
// keys and views with it; whatever else would need it could not be restored.
func checkSelection(ctx context.Context, _ *survey, e *end) error {
	if e.selection.IsZero() {
		return nil
	}
	unused, err := e.selection.Unused(ctx, e.conn)
	if err != nil {
		return err
	}
	if len(unused) > 0 {
		e.add(Finding{Code: "selection-unused", Severity: Warning, Side: e.Side, Objects: unused,
			Text:   fmt.Sprintf("%s without effect: nothing has such a name, or another filter leaves it out", plural(len(unused), "filter")),
			Remedy: "look at the spelling: names are folded to lower case outside double quotes, and a dot separates schema and table"})
	}
	if len(e.tables) == 0 {
		e.add(Finding{Code: "selection-empty", Severity: Blocker, Side: e.Side,
			Text:   "the filters leave no table to migrate",
			Remedy: "widen --schema and --table, or take filters away"})
		return nil
	}
	if err := checkLostForeignKeys(ctx, e); err != nil {
		return err
	}
	if views := e.excluded.Views; len(views) > 0 {
		var objects []string
		for _, v := range views {
			objects = append(objects, v.String())
		}
		e.add(Finding{Code: "selection-views", Severity: Warning, Side: e.Side, Objects: objects,
			Text:   fmt.Sprintf("%s will be left out: they read what the filters leave out", plural(len(views), "view")),
			Remedy: "include what they read, or create them on the target by hand, without it"})
	}
	return checkNeeded(ctx, e)
}

func checkLostForeignKeys(ctx context.Context, e *end) error {
	keys, err := catalog.LostForeignKeys(ctx, e.conn, e.excluded)
	if err != nil || len(keys) == 0 {
		return err
	}
	var objects []string
	for _, k := range keys {
		object := fmt.Sprintf("%s on %s references %s", pgx.Identifier{k.Name}.Sanitize(), k.Table, k.References)
		if k.Partly {
			object += ", of which partitions are left out"
		}
		objects = append(objects, object)
	}
	e.add(Finding{Code: "selection-foreign-keys", Severity: Warning, Side: e.Side, Objects: objects,
		Text:   fmt.Sprintf("%s will be left out: the rows that they refer to are", plural(len(keys), "foreign key")),
		Remedy: "include the referenced tables, or know that the target does not guard these references"})
	return nil
}

// neededSQL lists what stays and cannot be restored without something that is
// left out: relations ($1) and whole schemas ($2).
//
// gone is everything that goes: those relations and what lies in those schemas,
// then what is a part of it by an automatic or internal dependency, such as row
// types, indexes, defaults and triggers. A relation is never taken for a part:
// partitions depend on their parents in the same way. Members of extensions come
// with these, and temporary objects are nobody's.
//
// Foreign keys have a finding of their own, and publications are not moved.
const neededSQL = `
WITH RECURSIVE gone (classid, objid) AS (
	(
		SELECT d.classid, d.objid
		FROM pg_catalog.pg_depend d
		JOIN pg_catalog.pg_namespace n ON d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND n.oid = d.refobjid
		WHERE (n.nspname::text = ANY ($2::text[]) OR n.nspname ~ '^pg_temp_')
			AND d.classid <> 'pg_catalog.pg_extension'::pg_catalog.regclass
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x
				WHERE x.deptype = 'e' AND x.classid = d.classid AND x.objid = d.objid)
		UNION ALL
		SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, pg_catalog.unnest($1::pg_catalog.oid[])
		UNION ALL
		SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, oid FROM pg_catalog.pg_class WHERE relpersistence = 't'
	)
	UNION
	SELECT d.classid, d.objid
	FROM gone
	JOIN pg_catalog.pg_depend d ON d.refclassid = gone.classid AND d.refobjid = gone.objid
	WHERE d.deptype NOT IN ('n', 'e', 'x')
		AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND EXISTS (
			SELECT FROM pg_catalog.pg_class c WHERE c.oid = d.objid AND c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S')))
)
SELECT DISTINCT pg_catalog.format('%s needs %s',
	CASE WHEN d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
		THEN (SELECT pg_catalog.pg_describe_object('pg_catalog.pg_class'::pg_catalog.regclass, w.ev_class, 0)
			FROM pg_catalog.pg_rewrite w WHERE w.oid = d.objid)
		ELSE pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
	END,
	pg_catalog.pg_describe_object(d.refclassid, d.refobjid, 0)) COLLATE "C"
FROM gone
JOIN pg_catalog.pg_depend d ON d.refclassid = gone.classid AND d.refobjid = gone.objid
WHERE d.deptype IN ('n', 'a')
	AND d.classid NOT IN ('pg_catalog.pg_extension'::pg_catalog.regclass, 'pg_catalog.pg_publication_rel'::pg_catalog.regclass)
	AND (d.classid, d.objid) NOT IN (SELECT classid, objid FROM gone)
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
		WHERE d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.oid = d.objid AND k.contype = 'f')
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x
		WHERE x.deptype = 'e' AND x.classid = d.classid AND x.objid = d.objid)
ORDER BY 1`

func checkNeeded(ctx context.Context, e *end) error {
	objects, err := texts(ctx, e.conn, neededSQL, e.relationsOut, e.schemasOut)
	if err != nil || len(objects) == 0 {
		return err
	}
	e.add(Finding{Code: "selection-dependency", Severity: Blocker, Side: e.Side, Objects: objects,
		Text:   fmt.Sprintf("%s that could not be restored without what the filters leave out", plural(len(objects), "definition")),
		Remedy: "include what is needed (a type or function is included with its schema: --schema; its tables can stay out: --exclude-table 'SCHEMA.*'), or leave out what needs it too"})
	return nil
}
