package replication

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
	"pgbaton/internal/routine"
)

// Slot is a logical replication slot that was just created.
type Slot struct {
	Name            string
	ConsistentPoint postgres.LSN
	Snapshot        string // exported; "" when none was asked for

	conn *pgconn.PgConn
}

// Close ends the session that exported the snapshot: from then on nobody can
// import it. The slot stays.
func (s *Slot) Close(ctx context.Context) error {
	if s == nil || s.conn == nil {
		return nil
	}
	return s.conn.Close(ctx)
}

// Alive says whether the slot's snapshot can still be imported.
func (s *Slot) Alive(ctx context.Context, server *postgres.Server) (bool, error) {
	if s == nil || s.conn == nil || s.conn.IsClosed() {
		return false, nil
	}
	conn, err := server.Connect(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET TRANSACTION SNAPSHOT "+postgres.QuoteLiteral(s.Snapshot))
	if postgres.Code(err) != "" {
		return false, nil
	}
	return err == nil, err
}

// CreateSlotCommand is the walsender command
// (https://www.postgresql.org/docs/current/protocol-replication.html). The spelling
// without options is understood by all of 10 to 19.
func CreateSlotCommand(name string, export bool, publisher postgres.Version) string {
	command := "CREATE_REPLICATION_SLOT " + postgres.QuoteIdent(name) + " LOGICAL pgoutput "
	switch failover := FailoverSlot(publisher); {
	case failover && export:
		return command + "(SNAPSHOT 'export', FAILOVER)"
	case failover:
		return command + "(SNAPSHOT 'nothing', FAILOVER)"
	case export:
		return command + "EXPORT_SNAPSHOT"
	}
	return command + "NOEXPORT_SNAPSHOT"
}

// CreateSlot makes a slot over the replication protocol, for the snapshot that
// only this way exports. The server waits for every transaction that has
// written and is still open, in any database of the cluster; observe hears
// whom, every second. With export the returned Slot must be kept open until
// the last import of its snapshot.
func CreateSlot(ctx context.Context, server *postgres.Server, db postgres.DB, name string, export bool, observe event.Observer) (*Slot, error) {
	conn, err := server.ConnectReplication(ctx)
	if err != nil {
		return nil, err
	}
	var results []*pgconn.Result // valid after creating
	creating := routine.Start(func() { results, err = conn.Exec(ctx, CreateSlotCommand(name, export, server.Version())).ReadAll() })
	began := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-creating.Done():
			creating.Wait()
			var slot *Slot
			if err == nil {
				slot, err = slotFromResult(conn, results)
			}
			if err != nil {
				conn.Close(context.WithoutCancel(ctx))
				return nil, server.WrapHint("creating replication slot "+name, err, SlotHint(err))
			}
			return slot, nil
		case <-tick.C:
			behind, err := WritersInCluster(ctx, db, int32(conn.PID()))
			if err == nil {
				observe(event.Waiting{For: "open transactions to end, so that the slot has a consistent point",
					Side: server.Side, Behind: behind, Seconds: event.Since(began)})
			}
		}
	}
}

