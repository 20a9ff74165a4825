package schema

import (
	"context"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
)

// Ownership lists the roles that the source database's objects need.
type Ownership struct {
	Owners     []string // own something
	Grantees   []string // appear in a grant
	InPolicies []string // row security policies apply to them
}

// ReadOwnership asks pg_shdepend, which knows every role that an object of this
// database depends on, except the pinned bootstrap superuser: its objects are
// looked for in the catalogs that matter.
func ReadOwnership(ctx context.Context, q catalog.Querier) (o Ownership, err error) {
	rows, err := q.Query(ctx, `
		SELECT DISTINCT r.rolname, d.deptype::text
		FROM pg_catalog.pg_shdepend d JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
		WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
			AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
			AND d.classid <> 'pg_catalog.pg_subscription'::pg_catalog.regclass
			AND NOT (d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
				AND d.objid IN (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'pgbaton'))
			AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
				AND d.objid IN (SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
					ON n.oid = c.relnamespace WHERE n.nspname = 'pgbaton'))
			AND r.rolname !~ '^pg_'
		UNION
		SELECT r.rolname, 'o' FROM pg_catalog.pg_roles r
		WHERE r.oid = 10 AND (
			EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
				WHERE c.relowner = 10 AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton'))
			OR EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
				WHERE p.proowner = 10 AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton'))
			OR EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspowner = 10 AND n.oid >= 16384
				AND n.nspname !~ '^pg_' AND n.nspname <> 'pgbaton'))
		ORDER BY 1`)
	if err != nil {
		return o, err
	}
	var name, how string
	_, err = pgx.ForEachRow(rows, []any{&name, &how}, func() error {
		switch how { // SharedDependencyType, src/include/catalog/dependency.h
		case "o":
			o.Owners = append(o.Owners, name)
		case "r":
			o.InPolicies = append(o.InPolicies, name)
		default:
			o.Grantees = append(o.Grantees, name)
		}
		return nil
	})
	return o, err
}

// OptionsFor decides what of the source's ownership the target can have: all of
// it when the roles exist there, else everything belongs to the connecting role.
func (o Ownership) OptionsFor(exists map[string]bool, jobs int) RestoreOptions {
	r := RestoreOptions{Jobs: jobs}
	for _, name := range o.Owners {
		r.NoOwner = r.NoOwner || !exists[name]
	}
	for _, name := range append(o.Grantees, o.Owners...) {
		r.NoGrant = r.NoGrant || !exists[name]
	}
	return r
}
