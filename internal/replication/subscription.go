package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/phrase"
	"pgbaton/internal/postgres"
)

// CreateSubscription makes the subscription; conninfo is how the subscriber
// reaches the publisher and may hold a password. A keyword that libpq knows and a
// foreign server does not take leads to a subscription without one.
func CreateSubscription(ctx context.Context, conn *postgres.Session, name string, conninfo postgres.Conninfo, t Terms) error {
	err := discreetly(ctx, conn, func(tx pgx.Tx) error { return createSubscription(ctx, tx, name, conninfo, t) })
	if t.Server && postgres.Code(err) == postgres.InvalidOptionName {
		t.Server = false
		return CreateSubscription(ctx, conn, name, conninfo, t)
	}
	return err
}

func createSubscription(ctx context.Context, tx pgx.Tx, name string, conninfo postgres.Conninfo, t Terms) error {
	for _, sql := range SubscriptionSQL(name, conninfo, t) {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// errProbe ends the probe's transaction.
var errProbe = errors.New("the probe is over")

// subscriptionRoles may create subscriptions without being superuser: since 16
// by the server's own role, on managed services by the administrative one.
var subscriptionRoles = append([]string{"pg_create_subscription"}, postgres.ProviderAdmins...)

// mayCreateSubscription asks beforehand: the server logs a statement that it
// refuses, password and all, and only a superuser can tell it not to.
func mayCreateSubscription(ctx context.Context, db postgres.DB) error {
	var may bool
	err := db.QueryRow(ctx, `
		SELECT rolsuper OR pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
			AND EXISTS (SELECT FROM pg_catalog.pg_roles g WHERE g.rolname = ANY ($1) AND pg_catalog.pg_has_role(g.oid, 'USAGE'))
		FROM pg_catalog.pg_roles WHERE rolname = current_user`, subscriptionRoles).Scan(&may)
	if err == nil && !may {
		err = &pgconn.PgError{Severity: "ERROR", Code: postgres.InsufficientPrivilege, Message: "the role may not create subscriptions in this database"}
	}
	return err
}

// Probe lets one server connect to another and leaves nothing behind: a
// subscription is created and rolled back. SQLSTATE 42501 says that it could not
// be tried.
func Probe(ctx context.Context, conn *postgres.Session, conninfo postgres.Conninfo) error {
	if err := mayCreateSubscription(ctx, conn); err != nil {
		return err
	}
	err := discreetly(ctx, conn, func(tx pgx.Tx) error {
		const name = "pgbaton_probe"
		conninfo = conninfo.With("connect_timeout", "10") // a network may drop packets silently
		if err := createSubscription(ctx, tx, name, conninfo, Terms{}); err != nil {
			return err
		}
		return errProbe
	})
	if errors.Is(err, errProbe) {
		return nil
	}
	return err
}

// discreetly runs statements that carry a password in a transaction that the
// server's log and pg_stat_statements do not see, as far as the role may say so
// (rule 8; check warns where it may not).
func discreetly(ctx context.Context, conn *postgres.Session, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, setting := range []string{
			"log_statement = 'none'", "log_min_duration_statement = -1", "log_min_error_statement = 'panic'",
			"pg_stat_statements.track = 'none'",
		} {
			err := pgx.BeginFunc(ctx, tx, func(sp pgx.Tx) error { // a savepoint: refusal is no failure
				_, err := sp.Exec(ctx, "SET LOCAL "+setting)
				return err
			})
			if err != nil && postgres.Code(err) == "" {
				return err // not the server's answer: the connection is gone
			}
		}
		return f(tx)
	})
}

// Subscription is a subscription of ours as its server shows it.
type Subscription struct {
	OID     uint32
	Name    string
	Enabled bool
	SlotSet bool
}

