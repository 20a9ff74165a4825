package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// role is what the role that pgbaton connects as may do.
type role struct {
	name                          string
	super, replication, bypassRLS bool
	inherit                       bool
	createDB, createRole          bool
	has                           map[string]bool // predefined and providers' roles whose rights it has
	exists                        map[string]bool // those of them that the cluster has
	create, ownsDatabase          bool            // of the database it is connected to
	owner                         string          // of that database
}

// predefined are the roles that checks ask about besides the managed services' own.
var predefined = []string{"pg_monitor", "pg_read_all_stats", "pg_signal_backend", "pg_create_subscription", "rds_replication"}

const roleSQL = `
SELECT r.rolname, r.rolsuper, r.rolinherit, r.rolreplication, r.rolbypassrls, r.rolcreatedb, r.rolcreaterole,
	pg_catalog.has_database_privilege(d.oid, 'CREATE'),
	pg_catalog.pg_has_role(d.datdba, 'USAGE'),
	pg_catalog.pg_get_userbyid(d.datdba)
FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
WHERE r.rolname = current_user AND d.datname = pg_catalog.current_database()`

func readRole(ctx context.Context, q catalog.Querier) (r role, err error) {
	err = q.QueryRow(ctx, roleSQL).Scan(&r.name, &r.super, &r.inherit, &r.replication, &r.bypassRLS, &r.createDB, &r.createRole,
		&r.create, &r.ownsDatabase, &r.owner)
	if err != nil {
		return r, err
	}
	rows, err := q.Query(ctx, `
		SELECT rolname, pg_catalog.pg_has_role(oid, 'USAGE')
		FROM pg_catalog.pg_roles WHERE rolname = ANY ($1)`, append(slices.Clone(predefined), postgres.ProviderAdmins...))
	if err != nil {
		return r, err
	}
	r.has, r.exists = map[string]bool{}, map[string]bool{}
	var name string
	var member bool
	_, err = pgx.ForEachRow(rows, []any{&name, &member}, func() error {
		r.has[name], r.exists[name] = member, true
		return nil
	})
	return r, err
}

// grantRoles is the remedy that gives our role the rights of others, and lets it
// change into them.
func (e *end) grantRoles(names ...string) string {
	var sql []string
	for _, name := range names {
		grant := fmt.Sprintf("GRANT %s TO %s", postgres.QuoteIdent(name), e.user())
		if e.Version().Major() >= 16 { // before, the member decides
			grant += " WITH INHERIT TRUE, SET TRUE"
		}
		sql = append(sql, grant)
	}
	if e.Version().Major() < 16 && !e.role.inherit {
		sql = append(sql, fmt.Sprintf("ALTER ROLE %s INHERIT", e.user()))
	}
	return statements(sql...)
}

// admin says whether the role is a managed service's stand-in for a superuser.
func (r role) admin() bool {
	return slices.ContainsFunc(postgres.ProviderAdmins, func(name string) bool { return r.has[name] })
}

func (r role) mayReplicate() bool {
	return r.super || r.replication || r.has["rds_replication"] || r.admin()
}

// mayBypassRLS says whether row security never applies to the role.
func (r role) mayBypassRLS() bool { return r.super || r.bypassRLS }

// checkPrivileges looks for the rights that a role needs on its side, in the
// order in which start and switchover use them.
func checkPrivileges(_ context.Context, s *survey, e *end) error {
	r := e.role
	if r.super {
		return nil
	}
	miss := func(code string, severity Severity, text, remedy string) {
		e.add(Finding{Code: code, Severity: severity, Side: e.Side, Text: text, Remedy: remedy})
	}
	if !r.mayReplicate() {
		// The publisher needs it for the slot. The target becomes one after the switchover.
		severity, text := Blocker, fmt.Sprintf("role %s may not use replication slots", e.user())
		if e.Side == postgres.Target {
			severity, text = Warning, text+": rollback will not be possible"
		}
		remedy := statements(fmt.Sprintf("ALTER ROLE %s REPLICATION", e.user()))
		if r.exists["rds_replication"] {
			remedy = e.grantRoles("rds_replication")
		}
		miss("privilege-replication", severity, text, remedy)
	}
	if !e.exists {
		if !r.createDB {
			miss("privilege-createdb", Blocker, fmt.Sprintf("role %s may not create database %s", e.user(), e.database()),
				statements(fmt.Sprintf("ALTER ROLE %s CREATEDB", e.user()))+"\n-- or create the database, empty, by hand, owned by the role")
		}
	} else if !r.create {
		miss("privilege-create", Blocker, fmt.Sprintf("role %s may not create schema pgbaton and a publication in the database", e.user()),
			statements(fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s", e.database(), e.user())))
	}
	if e.Side == postgres.Target {
		checkSubscribing(s, e, miss)
	}
	return nil
}

// checkSubscribing looks for the right to create subscriptions. On the source
// only the way back needs it: probeTarget finds out there.
func checkSubscribing(s *survey, e *end, miss func(code string, severity Severity, text, remedy string)) {
	r := e.role
	switch {
	case e.maySubscribe():
	case e.Version().Major() < 16:
		miss("privilege-subscribe", Blocker, fmt.Sprintf("role %s may not create subscriptions: before 16 that takes a superuser", e.user()),
			statements(fmt.Sprintf("ALTER ROLE %s SUPERUSER", e.user()))+"\n-- or connect as a superuser; on managed services as the administrative role")
	default:
		miss("privilege-subscribe", Blocker, fmt.Sprintf("role %s may not create subscriptions", e.user()),
			e.grantRoles("pg_create_subscription"))
	}
	if s.Roles && !r.createRole {
		miss("privilege-createrole", Blocker, fmt.Sprintf("role %s may not create roles, which --roles asks for", e.user()),
			statements(fmt.Sprintf("ALTER ROLE %s CREATEROLE", e.user()))+"\n-- or create the roles by hand and leave --roles out")
	}
}

func (e *end) maySubscribe() bool {
	return e.role.super || e.role.admin() || e.role.has["pg_create_subscription"]
}

// checkFencePrivileges looks for what fencing a side takes (rule 2): the grants
// and settings of the database, the barrier, seeing and ending sessions.
func checkFencePrivileges(_ context.Context, s *survey, e *end) error {
	r := e.role
	if r.super {
		return nil
	}
	if e.exists && !r.ownsDatabase {
		e.add(Finding{Code: "privilege-database-owner", Severity: Blocker, Side: e.Side,
			Text:   fmt.Sprintf("role %s can neither revoke CONNECT nor make the database read-only: it does not own it", e.user()),
			Remedy: e.grantRoles(r.owner)})
	}
	var grants []string
	if !r.has["pg_monitor"] && !r.has["pg_read_all_stats"] {
		grants = append(grants, "pg_monitor")
	}
	if !r.has["pg_signal_backend"] {
		grants = append(grants, "pg_signal_backend")
	}
	if len(grants) > 0 {
		e.add(Finding{Code: "privilege-sessions", Severity: Blocker, Side: e.Side,
			Text:   fmt.Sprintf("role %s can not see and end all sessions of applications: it lacks %s", e.user(), strings.Join(grants, " and ")),
			Remedy: e.grantRoles(grants...)})
	}
	return nil
}
