package replication

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// This file reads what others do on a server at the moment: what a handover would
// have to wait for, and what its fence would not stop. Before 14 only a superuser
// can read the column oid of pg_subscription; the view pg_stat_subscription gives it,
// and the name, to everyone.

// OldTransaction is a transaction that has been open for more than a second.
type OldTransaction struct {
	Who    string        // session, user, database and age, for people
	Writes bool          // it has a transaction id
	Here   bool          // it is in the database that was asked
	Age    time.Duration // when it was seen
}

const oldTransactionsSQL = `
SELECT pg_catalog.format('pid %s, user %s, database %s, open for %s s', a.pid, a.usename, a.datname, pg_catalog.round(t.age::numeric, 1)),
	a.backend_xid IS NOT NULL, a.datname IS NOT DISTINCT FROM pg_catalog.current_database(), t.age
FROM pg_catalog.pg_stat_activity a,
	LATERAL (SELECT extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS age) t
WHERE a.xact_start IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid() AND t.age > 1
	AND (coalesce(a.backend_type, '') IN ('client backend', 'autovacuum worker') OR a.backend_type LIKE 'logical replication%worker')
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_subscription w WHERE w.pid = a.pid AND w.subname ~ $1)
ORDER BY a.xact_start`

// OldTransactions lists the transactions of the cluster that have been open for
// more than a second, the oldest first, but for those of the workers of
// subscriptions whose names match a regular expression.
func OldTransactions(ctx context.Context, db postgres.DB, ours string) ([]OldTransaction, error) {
	rows, err := db.Query(ctx, oldTransactionsSQL, ours)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t OldTransaction, err error) {
		var seconds float64
		err = row.Scan(&t.Who, &t.Writes, &t.Here, &seconds)
		t.Age = time.Duration(seconds * float64(time.Second))
		return t, err
	})
}

// KeptFromPublishing lists who has locks on tables of the database with which these cannot
// be put into a publication.
func KeptFromPublishing(ctx context.Context, db postgres.DB) ([]string, error) {
	rows, err := db.Query(ctx, `
		SELECT pg_catalog.format('pid %s, user %s, %s, table %I.%I', a.pid, a.usename, a.backend_type, n.nspname, c.relname)
		FROM pg_catalog.pg_locks l
		JOIN pg_catalog.pg_class c ON c.oid = l.relation
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
		WHERE l.granted AND l.pid <> pg_catalog.pg_backend_pid() AND c.relkind = 'r' AND n.nspname !~ '^pg_'
			AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
			AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
		ORDER BY a.xact_start, 1`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// OtherSubscriptions lists the enabled subscriptions that write into the database,
// but for those whose names match a regular expression.
func OtherSubscriptions(ctx context.Context, db postgres.DB, ours string) ([]string, error) {
	rows, err := db.Query(ctx, `
		SELECT subname FROM pg_catalog.pg_subscription
		WHERE subenabled AND subname !~ $1
			AND subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
		ORDER BY subname`, ours)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// ClientSessions is how many clients are connected to the database.
func ClientSessions(ctx context.Context, db postgres.DB) (n int, err error) {
	err = db.QueryRow(ctx, `SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
		WHERE datname = pg_catalog.current_database() AND backend_type = 'client backend'`).Scan(&n)
	return n, err
}
