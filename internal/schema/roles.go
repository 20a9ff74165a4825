package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// Role is a role as it can be copied to another cluster.
type Role struct {
	Name                                        string
	Super, Inherit, CreateRole, CreateDB, Login bool
	Replication, BypassRLS                      bool
	ConnLimit                                   int
	ValidUntil                                  string
	Password                                    string // as stored: a verifier, never the password itself; "" when unreadable
	Settings                                    []Setting
	MemberOf                                    []string
	AdminOf                                     []string // of those in MemberOf, with admin option
}

// ReadRoles reads all roles that are not the server's own. Password verifiers
// are read where the session may (superuser); withPasswords tells whether.
func ReadRoles(ctx context.Context, conn *postgres.Session) (roles []Role, withPasswords bool, err error) {
	if err = conn.QueryRow(ctx, `SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')`).Scan(&withPasswords); err != nil {
		return nil, false, err
	}
	password, from := "''", "pg_catalog.pg_roles"
	if withPasswords {
		password, from = "coalesce(rolpassword, '')", "pg_catalog.pg_authid"
	}
	rows, err := conn.Query(ctx, fmt.Sprintf(`
		SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls,
			rolconnlimit, coalesce(rolvaliduntil::text, ''), %s,
			ARRAY(SELECT g.rolname::text FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
				WHERE m.member = r.oid ORDER BY 1),
			ARRAY(SELECT g.rolname::text FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
				WHERE m.member = r.oid AND m.admin_option ORDER BY 1)
		FROM %s r WHERE rolname !~ '^pg_' ORDER BY rolname`, password, from))
	if err != nil {
		return nil, false, err
	}
	roles, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Role, err error) {
		err = row.Scan(&r.Name, &r.Super, &r.Inherit, &r.CreateRole, &r.CreateDB, &r.Login, &r.Replication, &r.BypassRLS,
			&r.ConnLimit, &r.ValidUntil, &r.Password, &r.MemberOf, &r.AdminOf)
		return r, err
	})
	if err != nil {
		return nil, false, err
	}
	settings, err := roleSettings(ctx, conn)
	for i := range roles {
		roles[i].Settings = settings[roles[i].Name]
	}
	return roles, withPasswords, err
}

func roleSettings(ctx context.Context, q catalog.Querier) (map[string][]Setting, error) {
	rows, err := q.Query(ctx, `
		SELECT r.rolname, pg_catalog.split_part(c, '=', 1), pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1)
		FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole,
		pg_catalog.unnest(s.setconfig) AS c WHERE s.setdatabase = 0`)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Setting])
	byRole := map[string][]Setting{}
	for _, s := range all {
		byRole[s.Role] = append(byRole[s.Role], s)
	}
	return byRole, err
}

// CreateSQL makes the role. asSuper says whether the target session may give
// SUPERUSER, REPLICATION and BYPASSRLS away.
func (r Role) CreateSQL(asSuper bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE ROLE %s", postgres.QuoteIdent(r.Name))
	flag := func(on bool, word string) {
		if !on {
			word = "NO" + word
		}
		b.WriteString(" " + word)
	}
	if asSuper {
		flag(r.Super, "SUPERUSER")
		flag(r.Replication, "REPLICATION")
		flag(r.BypassRLS, "BYPASSRLS")
	}
	flag(r.Inherit, "INHERIT")
	flag(r.CreateRole, "CREATEROLE")
	flag(r.CreateDB, "CREATEDB")
	flag(r.Login, "LOGIN")
	if r.ConnLimit != -1 {
		fmt.Fprintf(&b, " CONNECTION LIMIT %d", r.ConnLimit)
	}
	if r.ValidUntil != "" {
		fmt.Fprintf(&b, " VALID UNTIL %s", postgres.QuoteLiteral(r.ValidUntil))
	}
	if r.Password != "" {
		fmt.Fprintf(&b, " PASSWORD %s", postgres.QuoteLiteral(r.Password))
	}
	return b.String()
}

// memberSQL are the role's memberships. One in the server's own roles is granted only
// where exists says it is there.
func (r Role) memberSQL(exists func(string) bool) []string {
	var sql []string
	for _, g := range r.MemberOf {
		if !exists(g) {
			continue
		}
		grant := fmt.Sprintf("GRANT %s TO %s", postgres.QuoteIdent(g), postgres.QuoteIdent(r.Name))
		if slices.Contains(r.AdminOf, g) {
			grant += " WITH ADMIN OPTION"
		}
		sql = append(sql, grant)
	}
	return sql
}

// CopyRoles creates on the target the roles that are missing there, and returns
// their names, and the settings that the target does not take. Roles that exist are
// left as they are.
func CopyRoles(ctx context.Context, server *postgres.Server, conn *postgres.Session, roles []Role) (created []string, refused []RefusedSetting, err error) {
	exists, err := Roles(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	var asSuper bool
	if err := conn.QueryRow(ctx, `SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user`).Scan(&asSuper); err != nil {
		return nil, nil, err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if asSuper { // verifiers do not belong into a log
			if _, err := tx.Exec(ctx, "SET LOCAL log_statement = 'none'"); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "SET LOCAL log_min_duration_statement = -1"); err != nil {
				return err
			}
		}
		var fresh []Role
		for _, r := range roles {
			if exists[r.Name] {
				continue
			}
			if _, err := tx.Exec(ctx, r.CreateSQL(asSuper)); err != nil {
				return fmt.Errorf("creating role %s: %w", postgres.QuoteIdent(r.Name), err)
			}
			created, fresh = append(created, r.Name), append(fresh, r)
			exists[r.Name] = true
		}
		var settings []assignment
		for _, r := range fresh {
			for _, sql := range r.memberSQL(func(g string) bool { return exists[g] }) {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return fmt.Errorf("%s: %w", sql, err)
				}
			}
			for _, s := range r.Settings {
				settings = append(settings, assignment{s, "ROLE " + postgres.QuoteIdent(r.Name)})
			}
		}
		refused, err = assign(ctx, server, tx, settings)
		return err
	})
	return created, refused, err
}