// AbsentStandbys lists the slots named in synchronized_standby_slots that no standby
// reads. From 17 on nothing is sent from a slot that standbys carry on before all of
// those have it
// (https://www.postgresql.org/docs/17/runtime-config-replication.html#GUC-SYNCHRONIZED-STANDBY-SLOTS).
func AbsentStandbys(ctx context.Context, publisher postgres.DB) ([]string, error) {
	v := postgres.VersionOf(publisher)
	if !FailoverSlot(v) {
		return nil, nil
	}
	rows, err := publisher.Query(ctx, `
		SELECT pg_catalog.btrim(name, ' "') FROM pg_catalog.regexp_split_to_table(pg_catalog.current_setting('synchronized_standby_slots'), ',') AS n (name)
		WHERE pg_catalog.btrim(name) <> '' AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s
			WHERE s.slot_name = pg_catalog.btrim(name, ' "') AND s.slot_type = 'physical' AND s.active)`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// SlotElsewhere says which other database of the cluster has a slot of a name; ""
// for none. Names are unique in a cluster, and before they carried an id two
// migrations could come to the same.
func SlotElsewhere(ctx context.Context, db postgres.DB, name string) (database string, err error) {
	err = db.QueryRow(ctx, `SELECT coalesce((SELECT coalesce(database, 'none') FROM pg_catalog.pg_replication_slots
		WHERE slot_name = $1 AND database IS DISTINCT FROM pg_catalog.current_database()), '')`, name).Scan(&database)
	return database, err
}

// CreateSlotHereSQL makes the slot $1 by SQL, at the server's position now.
func CreateSlotHereSQL(publisher postgres.Version) string {
	if FailoverSlot(publisher) {
		return `SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput', failover => true)`
	}
	return `SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')`
}

// CreateSlotHere makes a slot by SQL, at the server's position now, which it
// returns. Like CreateSlot it waits for the cluster's open writing transactions. One
// that is cut short leaves none.
func CreateSlotHere(ctx context.Context, db postgres.DB, name string) (postgres.LSN, error) {
	v := postgres.VersionOf(db)
	var point string
	err := db.QueryRow(ctx, CreateSlotHereSQL(v), name).Scan(&point)
	if err != nil {
		return 0, err
	}
	return postgres.ParseLSN(point)
}

// SlotHint is the remedy when a slot cannot be made.
func SlotHint(err error) string {
	switch code := postgres.Code(err); {
	case code == postgres.QueryCanceled, errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "it waits for every open transaction that has written, in any database of the cluster: wait for them, or end them: pg_terminate_backend for the sessions with a backend_xid in pg_stat_activity, COMMIT PREPARED or ROLLBACK PREPARED for what is in pg_prepared_xacts"
	case code == postgres.ConfigLimitExceeded:
		return "all replication slots are in use: drop one, or raise max_replication_slots and restart"
	case code == postgres.InsufficientPrivilege:
		return "the role needs REPLICATION"
	}
	return ""
}

func slotFromResult(conn *pgconn.PgConn, results []*pgconn.Result) (*Slot, error) {
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 3 {
		return nil, errors.New("the server's answer to CREATE_REPLICATION_SLOT is not understood")
	}
	row := results[0].Rows[0]
	point, err := postgres.ParseLSN(string(row[1]))
	if err != nil {
		return nil, err
	}
	return &Slot{Name: string(row[0]), ConsistentPoint: point, Snapshot: string(row[2]), conn: conn}, nil
}

// WritersInCluster describes the sessions of the whole cluster whose
// transactions have written: creating a slot waits for them.
func WritersInCluster(ctx context.Context, db postgres.DB, except int32) ([]string, error) {
	rows, err := db.Query(ctx, `
		SELECT pg_catalog.format('pid %s, user %s, database %s, open for %s s, %s', pid, usename, datname,
			pg_catalog.round(extract(epoch FROM pg_catalog.clock_timestamp() - xact_start)::numeric, 1), state)
		FROM pg_catalog.pg_stat_activity
		WHERE backend_xid IS NOT NULL AND pid <> $1 AND pid <> pg_catalog.pg_backend_pid()
		UNION ALL
		SELECT pg_catalog.format('prepared transaction %L, user %s, database %s, since %s', gid, owner, database,
			pg_catalog.date_trunc('second', prepared))
		FROM pg_catalog.pg_prepared_xacts`, except)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// PreparedInCluster describes the prepared transactions of the whole cluster.
func PreparedInCluster(ctx context.Context, db postgres.DB) ([]string, error) {
	rows, err := db.Query(ctx, `
		SELECT pg_catalog.format('prepared transaction %L of user %s in database %s, since %s,', gid, owner, database, pg_catalog.date_trunc('second', prepared))
		FROM pg_catalog.pg_prepared_xacts ORDER BY gid`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// SlotState is a slot as its server shows it.
type SlotState struct {
	Name          string       `json:"name"`
	Active        bool         `json:"active"`
	ActivePID     int32        `json:"active_pid,omitempty"`
	RestartLSN    postgres.LSN `json:"-"`
	Confirmed     postgres.LSN `json:"-"`
	RetainedBytes int64        `json:"retained_bytes"` // WAL that the server keeps for this slot
	BehindBytes   int64        `json:"behind_bytes"`   // WAL written and not yet confirmed by the consumer
	Lost          bool         `json:"lost"`           // the server has removed WAL that the slot needs
	XminAge       int64        `json:"xmin_age"`       // transactions that vacuum may not clean behind, because of this slot
	Failover      bool         `json:"failover"`       // the server's standbys can carry it on; 17 and newer
	Synced        bool         `json:"synced"`         // a standby carried it on, which has been promoted since
}

// ReadSlot returns the state of this database's slot, nil when there is none.
func ReadSlot(ctx context.Context, db postgres.DB, name string) (*SlotState, error) {
	v := postgres.VersionOf(db)
	lost := "false"
	if v.Major() >= 13 {
		lost = "coalesce(wal_status = 'lost', false)"
	}
	failover := "false, false"
	if v.Major() >= 17 {
		failover = "failover, synced"
	}
	var s SlotState
	var restart, confirmed string
	err := db.QueryRow(ctx, `
		SELECT slot_name, active, coalesce(active_pid, 0), coalesce(restart_lsn::text, '0/0'), coalesce(confirmed_flush_lsn::text, '0/0'),
			coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn), 0)::bigint,
			greatest(coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), confirmed_flush_lsn), 0), 0)::bigint,
			`+lost+`, coalesce(pg_catalog.age(catalog_xmin), 0)::bigint, `+failover+`
		FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND database = pg_catalog.current_database()`, name).
		Scan(&s.Name, &s.Active, &s.ActivePID, &restart, &confirmed, &s.RetainedBytes, &s.BehindBytes, &s.Lost, &s.XminAge, &s.Failover, &s.Synced)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if s.RestartLSN, err = postgres.ParseLSN(restart); err != nil {
		return nil, err
	}
	s.Confirmed, err = postgres.ParseLSN(confirmed)
	return &s, err
}

// The statements of DropSlots.
const (
	endReadersSQL = `SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots
		WHERE slot_name ~ $1 AND database = pg_catalog.current_database() AND active_pid IS NOT NULL`
	dropSlotSQL = `SELECT pg_catalog.pg_drop_replication_slot($1)`
)

// DropSlots removes this database's slots whose names match a pattern, ending
// whoever is active on one: a dead operator's walsender may linger (rule 15). It
// returns how many there were; none is no error. It gives up after 10 seconds of
// a slot that stays in use; that one keeps no other.
func DropSlots(ctx context.Context, db postgres.DB, pattern string) (dropped int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		_, err := db.Exec(ctx, endReadersSQL, pattern)
		if err != nil {
			return dropped, err
		}
		n, err := dropIdle(ctx, db, pattern)
		dropped += n
		if postgres.Code(err) != postgres.ObjectInUse && postgres.Code(err) != postgres.UndefinedObject {
			return dropped, err
		}
		if postgres.Pause(ctx, 20*time.Millisecond) != nil {
			return dropped, err
		}
	}
}

// dropIdle drops slots one by one, those last that somebody is active on: they are an
// error.
func dropIdle(ctx context.Context, db postgres.DB, pattern string) (dropped int64, err error) {
	rows, err := db.Query(ctx, `
		SELECT slot_name FROM pg_catalog.pg_replication_slots
		WHERE slot_name ~ $1 AND database = pg_catalog.current_database() ORDER BY active_pid IS NOT NULL, slot_name`, pattern)
	if err != nil {
		return 0, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if _, err := db.Exec(ctx, dropSlotSQL, name); err != nil {
			return dropped, err
		}
		dropped++
	}
	return dropped, nil
}