// subscriptionOID is the OID of this database's subscription named $1, NULL for
// none. Before 14 only a superuser can read it in pg_subscription. The view shows it
// to everyone, but for all databases, each with its names: pg_subscription_rel, the
// database's own, tells them apart.
const subscriptionOID = `(
	SELECT v.subid FROM pg_catalog.pg_stat_subscription v
	WHERE v.subname = $1 AND EXISTS (SELECT FROM pg_catalog.pg_subscription s
		WHERE s.subname = $1 AND s.subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
	ORDER BY EXISTS (SELECT FROM pg_catalog.pg_subscription_rel r WHERE r.srsubid = v.subid) DESC
	LIMIT 1)`

// ReadSubscription returns this database's subscription, nil when there is none.
func ReadSubscription(ctx context.Context, db postgres.DB, name string) (*Subscription, error) {
	var s Subscription
	// subconninfo is not readable for everyone; the columns named here are.
	err := db.QueryRow(ctx, `
		SELECT coalesce(`+subscriptionOID+`, 0), subname, subenabled, subslotname IS NOT NULL FROM pg_catalog.pg_subscription
		WHERE subname = $1 AND subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`,
		name).Scan(&s.OID, &s.Name, &s.Enabled, &s.SlotSet)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &s, err
}

// SetEnabled enables or disables a subscription. Disabling waits until its
// workers are gone. Before 16 a worker looks only once a second whether it is
// still wanted: it is ended, which is safe at any point, since what it applies is
// a transaction with its origin's position. Its parallel workers end with it.
func SetEnabled(ctx context.Context, db postgres.DB, name string, enabled bool) error {
	action := "DISABLE"
	if enabled {
		action = "ENABLE"
	}
	if _, err := db.Exec(ctx, "ALTER SUBSCRIPTION "+postgres.QuoteIdent(name)+" "+action); err != nil || enabled {
		return err
	}
	_, err := db.Exec(ctx, endWorkersSQL, name)
	if err != nil && postgres.Code(err) != postgres.InsufficientPrivilege { // then it goes by itself, later
		return err
	}
	return WaitNoWorker(ctx, db, name)
}

// endWorkersSQL ends the workers of subscription $1.
const endWorkersSQL = `SELECT pg_catalog.pg_terminate_backend(w.pid)
	FROM pg_catalog.pg_stat_subscription w
	WHERE w.pid IS NOT NULL AND ` + notParallel + ` AND w.subid = ` + subscriptionOID

// notParallel leaves out the parallel apply workers of pg_stat_subscription w, which
// have a leader there (16 and newer; the column is not there before).
const notParallel = `pg_catalog.to_jsonb(w) ->> 'leader_pid' IS NULL`

// WaitNoWorker waits until the subscription has no worker: neither one that applies,
// a parallel one included, nor one that copies a table.
func WaitNoWorker(ctx context.Context, db postgres.DB, name string) error {
	for {
		pids, err := WorkerPIDs(ctx, db, name)
		if err != nil || len(pids) == 0 {
			return err
		}
		if err := postgres.Pause(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("waiting for the workers of subscription %s to end: %w", name, err)
		}
	}
}

// WorkerPIDs lists the running workers of a subscription. The view is
// cluster-wide; names are unique per database only, so it is asked by OID.
func WorkerPIDs(ctx context.Context, db postgres.DB, name string) ([]int32, error) {
	rows, err := db.Query(ctx, `
		SELECT w.pid FROM pg_catalog.pg_stat_subscription w
		WHERE w.pid IS NOT NULL AND w.subid = `+subscriptionOID, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int32])
}

// Applies says whether the subscription's apply worker runs: the one that all
// others depend on.
func Applies(ctx context.Context, db postgres.DB, name string) (runs bool, err error) {
	err = db.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_subscription w
			WHERE w.pid IS NOT NULL AND w.relid IS NULL AND `+notParallel+` AND w.subid = `+subscriptionOID+`)`, name).Scan(&runs)
	return runs, err
}

// DropSubscription removes a subscription without touching its publisher, which
// may be gone: the slot is dropped apart. It returns the subscription's OID,
// by which leftover table synchronization slots are known, 0 when there was none.
func DropSubscription(ctx context.Context, db postgres.DB, name string) (uint32, error) {
	s, err := ReadSubscription(ctx, db, name)
	if err != nil || s == nil {
		return 0, err
	}
	q := postgres.QuoteIdent(name)
	if err := SetEnabled(ctx, db, name, false); err != nil {
		return s.OID, err
	}
	if s.SlotSet {
		if _, err := db.Exec(ctx, "ALTER SUBSCRIPTION "+q+" SET (slot_name = NONE)"); err != nil {
			return s.OID, err
		}
	}
	drop := "DROP SUBSCRIPTION " + q
	var server bool
	err = db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_foreign_server WHERE srvname = $1)`, name).Scan(&server)
	if server {
		drop += "; DROP SERVER " + q + " CASCADE" // one string, one transaction: neither stays alone
	}
	if err == nil {
		_, err = db.Exec(ctx, drop)
	}
	return s.OID, err
}

