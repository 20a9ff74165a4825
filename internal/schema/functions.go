package schema

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// This file brings the functions of a target that a start has defined already up to
// what the source has by now: a function that was mended there is the usual way out
// of a copy that it has stopped. What was mended on the target stays: the journal
// remembers there how the source had each function when the target got it.

// functionsEntry has a hash of each definition, by signature.
var functionsEntry = journal.One[map[string]string](journal.Functions)

// FunctionChange is a function that the source has in another definition than when the
// target got it, or that the target never got.
type FunctionChange struct {
	Signature  string
	Definition string // CREATE OR REPLACE FUNCTION, as the source prints it
	Owner      string // of the source's

	kind     string // FUNCTION, PROCEDURE
	definer  bool   // it is SECURITY DEFINER, and not yet on the target
	whole    bool   // the target has none of the signature, or definer: owner, grants and comment come along
	comment  *string
	grantees []grantee // other than the owner
	hash     string
}

// grantee may execute a function.
type grantee struct {
	role   string // "": everybody
	option bool   // WITH GRANT OPTION
}

// functionsSQL lists the functions and procedures of the user's with what makes two
// of them the same on any version, the definition, and who else may execute them. %[1]s
// is FUNCTION or PROCEDURE; %[2]s the body of a BEGIN ATOMIC function, which each major
// may print in its own way; %[3]s says whether it has one; %[4]s selects.
const functionsSQL = `
SELECT p.oid::pg_catalog.regprocedure::text, %[1]s, pg_catalog.pg_get_functiondef(p.oid), pg_catalog.pg_get_userbyid(p.proowner), p.prosecdef,
	pg_catalog.jsonb_build_array(p.prosrc, p.proconfig, p.provolatile, p.proisstrict, p.prosecdef, p.proparallel, l.lanname,
		pg_catalog.pg_get_function_result(p.oid), %[2]s)::text, %[3]s,
	pg_catalog.obj_description(p.oid, 'pg_proc'),
	g.roles, g.options
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
CROSS JOIN LATERAL (
	SELECT coalesce(pg_catalog.array_agg(coalesce(r.rolname, '')::text ORDER BY a.grantee), '{}'),
		coalesce(pg_catalog.array_agg(a.is_grantable ORDER BY a.grantee), '{}')
	FROM pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS a
	LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
	WHERE a.grantee <> p.proowner AND (a.grantee = 0 OR r.oid IS NOT NULL)) AS g (roles, options)
WHERE %[4]s AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton') AND n.nspname <> ALL ($1)
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.deptype = 'e'
		AND x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND x.objid = p.oid)
ORDER BY p.oid`

type functionState struct {
	FunctionChange
	same   string
	atomic bool // has a body that same may be without
}

func readFunctions(ctx context.Context, q catalog.Querier, bodies bool, without []string) ([]functionState, error) {
	v := postgres.VersionOf(q)
	body, atomic, plain, kind := "NULL", "false", "NOT p.proisagg AND NOT p.proiswindow", "'FUNCTION'"
	if v.Major() >= 11 {
		plain, kind = "p.prokind IN ('f', 'p')", "CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END"
	}
	if v.Major() >= 14 {
		atomic = "p.prosqlbody IS NOT NULL"
	}
	if bodies {
		body = "pg_catalog.pg_get_function_sqlbody(p.oid)"
	}
	rows, err := q.Query(ctx, fmt.Sprintf(functionsSQL, kind, body, atomic, plain), without)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (f functionState, err error) {
		var roles []string
		var options []bool
		err = row.Scan(&f.Signature, &f.kind, &f.Definition, &f.Owner, &f.definer, &f.same, &f.atomic, &f.comment, &roles, &options)
		for i, role := range roles {
			f.grantees = append(f.grantees, grantee{role, options[i]})
		}
		sum := sha256.Sum256([]byte(f.Definition))
		f.hash = hex.EncodeToString(sum[:16])
		return f, err
	})
}

// Functions are those of the source, seen from the target.
type Functions struct {
	Changes []FunctionChange // what the target is to get
	known   map[string]string
	fresh   bool // known is not what the journal has
}

// Settled says whether there is nothing to do, nor to remember.
func (f *Functions) Settled() bool { return len(f.Changes) == 0 && !f.fresh }

