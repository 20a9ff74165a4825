package preflight

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// checkRoles compares the roles that the source's objects need with those of
// the target's cluster.
func checkRoles(ctx context.Context, s *survey, e *end) error {
	needed, err := schema.ReadOwnership(ctx, s.source.conn)
	if err != nil {
		return err
	}
	exists, err := schema.Roles(ctx, e.conn)
	if err != nil {
		return err
	}
	owners := needed.Owners
	if !e.exists { // the new database gets the source's owner
		owners = append(owners, s.source.role.owner)
	}
	var missing []string
	ownersExist := true
	for _, name := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(owners, needed.Grantees)))) {
		if !exists[name] {
			missing = append(missing, postgres.QuoteIdent(name))
			ownersExist = ownersExist && !slices.Contains(owners, name)
		}
	}
	if len(missing) > 0 && !s.Roles {
		text := fmt.Sprintf("%s of the source's objects missing in the target's cluster: grants cannot be restored there", plural(len(missing), "role"))
		if !ownersExist {
			text += fmt.Sprintf(", and everything will belong to %s", e.user())
		}
		e.add(Finding{Code: "roles-missing", Severity: Warning, Side: e.Side, Objects: missing, Text: text,
			Remedy: "pgbaton start --roles copies roles; or create them on the target first"})
	}
	if !ownersExist && !s.Roles || e.role.super {
		return nil // then no ownership is given away, or it can be
	}
	return checkGivingAway(ctx, e, owners)
}

// checkGivingAway makes sure that objects can be given to their owners, and
// still be written to: both take the rights of the owners' roles.
func checkGivingAway(ctx context.Context, e *end, owners []string) error {
	change := "MEMBER" // before 16 a member can always change into the role
	if e.Version().Major() >= 16 {
		change = "SET"
	}
	rows, err := e.conn.Query(ctx, `
		SELECT rolname FROM pg_catalog.pg_roles
		WHERE rolname = ANY ($1)
			AND NOT (pg_catalog.pg_has_role(oid, $2) AND pg_catalog.pg_has_role(oid, 'USAGE'))
		ORDER BY rolname`, owners, change)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(names) == 0 {
		return err
	}
	var objects []string
	for _, name := range names {
		objects = append(objects, postgres.QuoteIdent(name))
	}
	e.add(Finding{Code: "privilege-set-owner", Severity: Blocker, Side: e.Side, Objects: objects, Remedy: e.grantRoles(names...),
		Text: fmt.Sprintf("role %s can neither give objects to %s that own them on the source, nor write to them then", e.user(), plural(len(names), "role"))})
	return nil
}
