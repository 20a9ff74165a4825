package journal

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// lockKey is pgbaton's advisory lock in a database ("pgbaton" in ASCII). At most
// one migration is active per database, so one key is enough.
const lockKey int64 = 0x70676261746f6e

// lockedBySQL is who has the lock of key $1 in this database.
const lockedBySQL = `
SELECT a.pid, pg_catalog.format('pid %s, user %s, from %s, since %s', a.pid, a.usename,
	coalesce(a.client_addr::text, 'this host'), pg_catalog.date_trunc('second', a.backend_start))
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
	AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
	AND (l.classid::int8 << 32 | l.objid::int8) = $1`

// Lock makes the session the database's one operator. It is a session-level
// advisory lock: it dies with its holder. When somebody else has it, ok is
// false and who describes them.
func Lock(ctx context.Context, conn *postgres.Session) (ok bool, who string, err error) {
	if err = conn.QueryRow(ctx, `SELECT pg_catalog.pg_try_advisory_lock($1)`, lockKey).Scan(&ok); err != nil || ok {
		return ok, "", err
	}
	// The name comes from the lock's owner: it may have gone by now.
	if _, who, err = LockedBy(ctx, conn); err != nil || who == "" {
		who = "somebody"
	}
	return false, who, nil
}

// LockedBy describes the session that has the lock; 0 and "" for none.
func LockedBy(ctx context.Context, db postgres.DB) (pid int32, who string, err error) {
	err = db.QueryRow(ctx, lockedBySQL, lockKey).Scan(&pid, &who)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, "", nil
	}
	return pid, who, err
}

// Unlock gives the lock back once: a session that took it twice still has it.
func Unlock(ctx context.Context, conn *postgres.Session) error {
	_, err := conn.Exec(ctx, `SELECT pg_catalog.pg_advisory_unlock($1)`, lockKey)
	return err
}

// LockHolder returns the pid of the session that holds the lock, 0 for none.
func LockHolder(ctx context.Context, db postgres.DB) (pid int32, err error) {
	err = db.QueryRow(ctx, `
		SELECT coalesce(max(l.pid), 0) FROM pg_catalog.pg_locks l
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
			AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
			AND (l.classid::int8 << 32 | l.objid::int8) = $1`, lockKey).Scan(&pid)
	return pid, err
}
