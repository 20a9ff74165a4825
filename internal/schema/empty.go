package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
)

// Baseline is what an empty target database held before anything was restored
// into it.
type Baseline struct {
	Schemas    []Namespace `json:"schemas"`
	Extensions []string    `json:"extensions"`
	Languages  []string    `json:"languages"`
}

// Namespace is a schema with what it takes to make it again.
type Namespace struct {
	Name    string   `json:"name"`
	Owner   string   `json:"owner"`
	Comment string   `json:"comment,omitempty"`
	ACL     string   `json:"acl"`    // as the catalog prints it, to see a change
	Grants  []string `json:"grants"` // the statements that give it
}

// namespacesSQL reads the schemas that are not the server's own.
const namespacesSQL = `
SELECT n.nspname, pg_catalog.pg_get_userbyid(n.nspowner), coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace'), ''),
	coalesce(n.nspacl::text, ''),
	ARRAY(SELECT pg_catalog.format('GRANT %s ON SCHEMA %I TO %s%s', a.privilege_type, n.nspname,
			CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END,
			CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
		FROM pg_catalog.aclexplode(n.nspacl) AS a)
FROM pg_catalog.pg_namespace n
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton')
ORDER BY n.nspname`

func readNamespaces(ctx context.Context, q catalog.Querier) ([]Namespace, error) {
	rows, err := q.Query(ctx, namespacesSQL)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Namespace])
}

// ReadBaseline takes it; the database must be empty of user objects.
func ReadBaseline(ctx context.Context, q catalog.Querier) (b Baseline, err error) {
	if b.Schemas, err = readNamespaces(ctx, q); err != nil {
		return b, err
	}
	for _, part := range []struct {
		into *[]string
		sql  string
	}{
		{&b.Extensions, `SELECT extname FROM pg_catalog.pg_extension ORDER BY 1`},
		{&b.Languages, `SELECT lanname FROM pg_catalog.pg_language ORDER BY 1`},
	} {
		rows, err := q.Query(ctx, part.sql)
		if err != nil {
			return b, err
		}
		if *part.into, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return b, err
		}
	}
	return b, nil
}

// leftovers lists, as DROP statements, everything that is not in the
// baseline ($1 schemas, $2 extensions, $3 languages), but for statements that were
// refused ($4). Objects inside a schema go
// with it, except in schemas that were there before, of which only public can
// have been filled: those are made anew.
const leftovers = `
SELECT d FROM (SELECT pg_catalog.format('DROP EVENT TRIGGER %I CASCADE', evtname) FROM pg_catalog.pg_event_trigger t
	WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.deptype = 'e'
		AND d.classid = 'pg_catalog.pg_event_trigger'::pg_catalog.regclass AND d.objid = t.oid)
UNION ALL
SELECT pg_catalog.format('DROP EXTENSION %I CASCADE', extname) FROM pg_catalog.pg_extension WHERE extname <> ALL ($2)
UNION ALL
SELECT pg_catalog.format('DROP SCHEMA %I CASCADE', nspname) FROM pg_catalog.pg_namespace
	WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'pgbaton') AND nspname <> ALL ($1)
UNION ALL
SELECT pg_catalog.format('DROP FOREIGN DATA WRAPPER %I CASCADE', fdwname) FROM pg_catalog.pg_foreign_data_wrapper WHERE oid >= 16384
UNION ALL
SELECT pg_catalog.format('DROP CAST (%s AS %s) CASCADE', castsource::pg_catalog.regtype, casttarget::pg_catalog.regtype)
	FROM pg_catalog.pg_cast WHERE oid >= 16384
UNION ALL
SELECT pg_catalog.format('DROP LANGUAGE %I CASCADE', lanname) FROM pg_catalog.pg_language WHERE lanname <> ALL ($3)
) AS drops (d) WHERE d <> ALL ($4)`