// SyncSlotPattern matches the slots that table synchronization made for a
// subscription (src/backend/replication/logical/tablesync.c:
// pg_<subscription>_sync_<table>_<system identifier>).
func SyncSlotPattern(oid uint32) string { return fmt.Sprintf(`^pg_%d_sync_`, oid) }

// TableState is the state of one table in a subscription: i initialize, d data
// is being copied, f finished copying, s synchronized, r ready.
type TableState struct {
	postgres.Ident
	State string
}

// SubscriptionTables lists the tables a subscription applies, by name.
func SubscriptionTables(ctx context.Context, db postgres.DB, name string) ([]TableState, error) {
	rows, err := db.Query(ctx, `
		SELECT n.nspname, c.relname, r.srsubstate::text
		FROM pg_catalog.pg_subscription_rel r
		JOIN pg_catalog.pg_class c ON c.oid = r.srrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE r.srsubid = `+subscriptionOID+`
		ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t TableState, err error) {
		err = row.Scan(&t.Schema, &t.Name, &t.State)
		return t, err
	})
}

// VerifySubscription makes sure, before anything enables it, that a subscription
// holds exactly the tables of its publication, all in the state given (rule 12).
func VerifySubscription(ctx context.Context, publisher, subscriber postgres.DB, name, state string) error {
	want, err := PublicationTables(ctx, publisher, name)
	if err != nil {
		return err
	}
	have, err := SubscriptionTables(ctx, subscriber, name)
	if err != nil {
		return err
	}
	names := make([]postgres.Ident, len(have))
	for i, t := range have {
		if names[i] = t.Ident; t.State != state {
			return fmt.Errorf("table %s is in state %q instead of %q", t.Ident, t.State, state)
		}
	}
	if !slices.Equal(want, names) {
		return fmt.Errorf("it has %s, the publication has %d: they differ", phrase.Count(len(names), "table"), len(want))
	}
	return nil
}

// AppliedUpTo is the publisher's position up to which the subscription has
// applied, kept by its replication origin. ok is false where the role may not
// read it.
func AppliedUpTo(ctx context.Context, db postgres.DB, oid uint32) (applied postgres.LSN, ok bool, err error) {
	var lsn string
	err = db.QueryRow(ctx, `SELECT coalesce((SELECT remote_lsn::text FROM pg_catalog.pg_replication_origin_status
		WHERE external_id = pg_catalog.format('pg_%s', $1::oid)), '0/0')`, oid).Scan(&lsn)
	if postgres.Code(err) == postgres.InsufficientPrivilege {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	applied, err = postgres.ParseLSN(lsn)
	return applied, true, err
}

// ApplyErrors is how often the subscription's workers ended with an error:
// known on 15 and newer, -1 elsewhere.
func ApplyErrors(ctx context.Context, db postgres.DB, oid uint32) (n int64, err error) {
	v := postgres.VersionOf(db)
	if v.Major() < 15 {
		return -1, nil
	}
	// Which kinds are counted, and under what names, changes: 19 has others than 18.
	err = db.QueryRow(ctx, `
		SELECT coalesce(sum(c.value::bigint), 0)::bigint
		FROM pg_catalog.pg_stat_subscription_stats s, pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(s)) c
		WHERE s.subid = $1 AND c.key LIKE '%\_error\_count'`, oid).Scan(&n)
	return n, err
}
