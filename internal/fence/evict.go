package fence

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// providerRoles own sessions that no customer of a managed service may end.
var providerRoles = []string{"rdsadmin", "cloudsqladmin", "cloudsqlagent", "azuresu", "azure_superuser", "alloydbadmin"}

// BarrierSQL is the statement that waits for sessions that start up, and fails.
func BarrierSQL(database string) string {
	q := postgres.QuoteIdent(database)
	return fmt.Sprintf("ALTER DATABASE %s RENAME TO %s", q, q)
}

// Barrier waits for sessions that are still starting up, which no view shows
// (b of rule 2). A starting backend holds a RowExclusiveLock on its database's
// pg_database row until it is visible (src/backend/utils/init/postinit.c);
// RENAME asks for AccessExclusiveLock first and then fails by design: the role
// may not create databases, or the new name is taken
// (src/backend/commands/dbcommands.c, RenameDatabase). That error is success; a
// lock timeout is not.
func Barrier(ctx context.Context, conn *postgres.Session, database string, timeout time.Duration) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", max(1, timeout.Milliseconds()))); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, BarrierSQL(database))
		return err
	})
	switch postgres.Code(err) {
	case postgres.DuplicateDatabase, postgres.FeatureNotSupported, postgres.InsufficientPrivilege:
		return nil
	case postgres.LockNotAvailable:
		return fmt.Errorf("a session that is still starting up did not finish in time: %w", err)
	}
	if err == nil {
		err = fmt.Errorf("the rename of database %s to itself succeeded, which no known server does", postgres.QuoteIdent(database))
	}
	return err
}

// session is somebody else in the database.
type session struct {
	PID      int32
	User     string
	App      string
	Type     string
	Provider bool
}

func (s session) String() string {
	return fmt.Sprintf("pid %d, user %s, %s %q", s.PID, s.User, s.Type, s.App)
}

// strangersSQL lists who must go: every session of this database that began
// before the moment $1, but for pgbaton's own sessions ($2), the walsenders of its
// slots ($3, a regular expression), its apply workers, and autovacuum. Whoever came later
// was admitted by the fence: a role that keeps CONNECT, read-only by default.
const strangersSQL = `
SELECT a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.backend_type, 'session'),
	coalesce(a.usename = ANY ($4), false)
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = pg_catalog.current_database() AND a.backend_start <= $1::timestamptz
	AND a.pid <> ALL ($2) AND coalesce(a.backend_type, '') NOT IN ('autovacuum worker', 'parallel worker')
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s
		WHERE s.active_pid = a.pid AND s.slot_name ~ $3)
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_subscription w WHERE w.pid = a.pid AND w.subname ~ $3)
ORDER BY a.pid`

// Look only looks for strangers, so that the session knows the statement.
func Look(ctx context.Context, conn *postgres.Session, pattern string) error {
	_, err := conn.Exec(ctx, strangersSQL, "-infinity", []int32{}, pattern, providerRoles)
	return err
}

// Evict ends every session that began before the barrier was passed and could
// still write, waits until each is gone, and looks for prepared transactions
// (c and d of rule 2). ours are the pids of pgbaton's own sessions; pattern matches
// the names of its slots and subscriptions. It returns provider-owned sessions
// that cannot be ended, for a person to see.
func Evict(ctx context.Context, conn *postgres.Session, ours []int32, pattern string) (provider []string, err error) {
	var moment string
	if err := conn.QueryRow(ctx, `SELECT pg_catalog.clock_timestamp()::text`).Scan(&moment); err != nil {
		return nil, err
	}
	const again = 50 * time.Millisecond // a signal that came at a bad moment is sent again
	var signalled time.Time
	for {
		rows, err := conn.Query(ctx, strangersSQL, moment, ours, pattern, providerRoles)
		if err != nil {
			return nil, err
		}
		strangers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[session])
		if err != nil {
			return nil, err
		}
		provider = provider[:0]
		var waiting []session
		for _, s := range strangers {
			if s.Provider {
				provider = append(provider, s.String())
				continue
			}
			waiting = append(waiting, s)
		}
		if len(waiting) == 0 {
			return provider, noPrepared(ctx, conn)
		}
		if time.Since(signalled) > again {
			if err := terminate(ctx, conn, waiting); err != nil {
				return provider, err
			}
			signalled = time.Now()
		}
		timer := time.NewTimer(time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return provider, fmt.Errorf("sessions that would not end: %s: %w", describe(waiting), ctx.Err())
		}
	}
}

// terminate signals all sessions in one statement: those who wait, wait for it.
func terminate(ctx context.Context, conn *postgres.Session, sessions []session) error {
	pids := make([]int32, len(sessions))
	for i, s := range sessions {
		pids[i] = s.PID
	}
	_, err := conn.Exec(ctx, terminateSQL, pids)
	if err != nil {
		return fmt.Errorf("ending sessions (%s): %w", describe(sessions), err)
	}
	return nil
}

const terminateSQL = `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.unnest($1::int4[]) AS pid`

func describe(sessions []session) string {
	names := make([]string, len(sessions))
	for i, s := range sessions {
		names[i] = s.String()
	}
	return strings.Join(names, "; ")
}

// noPrepared fails when a prepared transaction waits in the database: it could
// be committed, and write, at any time.
func noPrepared(ctx context.Context, conn *postgres.Session) error {
	names, err := Prepared(ctx, conn)
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("prepared transactions in the database: %s", strings.Join(names, ", "))
	}
	return err
}

// Prepared lists the prepared transactions of the database.
func Prepared(ctx context.Context, db postgres.DB) ([]string, error) {
	rows, err := db.Query(ctx, `SELECT pg_catalog.format('%L of %s', gid, owner) FROM pg_catalog.pg_prepared_xacts
		WHERE database = pg_catalog.current_database() ORDER BY gid`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
