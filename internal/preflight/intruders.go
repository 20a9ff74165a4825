package preflight

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/fence"
	"pgbaton/internal/postgres"
)

// checkSubscriptions finds enabled subscriptions that write into the database:
// an apply worker needs no CONNECT and overrides the read-only default.
func checkSubscriptions(ctx context.Context, s *survey, e *end) error {
	names, err := texts(ctx, e.conn, `
		SELECT pg_catalog.quote_ident(subname)
		FROM pg_catalog.pg_subscription
		WHERE subenabled AND subname NOT LIKE $1
			AND subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
		ORDER BY subname`, s.mine())
	if err != nil || len(names) == 0 {
		return err
	}
	var disable []string
	for _, name := range names {
		disable = append(disable, fmt.Sprintf("ALTER SUBSCRIPTION %s DISABLE", name))
	}
	e.add(Finding{Code: "own-subscriptions", Severity: Blocker, Side: e.Side, Objects: names,
		Text:   fmt.Sprintf("%s into this database: what arrives passes the fence", plural(len(names), "enabled subscription")),
		Remedy: statements(disable...)})
	return nil
}

// checkPrepared finds prepared transactions: one in the database could be
// committed behind the fence, one in the cluster lets the slot's creation wait.
func checkPrepared(ctx context.Context, _ *survey, e *end) error {
	rows, err := e.conn.Query(ctx, `
		SELECT gid, owner, database, database = pg_catalog.current_database()
		FROM pg_catalog.pg_prepared_xacts ORDER BY prepared`)
	if err != nil {
		return err
	}
	var gid, owner, database string
	var here bool
	var inside, outside, rollback []string
	_, err = pgx.ForEachRow(rows, []any{&gid, &owner, &database, &here}, func() error {
		text := fmt.Sprintf("%s of %s in %s", postgres.QuoteLiteral(gid), postgres.QuoteIdent(owner), postgres.QuoteIdent(database))
		if !here {
			outside = append(outside, text)
			return nil
		}
		inside = append(inside, text)
		rollback = append(rollback, "ROLLBACK PREPARED "+postgres.QuoteLiteral(gid))
		return nil
	})
	if err != nil {
		return err
	}
	if len(inside) > 0 {
		e.add(Finding{Code: "prepared-transactions", Severity: Blocker, Side: e.Side, Objects: inside,
			Text:   fmt.Sprintf("%s in the database: no slot can be created, and no fence raised, before they end", plural(len(inside), "prepared transaction")),
			Remedy: statements(rollback...) + "\n-- or COMMIT PREPARED: whoever prepared them knows"})
	}
	if len(outside) > 0 {
		e.add(Finding{Code: "prepared-transactions", Severity: Warning, Side: e.Side, Objects: outside,
			Text:   fmt.Sprintf("%s in other databases of the cluster: creating the slot waits for them", plural(len(outside), "prepared transaction")),
			Remedy: "end them, in their databases, with COMMIT PREPARED or ROLLBACK PREPARED"})
	}
	if n := e.number("max_prepared_transactions"); n > 0 && len(inside)+len(outside) == 0 {
		e.add(Finding{Code: "prepared-allowed", Severity: Info, Side: e.Side,
			Text: fmt.Sprintf("max_prepared_transactions is %d: one that is left prepared at the time of the handover aborts it", n)})
	}
	return nil
}

// checkGrants finds grants of the database that the fence takes away and could
// not give back: each is restored by its own grantor, into whose role ours must
// be able to change.
func checkGrants(ctx context.Context, _ *survey, e *end) error {
	saved, err := fence.Read(ctx, e.conn)
	if err != nil {
		return err
	}
	var grantors []string
	for _, g := range saved.Grants {
		if g.Grantor != saved.Owner {
			grantors = append(grantors, g.Grantor)
		}
	}
	if len(grantors) == 0 || e.role.super {
		return nil
	}
	change := "MEMBER" // before 16 a member can always change into the role
	if e.Version().Major() >= 16 {
		change = "SET"
	}
	rows, err := e.conn.Query(ctx, `
		SELECT rolname FROM pg_catalog.pg_roles
		WHERE rolname = ANY ($1) AND NOT pg_catalog.pg_has_role(oid, $2) ORDER BY rolname`, grantors, change)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(names) == 0 {
		return err
	}
	missing := map[string]bool{}
	var objects []string
	for _, name := range names {
		missing[name] = true
	}
	for _, g := range saved.Grants {
		if missing[g.Grantor] {
			grantee := "PUBLIC"
			if g.Grantee != "" {
				grantee = postgres.QuoteIdent(g.Grantee)
			}
			objects = append(objects, fmt.Sprintf("%s to %s, granted by %s", list(g.Privileges), grantee, postgres.QuoteIdent(g.Grantor)))
		}
	}
	e.add(Finding{Code: "connect-grants", Severity: Blocker, Side: e.Side, Objects: objects, Remedy: e.grantRoles(names...),
		Text: fmt.Sprintf("%s of the database that role %s could not restore after a fence: it cannot change into the grantor's role", plural(len(objects), "grant"), e.user())})
	return nil
}
