package tablecopy

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/postgres"
)

// copySettings make a value read on one side mean the same on the other, beyond
// what every session of ours sets: the text form of money depends on lc_monetary,
// and array_nulls decides whether NULL in an array is one.
var copySettings = map[string]string{
	"application_name": "pgbaton load", // by which schema.EndOrphans knows those of a run that died
	"lc_monetary":      "C",
	"array_nulls":      "on",
}

// sourceSettings: rows arrive in the order in which they lie on disk, so that a
// clustered table stays one.
var sourceSettings = merged(copySettings, map[string]string{
	"synchronize_seqscans": "off",
})

// targetSettings: a crash of the target may take back the last tables together
// with what was recorded of them, never one without the other, so that waiting
// for the disk at each table would buy nothing.
var targetSettings = merged(copySettings, map[string]string{
	"synchronous_commit": "off",
})

func merged(a, b map[string]string) map[string]string {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

// openSource opens a session to read rows in.
func openSource(ctx context.Context, s *postgres.Server) (*pgconn.PgConn, error) {
	return s.ConnectRaw(ctx, sourceSettings)
}

// importSnapshot makes a session read under a snapshot.
func importSnapshot(ctx context.Context, conn *pgconn.PgConn, snapshot string) error {
	sql := "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET TRANSACTION SNAPSHOT " + postgres.QuoteLiteral(snapshot)
	if conn.TxStatus() != 'I' { // under another one so far
		sql = "ROLLBACK; " + sql
	}
	err := exec(ctx, conn, sql)
	if err == nil {
		return nil
	}
	hint := ""
	switch postgres.Code(err) {
	case invalidParameterValue, postgres.UndefinedObject, objectNotInPrerequisiteState:
		// What servers from 10 to 19 say of it differs.
		err = fmt.Errorf("%w: %w", ErrSnapshotGone, err)
		hint = "the session that exported the snapshot has ended: run start again, it copies what is left under a new one"
	}
	return postgres.WrapHint(postgres.Source, fmt.Sprintf("reading under snapshot %q", snapshot), err, hint)
}

// openTarget opens a session that loads tables and builds indexes. memory is its
// maintenance_work_mem, "" for the server's own setting.
func openTarget(ctx context.Context, s *postgres.Server, memory string) (*pgconn.PgConn, error) {
	settings := targetSettings
	if memory != "" {
		settings = merged(settings, map[string]string{"maintenance_work_mem": memory})
	}
	// Triggers are created after the copy. Should there be one already, it does not
	// fire: rows come as they are. Not every role may say so (before 15 only
	// superusers); then a trigger that drops rows is found by counting them.
	return s.ConnectRaw(ctx, settings)
}

// exec runs statements whose results do not matter.
func exec(ctx context.Context, conn *pgconn.PgConn, sql string) error {
	return conn.Exec(ctx, sql).Close()
}

// endTimeout bounds each step of ending a session.
const endTimeout = 3 * time.Second

// end closes a session and waits until it is closed. After a failure the server
// may still be at work, waiting for a lock for instance, and would not notice
// that we have gone: it is told to cancel.
func end(ctx context.Context, conn *pgconn.PgConn, failed bool) {
	// Also, and above all, when ctx has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	if failed && !conn.IsClosed() {
		// Best effort, here and below: the session is gone with its socket.
		_ = conn.CancelRequest(ctx)
		_ = conn.Conn().SetDeadline(time.Now().Add(endTimeout))
	}
	_ = conn.Close(ctx)
	select {
	case <-conn.CleanupDone(): // pgconn may have begun to close it on its own
	case <-ctx.Done():
		_ = conn.Conn().Close()
		<-conn.CleanupDone()
	}
}
