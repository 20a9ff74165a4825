package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// checkRemoved finds what the source uses and newer servers no longer have.
func checkRemoved(ctx context.Context, s *survey, e *end) error {
	from, to := s.source.Version().Major(), e.Version().Major()
	if from < 12 && to >= 12 {
		if err := checkOIDs(ctx, s.source); err != nil {
			return err
		}
		if err := checkRemovedTypes(ctx, s.source); err != nil {
			return err
		}
	}
	if from < 14 && to >= 14 {
		if err := checkRemovedFunctions(ctx, s.source, e); err != nil {
			return err
		}
	}
	if from < 19 && to >= 19 {
		if err := checkLineBreaks(ctx, s.source, e); err != nil {
			return err
		}
	}
	return checkRemovedSettings(ctx, s.source, e)
}

// checkOIDs: tables WITH OIDS do not exist since 12.
func checkOIDs(ctx context.Context, e *end) error {
	tables, err := texts(ctx, e.conn, fmt.Sprintf(`
		SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relhasoids AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid <> ALL ($1) AND %s AND %s
		ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`, userSchema, notExtension("c.oid", "pg_class")), e.relationsOut)
	if err != nil || len(tables) == 0 {
		return err
	}
	var sql []string
	for _, t := range tables {
		sql = append(sql, fmt.Sprintf("ALTER TABLE %s SET WITHOUT OIDS", t))
	}
	e.add(Finding{Code: "with-oids", Severity: Blocker, Side: e.Side, Objects: tables, Remedy: statements(sql...),
		Text: fmt.Sprintf("%s WITH OIDS, which do not exist since 12", plural(len(tables), "table"))})
	return nil
}

