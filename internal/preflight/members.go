package preflight

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// membersSQL lists the memberships through which somebody else would keep
// CONNECT behind the fence. $1 are the roles to which the fence grants it: a
// superuser needs no grant, gets none, and hands nothing on, since SUPERUSER is
// not inherited. Of each such role the direct members are listed which can log
// in, or through which a role that can inherits its rights.
const membersSQL = `
SELECT keep.rolname, m.rolname,
	pg_catalog.array_to_string(ARRAY(
		SELECT pg_catalog.quote_ident(l.rolname) FROM pg_catalog.pg_roles l
		WHERE l.rolcanlogin AND NOT l.rolsuper AND l.rolname <> ALL ($1)
			AND pg_catalog.pg_has_role(l.oid, m.oid, 'USAGE') AND pg_catalog.pg_has_role(l.oid, keep.oid, 'USAGE')
		ORDER BY l.rolname), ', ')
FROM pg_catalog.pg_roles keep
JOIN pg_catalog.pg_auth_members a ON a.roleid = keep.oid
JOIN pg_catalog.pg_roles m ON m.oid = a.member
WHERE keep.rolname = ANY ($1) AND NOT keep.rolsuper
	AND EXISTS (SELECT FROM pg_catalog.pg_roles l
		WHERE l.rolcanlogin AND NOT l.rolsuper AND l.rolname <> ALL ($1)
			AND pg_catalog.pg_has_role(l.oid, m.oid, 'USAGE') AND pg_catalog.pg_has_role(l.oid, keep.oid, 'USAGE'))
GROUP BY keep.oid, keep.rolname, m.oid, m.rolname
ORDER BY keep.rolname, m.rolname`

// keepConnect are the roles to which the fence of a side leaves CONNECT: ours,
// and the one as which the other server streams from here.
func (s *survey) keepConnect(e *end) []string {
	roles := []string{e.User()}
	reach := s.SourceFromTarget
	if e.Side == postgres.Target {
		reach = s.TargetFromSource
	}
	if user := reach.User(); user != "" && user != roles[0] {
		roles = append(roles, user)
	}
	return roles
}

// checkMembers finds roles that would connect through the fence because they
// inherit the right from a role that keeps it (rule 2).
func checkMembers(ctx context.Context, s *survey, e *end) error {
	rows, err := e.conn.Query(ctx, membersSQL, s.keepConnect(e))
	if err != nil {
		return err
	}
	var keep, member, logins string
	var objects, revokes []string
	_, err = pgx.ForEachRow(rows, []any{&keep, &member, &logins}, func() error {
		objects = append(objects, fmt.Sprintf("%s, member of %s", logins, postgres.QuoteIdent(keep)))
		revokes = append(revokes, fmt.Sprintf("REVOKE %s FROM %s", postgres.QuoteIdent(keep), postgres.QuoteIdent(member)))
		return nil
	})
	if err != nil || len(objects) == 0 {
		return err
	}
	e.add(Finding{Code: "member-of-exempt-role", Severity: Blocker, Side: e.Side, Objects: objects,
		Text:   "roles that can log in inherit from a role that keeps the right to connect behind the fence: they could still write",
		Remedy: statements(revokes...) + "\n-- or let pgbaton connect as a role of its own, of which nobody is a member"})
	return nil
}
