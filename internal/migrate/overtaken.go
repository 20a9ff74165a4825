package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pgbaton/internal/handover"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
)

// This file is about the command that loses: before it has the lock, the fence of
// another pgbaton ends its sessions as it ends everybody's. Nothing is wrong then.

// disturbed says whether a command has failed because a session was ended from
// outside while it had no lock: others work on the migration then.
func (s *Sessions) disturbed(err error) bool {
	if err == nil || s.locked || errors.As(err, new(*refusal.Refusal)) {
		return false
	}
	ended := postgres.Ended(err)
	if postgres.Code(err) != "" {
		return ended
	}
	for _, conn := range []*postgres.Session{s.SourceConn, s.TargetConn} {
		ended = ended || conn != nil && conn.IsClosed()
	}
	return ended
}

// overtakenTimeout bounds the asking why a session was ended.
const overtakenTimeout = 10 * time.Second

// overtaken turns the failure of a command whose sessions were ended into a refusal,
// if another pgbaton did: the databases, asked anew, say whether one has the lock, or
// has handed over since the command began, lasted ago. A server that does not answer,
// or was restarted meanwhile, makes it what it was. The sessions are closed.
func overtaken(ctx context.Context, m *Migration, lasted time.Duration, err error) error {
	ctx, cancel := context.WithTimeout(ctx, overtakenTimeout)
	defer cancel()
	now := open(ctx, m.Config)
	defer now.Close()
	began := time.Now()
	var who, met string
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		conn := now.conn(side)
		if conn == nil {
			if refused := now.err(side); !postgres.NotLetIn(refused) && postgres.Code(refused) != postgres.UndefinedDatabase {
				return err
			}
			continue
		}
		restarted, byWhom, worked, askErr := witness(ctx, conn, lasted+time.Since(began), m.conn(side))
		switch {
		case askErr != nil || restarted:
			return err
		case byWhom != "" && who == "":
			who = fmt.Sprintf("another pgbaton is at work on the %s (%s)", side, byWhom)
		case worked:
			met = "another pgbaton has been at work meanwhile"
		}
	}
	if who == "" && m.waitedFor != "" {
		met = fmt.Sprintf("another pgbaton was at work (%s)", m.waitedFor)
	}
	switch {
	case who != "":
		return refusal.New("this command", who+", and this command's session was ended, as the others of the database",
			"wait for it; pgbaton status shows what it has done")
	case met != "":
		return refusal.New("this command", met+", and has ended this command's session, as the others of the database",
			"pgbaton status shows what it has done; then, if it is still wanted, run the same command again")
	}
	return err
}

// restartedSQL says whether a server was restarted within $1: by somebody, or by itself
// after a crash, in which the postmaster stays. (Without pg_read_all_stats the latter
// cannot be seen.)
const restartedSQL = `
SELECT pg_catalog.clock_timestamp() - greatest(pg_catalog.pg_postmaster_start_time(), pg_catalog.max(backend_start)) <= $1::interval
FROM pg_catalog.pg_stat_activity WHERE backend_type = 'checkpointer'`

// witness asks a side whether its server was restarted within a time, which other
// session than the old one has the lock, and whether anybody has handed over meanwhile.
func witness(ctx context.Context, conn *postgres.Session, within time.Duration, old *postgres.Session) (restarted bool, who string, worked bool, err error) {
	err = conn.QueryRow(ctx, restartedSQL, within).Scan(&restarted)
	if err != nil || restarted {
		return restarted, "", false, err
	}
	pid, who, err := journal.LockedBy(ctx, conn)
	if err != nil {
		return false, "", false, err
	}
	if old != nil && uint32(pid) == old.PgConn().PID() {
		who = ""
	}
	worked, err = handover.Worked(ctx, conn, within)
	return false, who, worked, err
}