// defaultGrants lists what takes a database-wide ALTER DEFAULT PRIVILEGES back:
// everything that was granted is revoked, and the built-in default granted again.
const defaultGrants = `
SELECT pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %I REVOKE ALL ON %s FROM %s', r.rolname, kind.name,
		CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END), 1 AS pass
	FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_roles r ON r.oid = d.defaclrole
	JOIN (VALUES ('r', 'TABLES'), ('S', 'SEQUENCES'), ('f', 'FUNCTIONS'), ('T', 'TYPES'), ('n', 'SCHEMAS')) AS kind (code, name)
		ON kind.code = d.defaclobjtype::text
	CROSS JOIN LATERAL (SELECT DISTINCT grantee FROM pg_catalog.aclexplode(d.defaclacl)) AS a
	WHERE d.defaclnamespace = 0
UNION ALL
SELECT pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT %s ON %s TO %s', r.rolname, g.privilege, kind.name,
		coalesce(g.grantee, pg_catalog.quote_ident(r.rolname))), 2
	FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_roles r ON r.oid = d.defaclrole
	JOIN (VALUES ('r', 'TABLES'), ('S', 'SEQUENCES'), ('f', 'FUNCTIONS'), ('T', 'TYPES'), ('n', 'SCHEMAS')) AS kind (code, name)
		ON kind.code = d.defaclobjtype::text
	JOIN (VALUES ('r', 'ALL', NULL), ('S', 'ALL', NULL), ('f', 'ALL', NULL), ('T', 'ALL', NULL), ('n', 'ALL', NULL),
		('f', 'EXECUTE', 'PUBLIC'), ('T', 'USAGE', 'PUBLIC')) AS g (code, privilege, grantee) ON g.code = d.defaclobjtype::text
	WHERE d.defaclnamespace = 0
ORDER BY 2`

// Empty takes everything out of a target database that a restore put in, back
// to its baseline. It is for a database that was there, empty, before pgbaton;
// one that pgbaton made is dropped instead. left is what could not be taken out, or
// not be made as it was.
func Empty(ctx context.Context, conn *postgres.Session, b Baseline) (left []refusal.Reason, err error) {
	names := make([]string, len(b.Schemas))
	for i, n := range b.Schemas {
		names[i] = n.Name
	}
	refused := []string{}
	// try runs what belongs together, or nothing of it, and goes on without it.
	try := func(tx pgx.Tx, statements ...string) error {
		sql := strings.Join(statements, "; ")
		err := pgx.BeginFunc(ctx, tx, func(save pgx.Tx) error { _, err := save.Exec(ctx, sql); return err })
		if postgres.Refused(err) {
			refused = append(refused, sql)
			left = append(left, refusal.Reason{Why: sql + ": " + postgres.Describe(err), Remedy: sql + ", by hand as a role that may, if it is still wanted"})
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
		return nil
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// One at a time: what one drops may take others along.
		for {
			var drop string
			err := tx.QueryRow(ctx, leftovers+" LIMIT 1", names, b.Extensions, b.Languages, refused).Scan(&drop)
			if errors.Is(err, pgx.ErrNoRows) {
				break
			}
			if err == nil {
				err = try(tx, drop)
			}
			if err != nil {
				return err
			}
		}
		now, err := readNamespaces(ctx, tx)
		if err != nil {
			return err
		}
		for _, was := range b.Schemas {
			for _, is := range now {
				if is.Name != was.Name {
					continue
				}
				if err := remake(ctx, tx, was, is, try); err != nil {
					return err
				}
			}
		}
		rows, err := tx.Query(ctx, defaultGrants)
		if err != nil {
			return err
		}
		statements, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (sql string, err error) {
			var pass int
			err = row.Scan(&sql, &pass)
			return sql, err
		})
		if err != nil {
			return err
		}
		for _, sql := range statements {
			if err := try(tx, sql); err != nil {
				return err
			}
		}
		return nil
	})
	return left, err
}

// remake drops a schema with all it holds and makes it again as it was. One that
// holds nothing and is as it was is left alone.
func remake(ctx context.Context, tx pgx.Tx, was, is Namespace, try func(pgx.Tx, ...string) error) error {
	var holds bool
	err := tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM pg_catalog.pg_depend d
			WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.deptype = 'n'
				AND d.refobjid = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1)
				AND d.classid <> 'pg_catalog.pg_extension'::pg_catalog.regclass)`, was.Name).Scan(&holds)
	if err != nil {
		return err
	}
	if !holds && was.Owner == is.Owner && was.ACL == is.ACL && was.Comment == is.Comment {
		return nil
	}
	q := postgres.QuoteIdent(was.Name)
	if err := try(tx, "DROP SCHEMA "+q+" CASCADE", "CREATE SCHEMA "+q); err != nil {
		return err
	}
	statements := []string{fmt.Sprintf("ALTER SCHEMA %s OWNER TO %s", q, postgres.QuoteIdent(was.Owner))}
	statements = append(statements, was.Grants...)
	if was.Comment != "" {
		statements = append(statements, fmt.Sprintf("COMMENT ON SCHEMA %s IS %s", q, postgres.QuoteLiteral(was.Comment)))
	}
	for _, sql := range statements {
		if err := try(tx, sql); err != nil {
			return err
		}
	}
	return nil
}