// checkRemovedTypes: abstime, reltime and tinterval are gone since 12. A table
// may also still have a column of type unknown, from before 10.
func checkRemovedTypes(ctx context.Context, e *end) error {
	rows, err := e.conn.Query(ctx, fmt.Sprintf(`
		SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), pg_catalog.quote_ident(a.attname),
			pg_catalog.format_type(a.atttypid, a.atttypmod), c.relkind = 'r'
		FROM pg_catalog.pg_attribute a
		JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
		WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'c', 'v', 'm', 'f')
			AND (SELECT array_agg(x) FROM (VALUES (t.oid), (t.typelem), (t.typbasetype)) AS v (x)) && ARRAY[702, 703, 704, 705]::oid[]
			AND c.oid <> ALL ($1) AND n.nspname::text <> ALL ($2) AND %s
		ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C", a.attnum`, userSchema), e.relationsOut, e.schemasOut)
	if err != nil {
		return err
	}
	var table, column, typ string
	var alterable bool
	var objects, sql []string
	_, err = pgx.ForEachRow(rows, []any{&table, &column, &typ, &alterable}, func() error {
		objects = append(objects, fmt.Sprintf("%s.%s %s", table, column, typ))
		element, array := strings.CutSuffix(typ, "[]")
		to := map[string]string{"abstime": "timestamptz", "reltime": "interval", "unknown": "text"}[element]
		if array {
			to += "[]"
		}
		if alterable && strings.TrimSuffix(to, "[]") != "" {
			sql = append(sql, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s", table, column, to))
		} else {
			sql = append(sql, fmt.Sprintf("-- change %s.%s to a type that still exists", table, column))
		}
		return nil
	})
	if err != nil || len(objects) == 0 {
		return err
	}
	e.add(Finding{Code: "removed-types", Severity: Blocker, Side: e.Side, Objects: objects, Remedy: statements(sql...),
		Text: fmt.Sprintf("%s of a type that does not exist since 12", plural(len(objects), "column"))})
	return nil
}

// removedFunctionsSQL lists what a restore into 14 or newer fails on: aggregates
// and operators over functions whose arguments became anycompatible
// (src/bin/pg_upgrade/check.c, check_for_incompatible_polymorphics), postfix
// operators, and the factorial operators and their function. Relations $1 and
// schemas $2 are left out.
const removedFunctionsSQL = `
WITH changed AS (
	SELECT p.oid
	FROM pg_catalog.pg_proc p
	WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
		AND p.proname IN ('array_append', 'array_cat', 'array_prepend', 'array_remove', 'array_replace',
			'array_position', 'array_positions', 'width_bucket')
		AND 'anyarray'::pg_catalog.regtype = ANY (p.proargtypes::oid[])
)
SELECT pg_catalog.format('aggregate %%s uses %%s', a.aggfnoid::pg_catalog.regprocedure,
	CASE WHEN a.aggtransfn IN (SELECT oid FROM changed) THEN a.aggtransfn ELSE a.aggfinalfn END)
FROM pg_catalog.pg_aggregate a
JOIN pg_catalog.pg_proc p ON p.oid = a.aggfnoid
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE a.aggtranstype IN ('anyarray'::pg_catalog.regtype, 'anyelement'::pg_catalog.regtype)
	AND (a.aggtransfn IN (SELECT oid FROM changed) OR a.aggfinalfn IN (SELECT oid FROM changed))
	AND n.nspname::text <> ALL ($2) AND %[1]s
UNION ALL
SELECT pg_catalog.format('operator %%s uses %%s', o.oid::pg_catalog.regoperator, o.oprcode)
FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
WHERE (o.oprcode::oid IN (SELECT oid FROM changed)
		AND o.oprleft IN ('anyarray'::pg_catalog.regtype, 'anyelement'::pg_catalog.regtype)
		OR o.oprright = 0 OR o.oprcode::oid = 'pg_catalog.numeric_fac'::pg_catalog.regproc)
	AND n.nspname::text <> ALL ($2) AND %[1]s
UNION ALL
SELECT pg_catalog.format('view %%I.%%I uses a factorial operator', n.nspname, c.relname)
FROM pg_catalog.pg_rewrite r
JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE r.ev_action::text ~ ':opno (388|389) '
	AND c.oid <> ALL ($1) AND %[1]s
ORDER BY 1`

func checkRemovedFunctions(ctx context.Context, e, target *end) error {
	objects, err := texts(ctx, e.conn, fmt.Sprintf(removedFunctionsSQL, userSchema), e.relationsOut, e.schemasOut)
	if err != nil || len(objects) == 0 {
		return err
	}
	e.add(Finding{Code: "removed-functions", Severity: Blocker, Side: postgres.Source, Objects: objects,
		Text:   fmt.Sprintf("%s that cannot be created on %s as defined: factorial and postfix operators are gone since 14, and array functions take anycompatible arguments", plural(len(objects), "object"), target.Version()),
		Remedy: "drop them on the source, and create them anew on the target after the switchover: aggregates over anycompatiblearray, factorial() instead of !"})
	return nil
}

// checkLineBreaks: databases and roles cannot have them in their names since 19
// (https://www.postgresql.org/docs/19/release-19.html).
func checkLineBreaks(ctx context.Context, source, target *end) error {
	const breaks = "\n\r"
	if !target.exists && strings.ContainsAny(target.Database(), breaks) {
		target.add(Finding{Code: "line-breaks", Severity: Blocker, Side: target.Side, Objects: []string{target.database()},
			Text:   "a database cannot have a line break in its name since 19",
			Remedy: "give --target another name of the database"})
	}
	needed, err := schema.ReadOwnership(ctx, source.conn)
	if err != nil {
		return err
	}
	var objects, rename []string
	for _, name := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(needed.Owners, needed.Grantees)))) {
		if strings.ContainsAny(name, breaks) {
			escaped := strings.NewReplacer(`\`, `\\`, `"`, `""`, "\n", `\000A`, "\r", `\000D`).Replace(name)
			other := strings.NewReplacer("\n", " ", "\r", " ").Replace(name)
			objects = append(objects, fmt.Sprintf("%q", name))
			rename = append(rename, fmt.Sprintf(`ALTER ROLE U&"%s" RENAME TO %s`, escaped, postgres.QuoteIdent(other)))
		}
	}
	if len(objects) > 0 {
		source.add(Finding{Code: "line-breaks", Severity: Blocker, Side: source.Side, Objects: objects,
			Text:   fmt.Sprintf("%s of the database's objects with a line break in the name, which cannot be since 19", plural(len(objects), "role")),
			Remedy: statements(rename...) + "\n-- whoever logs in with an MD5 password needs a new one"})
	}
	return nil
}