// ReadFunctions lists the functions of the source that have changed there since the
// target got them; without those of the schemas that are left out. What the target
// alone has, or has dropped or changed since, stays as it is.
func ReadFunctions(ctx context.Context, source, target postgres.DB, exclude catalog.Exclusion) (*Functions, error) {
	from, to := postgres.VersionOf(source), postgres.VersionOf(target)
	without := exclude.Schemas
	if without == nil {
		without = []string{}
	}
	bodies := from.Major() == to.Major() && to.Major() >= 14
	want, err := readFunctions(ctx, source, bodies, without)
	if err != nil {
		return nil, postgres.Wrap(postgres.Source, "listing functions", err)
	}
	have, err := readFunctions(ctx, target, bodies, without)
	if err != nil {
		return nil, postgres.Wrap(postgres.Target, "listing functions", err)
	}
	remembered, _, err := functionsEntry.Get(ctx, target)
	if err != nil {
		return nil, postgres.Wrap(postgres.Target, "listing functions", err)
	}
	there := map[string]functionState{}
	for _, f := range have {
		there[f.Signature] = f
	}
	all := &Functions{known: map[string]string{}}
	for _, f := range want {
		hash, got := remembered[f.Signature]
		t, exists := there[f.Signature]
		switch {
		case got && hash == f.hash:
			all.known[f.Signature] = hash
		case exists && t.same == f.same && (bodies || !f.atomic || !got):
			all.known[f.Signature] = f.hash
		default:
			f.definer = f.definer && !(exists && t.definer)
			f.whole = f.definer || !exists
			all.Changes = append(all.Changes, f.FunctionChange)
			if got { // until the target has taken it
				all.known[f.Signature] = hash
			}
		}
	}
	all.fresh = !maps.Equal(all.known, remembered)
	return all, nil
}

// MissingOwner is why a function is not made that would run with the rights of its
// owner: it would have those of our role.
type MissingOwner struct{ Owner string }

// Error implements error.
func (e *MissingOwner) Error() string {
	return fmt.Sprintf("it is SECURITY DEFINER, and the target has no role %s, its owner on the source", postgres.QuoteIdent(e.Owner))
}

// Apply gives a target the definitions, each by itself, and remembers them: failed are
// those that it does not take, with the reason. They are made in the source's order,
// then those that failed once more: one may need another that comes later.
func (f *Functions) Apply(ctx context.Context, conn *postgres.Session) (failed map[string]error, err error) {
	roles, err := Roles(ctx, conn)
	if err != nil {
		return nil, err
	}
	left := slices.Clone(f.Changes)
	for range 2 {
		failed = map[string]error{}
		left = slices.DeleteFunc(left, func(c FunctionChange) bool {
			err := c.apply(ctx, conn, roles)
			if err != nil {
				failed[c.Signature] = err
			} else {
				f.known[c.Signature] = c.hash
			}
			return err == nil
		})
		if len(left) == 0 || ctx.Err() != nil || conn.IsClosed() {
			break
		}
	}
	for _, err := range failed {
		var missing *MissingOwner
		if postgres.Code(err) == "" && !errors.As(err, &missing) { // not the server's answer
			return nil, err
		}
	}
	return failed, functionsEntry.Put(ctx, conn, f.known)
}

// apply makes a function, or gives it the source's definition. One that is new, or newly
// SECURITY DEFINER, gets the source's owner, grants and comment in the same transaction,
// as far as the roles are there: nobody else can execute it in between.
func (f FunctionChange) apply(ctx context.Context, conn *postgres.Session, roles map[string]bool) error {
	if f.definer && !roles[f.Owner] {
		return &MissingOwner{f.Owner}
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// As pg_restore does: what a body names may not be there yet.
		if err := execEach(ctx, tx, []string{"SET LOCAL check_function_bodies = off"}); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, f.Definition); err != nil || !f.whole {
			return err
		}
		revoke, err := f.revokeSQL(ctx, tx)
		if err != nil {
			return err
		}
		if err := execEach(ctx, tx, append(revoke, f.grantSQL(roles)...)); err != nil {
			return err
		}
		if !roles[f.Owner] {
			return nil
		}
		return execEach(ctx, tx, []string{fmt.Sprintf("ALTER %s %s OWNER TO %s", f.kind, f.Signature, postgres.QuoteIdent(f.Owner))})
	})
}

// revokeSQL takes back what others than the owner have, by default as well.
func (f FunctionChange) revokeSQL(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, `
		SELECT pg_catalog.format('REVOKE ALL ON %s %s FROM %s CASCADE', $2::text, p.oid::pg_catalog.regprocedure, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END)
		FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS a
		WHERE p.oid = pg_catalog.to_regprocedure($1) AND a.grantee <> p.proowner`, f.Signature, f.kind)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// grantSQL are the source's grants to roles that the target has, and the comment.
func (f FunctionChange) grantSQL(roles map[string]bool) (sql []string) {
	for _, g := range f.grantees {
		to, option := "PUBLIC", ""
		if g.role != "" {
			to = postgres.QuoteIdent(g.role)
		}
		if g.option {
			option = " WITH GRANT OPTION"
		}
		if g.role == "" || roles[g.role] {
			sql = append(sql, fmt.Sprintf("GRANT EXECUTE ON %s %s TO %s%s", f.kind, f.Signature, to, option))
		}
	}
	if f.comment != nil {
		sql = append(sql, fmt.Sprintf("COMMENT ON %s %s IS %s", f.kind, f.Signature, postgres.QuoteLiteral(*f.comment)))
	}
	return sql
}
