package preflight

import (
	"context"
	"fmt"
	"strings"

	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// checkLocale compares encoding and locale with those of the target database,
// or with what the target can make.
func checkLocale(ctx context.Context, s *survey, e *end) error {
	source, err := schema.ReadDatabase(ctx, s.source.conn)
	if err != nil {
		return err
	}
	if err := checkCollations(ctx, s, e); err != nil {
		return err
	}
	if !e.exists {
		return checkLocaleKnown(ctx, e, source)
	}
	target, err := schema.ReadDatabase(ctx, e.conn)
	if err != nil {
		return err
	}
	if target.Encoding != source.Encoding {
		e.add(Finding{Code: "encoding", Severity: Blocker, Side: e.Side,
			Text: fmt.Sprintf("the target database has encoding %s, the source %s", target.Encoding, source.Encoding),
			Remedy: fmt.Sprintf("DROP DATABASE %s;\n-- start creates it anew like the source's; or:\n-- CREATE DATABASE %[1]s TEMPLATE template0 ENCODING %s;",
				e.database(), postgres.QuoteLiteral(source.Encoding))})
	}
	have, want := describeLocale(target), describeLocale(source)
	if normal(have) != normal(want) {
		e.add(Finding{Code: "locale", Severity: Warning, Side: e.Side,
			Text: fmt.Sprintf("the target database sorts text by %s, the source by %s: the order of results, and what case conversion does, may differ", have, want)})
		return nil
	}
	return checkCollationVersion(ctx, s, e)
}

// describeLocale prints a database's locale with its provider.
func describeLocale(d schema.Database) string {
	switch d.Provider {
	case "i":
		return "ICU locale " + d.Locale
	case "b":
		return "builtin locale " + d.Locale
	}
	if d.Collate == d.Ctype {
		return "libc locale " + d.Collate
	}
	return fmt.Sprintf("libc locale %s/%s", d.Collate, d.Ctype)
}

// normal makes the spellings of one locale equal: en_US.UTF-8, en_US.utf8.
func normal(locale string) string {
	return strings.ReplaceAll(strings.ToLower(locale), "-", "")
}

// checkLocaleKnown asks whether the target knows the source's locale; where it
// does not, start takes the target's default.
func checkLocaleKnown(ctx context.Context, e *end, source schema.Database) error {
	known := true
	switch {
	case source.Provider == "i" && e.Version().Major() < 15, source.Provider == "b" && e.Version().Major() < 17:
		known = false
	case source.Provider == "c":
		for _, name := range []string{source.Collate, source.Ctype} {
			if n := normal(name); n == "c" || n == "posix" || n == "c.utf8" {
				continue
			}
			var found bool
			err := e.conn.QueryRow(ctx, `
				SELECT EXISTS (SELECT FROM pg_catalog.pg_collation
					WHERE pg_catalog.lower(pg_catalog.replace(collcollate, '-', '')) = $1)
				OR EXISTS (SELECT FROM pg_catalog.pg_database
					WHERE pg_catalog.lower(pg_catalog.replace(datcollate, '-', '')) = $1)`, normal(name)).Scan(&found)
			if err != nil {
				return err
			}
			known = known && found
		}
	}
	if !known {
		e.add(Finding{Code: "locale", Severity: Warning, Side: e.Side,
			Text:   fmt.Sprintf("the target's host does not have %s, which the source database uses: the new database gets the target's default, and text may sort differently", describeLocale(source)),
			Remedy: "install the locale on the target's host (locale-gen) and restart the server, then SELECT pg_catalog.pg_import_system_collations('pg_catalog')"})
	}
	return nil
}

// checkCollations finds built-in collations that columns and indexes name and
// the target lacks: their definitions would not restore.
func checkCollations(ctx context.Context, s *survey, e *end) error {
	used, err := texts(ctx, s.source.conn, `
		SELECT k.collname FROM pg_catalog.pg_collation k
		WHERE k.collnamespace = 'pg_catalog'::pg_catalog.regnamespace
			AND k.collname NOT IN ('default', 'C', 'POSIX', 'ucs_basic')
			AND k.oid IN (
				SELECT a.attcollation FROM pg_catalog.pg_attribute a
				JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
				WHERE a.attnum > 0 AND NOT a.attisdropped AND c.oid >= 16384 AND c.oid <> ALL ($1)
				UNION
				SELECT t.typcollation FROM pg_catalog.pg_type t WHERE t.oid >= 16384)
		ORDER BY k.collname`, s.source.relationsOut)
	if err != nil || len(used) == 0 {
		return err
	}
	missing, err := texts(ctx, e.conn, `
		SELECT pg_catalog.quote_ident(u.name) FROM pg_catalog.unnest($1::text[]) AS u (name)
		WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_collation k
			WHERE k.collname = u.name AND k.collnamespace = 'pg_catalog'::pg_catalog.regnamespace)
		ORDER BY 1`, used)
	if err != nil || len(missing) == 0 {
		return err
	}
	e.add(Finding{Code: "collation-missing", Severity: Blocker, Side: e.Side, Objects: missing,
		Text:   fmt.Sprintf("%s that columns of the source use and the target does not have", plural(len(missing), "collation")),
		Remedy: "-- install the locales on the target's host (locale-gen) and restart the server, then, in template1 and in the target database if it exists:\nSELECT pg_catalog.pg_import_system_collations('pg_catalog');"})
	return nil
}

// checkCollationVersion tells when one locale means two orders: both servers
// can say so since 15. Indexes are built anew, so nothing breaks.
func checkCollationVersion(ctx context.Context, s *survey, e *end) error {
	if min(s.source.Version().Major(), e.Version().Major()) < 15 {
		return nil
	}
	var versions [2]string
	for i, side := range []*end{s.source, e} {
		err := side.conn.QueryRow(ctx, `
			SELECT coalesce(pg_catalog.pg_database_collation_actual_version(oid), '')
			FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()`).Scan(&versions[i])
		if err != nil {
			return err
		}
	}
	if versions[0] != versions[1] {
		e.add(Finding{Code: "collation-version", Severity: Info, Side: e.Side,
			Text: fmt.Sprintf("the locale's version is %s on the source and %s on the target: text may sort differently; indexes are built anew and are right", versions[0], versions[1])})
	}
	return nil
}
