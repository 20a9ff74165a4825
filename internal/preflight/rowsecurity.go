package preflight

import (
	"context"
	"fmt"

	"pgbaton/internal/postgres"
)

// securedSQL lists tables on which row security is enabled. $1 asks for those
// on which a role with the owner's rights is subject to it too; $2 are left out.
const securedSQL = `
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relrowsecurity
	AND (c.relforcerowsecurity OR NOT $1 AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE'))
	AND c.oid <> ALL ($2) AND %s
ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`

// checkRowSecurity finds the tables of which the role would see, and so copy,
// only some rows.
func checkRowSecurity(ctx context.Context, _ *survey, e *end) error {
	if e.role.mayBypassRLS() {
		return nil
	}
	tables, err := texts(ctx, e.conn, fmt.Sprintf(securedSQL, userSchema), false, e.relationsOut)
	if err != nil || len(tables) == 0 {
		return err
	}
	e.add(Finding{Code: "row-security", Severity: Blocker, Side: e.Side, Objects: tables,
		Text:   fmt.Sprintf("role %s is subject to row security on %s: it cannot copy all rows", e.user(), plural(len(tables), "table")),
		Remedy: statements(fmt.Sprintf("ALTER ROLE %s BYPASSRLS", e.user()))})
	return nil
}

// checkTargetRowSecurity: there the tables will belong to our role, or to one
// whose rights it has, so that only FORCE ROW LEVEL SECURITY stops the rows.
func checkTargetRowSecurity(ctx context.Context, s *survey, e *end) error {
	if e.role.mayBypassRLS() {
		return nil
	}
	tables, err := texts(ctx, s.source.conn, fmt.Sprintf(securedSQL, userSchema), true, s.source.relationsOut)
	if err != nil || len(tables) == 0 {
		return err
	}
	e.add(Finding{Code: "row-security", Severity: Blocker, Side: postgres.Target, Objects: tables,
		Text:   fmt.Sprintf("role %s will be subject to row security on %s, forced for owners too: it cannot write all rows", e.user(), plural(len(tables), "table")),
		Remedy: statements(fmt.Sprintf("ALTER ROLE %s BYPASSRLS", e.user()))})
	return nil
}
