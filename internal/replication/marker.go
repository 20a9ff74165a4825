package replication

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// MarkerTableSQL makes a group's marker table, the same on both sides.
func MarkerTableSQL(table postgres.Ident) string {
	return fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (token text PRIMARY KEY, kind text NOT NULL, written_at timestamptz NOT NULL)", table)
}

// Marker kinds.
const (
	Heartbeat = "heartbeat" // written by status, to measure lag
	Drain     = "drain"     // written inside a fence, to prove that all before it was applied
)

// WriteMarker writes a row into the group's marker table on the side that holds
// the baton and returns its token. The commit is synchronous: what is then seen
// on the other side is durable here.
func WriteMarker(ctx context.Context, conn *postgres.Session, table postgres.Ident, kind string) (token string, err error) {
	token = rand.Text()
	err = postgres.Durably(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, writeMarkerSQL(table), token, kind)
		return err
	})
	return token, err
}

func writeMarkerSQL(table postgres.Ident) string {
	return fmt.Sprintf("INSERT INTO %s VALUES ($1, $2, pg_catalog.clock_timestamp())", table)
}

// Position is the end of WAL on a publisher, what is not flushed yet included: a
// commit may be visible before pg_current_wal_lsn() has reached it.
func Position(ctx context.Context, publisher postgres.DB) (postgres.LSN, error) {
	var lsn string
	if err := publisher.QueryRow(ctx, `SELECT pg_catalog.pg_current_wal_insert_lsn()::text`).Scan(&lsn); err != nil {
		return 0, err
	}
	return postgres.ParseLSN(lsn)
}

// WaitMarker polls the other side until the marker is visible there: everything
// committed before it has been applied (rule 3).
func WaitMarker(ctx context.Context, db postgres.DB, table postgres.Ident, token string) error {
	for {
		seen, err := SawMarker(ctx, db, table, token, time.Minute)
		if err != nil || seen {
			return err
		}
	}
}

// SawMarker is WaitMarker with a bound that is no failure: false when the marker
// has not arrived by then. The session stays usable.
func SawMarker(ctx context.Context, db postgres.DB, table postgres.Ident, token string, within time.Duration) (bool, error) {
	sql := fmt.Sprintf("SELECT EXISTS (SELECT FROM %s WHERE token = $1)", table)
	// A handover waits for milliseconds, a catch-up for hours.
	every := time.Millisecond
	for began := time.Now(); ; {
		var seen bool
		if err := db.QueryRow(ctx, sql, token).Scan(&seen); err != nil || seen || time.Since(began) > within {
			return seen, err
		}
		if time.Since(began) > 200*time.Millisecond {
			every = 20 * time.Millisecond
		}
		if err := postgres.Pause(ctx, every); err != nil {
			return false, err
		}
	}
}

// OldestUnapplied returns the age of the oldest marker that was written on the
// publisher and is not yet applied on the subscriber; 0 when there is none.
func OldestUnapplied(ctx context.Context, publisher, subscriber postgres.DB, table postgres.Ident) (time.Duration, error) {
	rows, err := subscriber.Query(ctx, fmt.Sprintf("SELECT token FROM %s", table))
	if err != nil {
		return 0, err
	}
	applied, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, err
	}
	var seconds float64
	err = publisher.QueryRow(ctx, fmt.Sprintf(`
		SELECT coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - min(written_at)), 0)::float8
		FROM %s WHERE token <> ALL ($1)`, table), applied).Scan(&seconds)
	return time.Duration(seconds * float64(time.Second)), err
}
