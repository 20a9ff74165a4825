package preflight

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// extension is one that the source has, as the target knows it.
type extension struct {
	name, version string
	available     bool
	sameVersion   bool   // the target offers that version too
	defaultsTo    string // the version that CREATE EXTENSION takes there
	superuser     bool   // only a superuser may create it there
}

// availableSQL asks the target for the extensions $1 in the versions $2. %s
// says whether creating a version takes a superuser; trusted ones (13+) do not.
const availableSQL = `
SELECT x.name, x.version, a.name IS NOT NULL, v.version IS NOT NULL, coalesce(a.default_version, ''),
	coalesce(d.superuser %s, false)
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension i WHERE i.extname = x.name)
FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS x (name, version)
LEFT JOIN pg_catalog.pg_available_extensions a ON a.name = x.name
LEFT JOIN pg_catalog.pg_available_extension_versions v ON v.name = x.name AND v.version = x.version
LEFT JOIN pg_catalog.pg_available_extension_versions d ON d.name = x.name AND d.version = a.default_version
ORDER BY x.name`

// checkExtensions compares the source's extensions with what the target offers,
// and names libraries that functions need.
func checkExtensions(ctx context.Context, s *survey, e *end) error {
	rows, err := s.source.conn.Query(ctx, `
		SELECT extname, extversion FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql' ORDER BY extname`)
	if err != nil {
		return err
	}
	names, versions := []string{}, []string{}
	var name, version string
	_, err = pgx.ForEachRow(rows, []any{&name, &version}, func() error {
		names, versions = append(names, name), append(versions, version)
		return nil
	})
	if err != nil {
		return err
	}
	trusted := ""
	if e.Version().Major() >= 13 {
		trusted = "AND NOT d.trusted"
	}
	rows, err = e.conn.Query(ctx, fmt.Sprintf(availableSQL, trusted), names, versions)
	if err != nil {
		return err
	}
	extensions, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (x extension, err error) {
		err = row.Scan(&x.name, &x.version, &x.available, &x.sameVersion, &x.defaultsTo, &x.superuser)
		return x, err
	})
	if err != nil {
		return err
	}
	var missing, otherVersion, forSuperusers, create []string
	for _, x := range extensions {
		quoted := postgres.QuoteIdent(x.name)
		switch {
		case !x.available:
			missing = append(missing, quoted+" "+x.version)
			continue
		case !x.sameVersion:
			otherVersion = append(otherVersion, fmt.Sprintf("%s: %s on the source, %s on the target", quoted, x.version, x.defaultsTo))
		}
		if x.superuser && !e.role.super && !e.role.admin() {
			forSuperusers = append(forSuperusers, quoted)
			create = append(create, fmt.Sprintf("CREATE EXTENSION IF NOT EXISTS %s", quoted))
		}
	}
	if len(missing) > 0 {
		e.add(Finding{Code: "extension-missing", Severity: Blocker, Side: e.Side, Objects: missing,
			Text:   fmt.Sprintf("%s of the source that the target's server does not have", plural(len(missing), "extension")),
			Remedy: "install their packages on the target's host, or DROP EXTENSION on the source what is not used"})
	}
	if len(otherVersion) > 0 {
		e.add(Finding{Code: "extension-version", Severity: Warning, Side: e.Side, Objects: otherVersion,
			Text:   fmt.Sprintf("%s in a version that the target does not have: it gets its default version", plural(len(otherVersion), "extension")),
			Remedy: "read the extensions' notes on upgrading; ALTER EXTENSION ... UPDATE on the source beforehand brings both to one version where packages allow"})
	}
	if len(forSuperusers) > 0 {
		e.add(Finding{Code: "privilege-extension", Severity: Blocker, Side: e.Side, Objects: forSuperusers,
			Text:   fmt.Sprintf("%s that only a superuser may create, which role %s is not", plural(len(forSuperusers), "extension"), e.user()),
			Remedy: fmt.Sprintf("-- as a superuser, in database %s, which must exist:\n", e.database()) + statements(create...)})
	}
	return checkLibraries(ctx, s, e)
}

// checkLibraries lists functions in C that no extension brings along: their
// library must lie on the target's host too.
func checkLibraries(ctx context.Context, s *survey, e *end) error {
	functions, err := texts(ctx, s.source.conn, fmt.Sprintf(`
		SELECT pg_catalog.format('%%I.%%I in %%s', n.nspname, p.proname, p.probin)
		FROM pg_catalog.pg_proc p
		JOIN pg_catalog.pg_language l ON l.oid = p.prolang
		JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
		WHERE l.lanname = 'c' AND n.nspname::text <> ALL ($1) AND %s AND %s
		ORDER BY 1`, userSchema, notExtension("p.oid", "pg_proc")), s.source.schemasOut)
	if err != nil || len(functions) == 0 {
		return err
	}
	e.add(Finding{Code: "c-functions", Severity: Warning, Side: e.Side, Objects: functions,
		Text:   fmt.Sprintf("%s written in C: the target's host needs the same libraries, built for its version", plural(len(functions), "function")),
		Remedy: "install them on the target's host; only a superuser may create such functions"})
	return nil
}
