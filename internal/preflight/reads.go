package preflight

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// What a command of the migration cannot read must be known before the copy, not
// when the handover is to begin: a hardened server may have taken from PUBLIC what
// everybody has by default.

// readsSQL lists which of the relations $1 and functions $2 of pg_catalog the role
// may not read or call, each with the statement that lets it. Columns may be granted
// one by one, as those of pg_subscription.
const readsSQL = `
SELECT c.relname::text, pg_catalog.format('GRANT SELECT ON pg_catalog.%I TO %I', c.relname, current_user)
FROM pg_catalog.pg_class c
WHERE c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace AND c.relname = ANY ($1)
	AND NOT pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
UNION ALL
SELECT p.oid::pg_catalog.regprocedure::text, pg_catalog.format('GRANT EXECUTE ON FUNCTION pg_catalog.%I(%s) TO %I',
	p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid), current_user)
FROM pg_catalog.pg_proc p
WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND p.proname = ANY ($2)
	AND NOT pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
ORDER BY 1`

// unknown is the name of a slot, a publication, a subscription that does not exist.
const unknown = "pgbaton_check"

// reads are questions that a handover asks, on either side; here they are asked of
// a server on which nothing of the migration need be yet.
var reads = []struct {
	what string
	ask  func(ctx context.Context, s *survey, e *end) error
}{
	{"old transactions", func(ctx context.Context, s *survey, e *end) error {
		_, err := replication.OldTransactions(ctx, e.conn, replication.AllOf(s.label()))
		return err
	}},
	{"prepared transactions", func(ctx context.Context, _ *survey, e *end) error {
		_, err := replication.PreparedInCluster(ctx, e.conn)
		return err
	}},
	{"subscriptions", func(ctx context.Context, s *survey, e *end) error {
		_, err := replication.OtherSubscriptions(ctx, e.conn, replication.AllOf(s.label()))
		return err
	}},
	{"a subscription's state", func(ctx context.Context, s *survey, e *end) error {
		if _, err := replication.ReadSubscription(ctx, e.conn, unknown); err != nil {
			return err
		}
		if _, err := replication.SubscriptionTables(ctx, e.conn, unknown); err != nil {
			return err
		}
		_, err := replication.WorkerPIDs(ctx, e.conn, unknown)
		return err
	}},
	{"a replication slot's state", func(ctx context.Context, s *survey, e *end) error {
		_, err := replication.ReadSlot(ctx, e.conn, unknown)
		return err
	}},
	{"publications", func(ctx context.Context, s *survey, e *end) error {
		_, err := replication.PublicationTables(ctx, e.conn, unknown)
		return err
	}},
	{"the WAL position", func(ctx context.Context, _ *survey, e *end) error {
		_, err := replication.Position(ctx, e.conn)
		return err
	}},
	{"sessions", func(ctx context.Context, s *survey, e *end) error {
		if _, err := replication.ClientSessions(ctx, e.conn); err != nil {
			return err
		}
		return fence.Look(ctx, e.conn, replication.AllOf(s.label()))
	}},
	{"locks", func(ctx context.Context, _ *survey, e *end) error {
		_, err := journal.LockHolder(ctx, e.conn)
		return err
	}},
	{"tables and sequences", func(ctx context.Context, _ *survey, e *end) error {
		if _, err := catalog.Shapes(ctx, e.conn, e.selection); err != nil {
			return err
		}
		if _, err := catalog.Sequences(ctx, e.conn, e.selection); err != nil {
			return err
		}
		_, err := replication.Fingerprint(ctx, e.conn)
		return err
	}},
}

// checkReads finds what of the server's own catalogs, views and functions the role
// may not use.
func checkReads(ctx context.Context, s *survey, e *end) error {
	if e.role.super || e.standby { // nothing of it can be tried on a standby, a finding of its own
		return nil
	}
	relations, functions := catalogUse()
	rows, err := e.conn.Query(ctx, readsSQL, relations, functions)
	if err != nil {
		return err
	}
	f := Finding{Code: "privilege-read", Severity: Blocker, Side: e.Side}
	var object, grant string
	var grants []string
	_, err = pgx.ForEachRow(rows, []any{&object, &grant}, func() error {
		f.Objects = append(f.Objects, object)
		grants = append(grants, grant)
		return nil
	})
	if err != nil {
		return err
	}
	if len(grants) > 0 {
		f.Text = fmt.Sprintf("%s in pg_catalog that everybody may use by default, but role %s may not: a later command would fail", plural(len(f.Objects), "relation or function"), e.user())
		f.Remedy = statements(grants...)
		e.add(f)
		return nil
	}
	for _, r := range reads {
		err := r.ask(ctx, s, e)
		if postgres.Code(err) == postgres.InsufficientPrivilege {
			f.Objects = append(f.Objects, r.what+": "+postgres.Describe(err))
			err = nil
		}
		if err != nil {
			return e.Wrap("reading "+r.what, err)
		}
	}
	if len(f.Objects) > 0 {
		f.Text = fmt.Sprintf("role %s may not read what a handover has to know", e.user())
		f.Remedy = "grant it what the server's message names, or connect as a superuser"
		e.add(f)
	}
	return nil
}