// functionSettingsSQL lists the settings that functions and procedures bring along,
// and the statement that takes each away. Schemas $1 are left out.
const functionSettingsSQL = `
SELECT pg_catalog.split_part(s.setting, '=', 1), pg_catalog.substr(s.setting, pg_catalog.strpos(s.setting, '=') + 1),
	p.oid::pg_catalog.regprocedure::text,
	pg_catalog.format('ALTER ROUTINE %%s RESET %%I', p.oid::pg_catalog.regprocedure, pg_catalog.split_part(s.setting, '=', 1))
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
CROSS JOIN pg_catalog.unnest(p.proconfig) AS s (setting)
WHERE n.nspname::text <> ALL ($1) AND %s AND %s
ORDER BY 3, 1`

// checkRemovedSettings finds functions that cannot be created because the target
// does not know a setting of theirs any more, or not its value.
func checkRemovedSettings(ctx context.Context, source, target *end) error {
	sql := fmt.Sprintf(functionSettingsSQL, userSchema, notExtension("p.oid", "pg_proc"))
	if source.Version().Major() < 11 { // no procedures, and no word for both
		sql = strings.Replace(sql, "ALTER ROUTINE", "ALTER FUNCTION", 1)
	}
	rows, err := source.conn.Query(ctx, sql, source.schemasOut)
	if err != nil {
		return err
	}
	var name, value, function, reset string
	refused := map[[2]string]string{} // by name and value: why
	var objects, remedy []string
	type use struct{ name, value, function, reset string }
	var uses []use
	_, err = pgx.ForEachRow(rows, []any{&name, &value, &function, &reset}, func() error {
		uses = append(uses, use{name, value, function, reset})
		return nil
	})
	if err != nil {
		return err
	}
	for _, u := range uses {
		why, asked := refused[[2]string{u.name, u.value}]
		if !asked {
			if why, err = refusedSetting(ctx, target, u.name, u.value); err != nil {
				return err
			}
			refused[[2]string{u.name, u.value}] = why
		}
		if why != "" {
			objects = append(objects, fmt.Sprintf("%s: %s", u.function, why))
			remedy = append(remedy, u.reset)
		}
	}
	if len(objects) == 0 {
		return nil
	}
	source.add(Finding{Code: "removed-settings", Severity: Blocker, Side: source.Side, Objects: objects,
		Remedy: statements(append(remedy, "-- and see to what relied on them")...),
		Text:   fmt.Sprintf("%s with a setting that server %s does not take: they could not be created there", plural(len(objects), "function"), target.Version())})
	return nil
}

// refusedSetting is why a server does not take a setting: it does not know it, or no
// longer supports the value. Other refusals are of this session, or of the moment.
func refusedSetting(ctx context.Context, e *end, name, value string) (why string, err error) {
	tx, err := e.conn.Begin(ctx)
	if err != nil {
		return "", err
	}
	_, err = tx.Exec(ctx, `SELECT pg_catalog.set_config($1, $2, true)`, name, value)
	rolledBack := tx.Rollback(ctx)
	switch code := postgres.Code(err); {
	case code == postgres.UndefinedObject || code == postgres.FeatureNotSupported:
		return postgres.Describe(err), rolledBack
	case code != "":
		return "", rolledBack
	}
	return "", errors.Join(err, rolledBack)
}
