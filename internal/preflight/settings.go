package preflight

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
)

// settingsSQL reads the settings that checks look at. Memory and time settings
// come in the unit that pg_settings gives.
const settingsSQL = `
SELECT name, setting
FROM pg_catalog.pg_settings
WHERE name IN ('wal_level', 'max_replication_slots', 'max_wal_senders', 'max_active_replication_origins',
	'max_logical_replication_workers', 'max_sync_workers_per_subscription', 'max_worker_processes',
	'max_connections', 'superuser_reserved_connections', 'reserved_connections', 'max_slot_wal_keep_size',
	'max_prepared_transactions', 'log_statement', 'log_min_duration_statement')`

func readSettings(ctx context.Context, q catalog.Querier) (map[string]string, error) {
	rows, err := q.Query(ctx, settingsSQL)
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		settings[name] = value
		return nil
	})
	return settings, err
}

// number is a setting as a number, 0 when the server does not have it.
func (e *end) number(name string) int {
	n, _ := strconv.Atoi(e.setting[name]) // the server checks its settings
	return n
}

// alterSystem is the remedy for settings that take effect with a restart:
// name, value, name, value.
func alterSystem(pairs ...string) string {
	var lines []string
	for i := 0; i < len(pairs); i += 2 {
		lines = append(lines, fmt.Sprintf("ALTER SYSTEM SET %s = %s;", pairs[i], pairs[i+1]))
	}
	return strings.Join(append(lines, "-- needs a restart of the server (managed services: the parameter group)"), "\n")
}

// syncWorkers is how many tables method native copies at a time; each takes a
// slot, a WAL sender, a worker and an origin. The other methods need none.
func (s *survey) syncWorkers() int {
	if s.Method != "native" || s.target == nil || s.target.setting == nil {
		return 0
	}
	return s.target.number("max_sync_workers_per_subscription")
}

// capacity is one limit of a server, and what there is below it.
type capacity struct {
	code    string
	setting string
	what    string // counted in the plural: "replication slots"
	used    int    // by others than this migration
	need    int
	why     string
}

// judge says it when a limit is too low.
func (e *end) judge(severity Severity, c capacity) {
	limit := e.number(c.setting)
	if limit-c.used >= c.need {
		return
	}
	e.add(Finding{Code: c.code, Severity: severity, Side: e.Side,
		Text:   fmt.Sprintf("%s = %d leaves %d free %s, needed are %d: %s", c.setting, limit, max(0, limit-c.used), c.what, c.need, c.why),
		Remedy: alterSystem(c.setting, strconv.Itoa(c.used+c.need))})
}

// wayBack is how the reason for a need ends that only the way back has.
const wayBack = "without them rollback is not possible"

// publisherUse counts what others hold of a publisher's limits; $1 matches the
// names of this migration's own slots.
const publisherUse = `
SELECT
	(SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots
		WHERE slot_name NOT LIKE $1)::int,
	(SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication r
		WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s
			WHERE s.active_pid = r.pid AND s.slot_name LIKE $1))::int`

func checkPublisherOnSource(ctx context.Context, s *survey, e *end) error {
	if e.setting["wal_level"] != "logical" {
		e.add(Finding{Code: "wal-level", Severity: Blocker, Side: e.Side,
			Text:   fmt.Sprintf("wal_level is %s: changes cannot be decoded", e.setting["wal_level"]),
			Remedy: alterSystem("wal_level", "'logical'")})
	}
	var slots, senders int
	if err := e.conn.QueryRow(ctx, publisherUse, s.mine()).Scan(&slots, &senders); err != nil {
		return err
	}
	sync := s.syncWorkers()
	// The handover's leak check needs a second slot, when those of the copy are gone.
	e.judge(Blocker, capacity{"replication-slots", "max_replication_slots", "replication slots", slots, max(2, 1+sync),
		"one for the stream, one in the handover, and one for each table that method native copies at a time"})
	e.judge(Blocker, capacity{"wal-senders", "max_wal_senders", "WAL senders", senders, 2 + sync,
		"one for the stream, one to set up, and one for each table that method native copies at a time"})
	s.checkSlotLimit(e)
	return nil
}

// checkSlotLimit warns of a limit on the WAL that the slot may hold back: who
// copies for longer than that lasts begins again.
func (s *survey) checkSlotLimit(e *end) {
	megabytes := e.number("max_slot_wal_keep_size")
	if e.setting["max_slot_wal_keep_size"] == "" || megabytes < 0 {
		return
	}
	var total int64
	for _, t := range e.tables {
		total += t.Bytes
	}
	f := Finding{Code: "slot-wal-limit", Severity: Info, Side: e.Side,
		Text: fmt.Sprintf("max_slot_wal_keep_size is %d MB: if the source writes more than that while the copy runs, or while the target is out of reach, the slot is lost and the migration starts over", megabytes)}
	if int64(megabytes)<<20 < total {
		f.Severity = Warning
		f.Text += fmt.Sprintf("; the tables to copy have %d MB", total>>20)
		f.Remedy = "ALTER SYSTEM SET max_slot_wal_keep_size = -1;\nSELECT pg_catalog.pg_reload_conf();\n-- no restart needed; watch the disk, or set what it can spare"
	}
	e.add(f)
}

func checkPublisherOnTarget(ctx context.Context, s *survey, e *end) error {
	if e.setting["wal_level"] != "logical" {
		e.add(Finding{Code: "wal-level", Severity: Blocker, Side: e.Side,
			Text:   fmt.Sprintf("wal_level is %s: after the switchover nothing could flow back, so rollback would not be possible", e.setting["wal_level"]),
			Remedy: alterSystem("wal_level", "'logical'") + "\n-- or go without a way back: --accept wal-level"})
		return nil
	}
	var slots, senders int
	if err := e.conn.QueryRow(ctx, publisherUse, s.mine()).Scan(&slots, &senders); err != nil {
		return err
	}
	e.judge(Warning, capacity{"replication-slots", "max_replication_slots", "replication slots", slots, 2, wayBack})
	e.judge(Warning, capacity{"wal-senders", "max_wal_senders", "WAL senders", senders, 1, wayBack})
	return nil
}

// subscriberUse counts the subscriptions of others: each has an origin, and a
// worker if it is enabled. $1 matches the names of this migration's own.
const subscriberUse = `
SELECT pg_catalog.count(*)::int, pg_catalog.count(*) FILTER (WHERE subenabled)::int
FROM pg_catalog.pg_subscription
WHERE subname NOT LIKE $1`

// judgeSubscriber looks at the limits of a server that is to apply changes.
// The limits of logical workers and of background workers fail silently: the
// subscription just does not run.
func (s *survey) judgeSubscriber(ctx context.Context, e *end, severity Severity, sync int, why string) error {
	var all, enabled int
	if err := e.conn.QueryRow(ctx, subscriberUse, s.mine()).Scan(&all, &enabled); err != nil {
		return err
	}
	origins := "max_replication_slots" // which limits origins too, before 18
	if e.Version().Major() >= 18 {
		origins = "max_active_replication_origins"
	}
	e.judge(severity, capacity{"replication-origins", origins, "replication origins", all, 1 + sync, why})
	e.judge(severity, capacity{"logical-workers", "max_logical_replication_workers", "logical replication workers", enabled, 1 + sync, why})
	// The launcher is a background worker too.
	e.judge(severity, capacity{"worker-processes", "max_worker_processes", "background workers", enabled + 1, 1 + sync, why})
	return nil
}

func checkSubscriberOnTarget(ctx context.Context, s *survey, e *end) error {
	sync := s.syncWorkers()
	if s.Method == "native" && sync == 0 {
		e.add(Finding{Code: "sync-workers", Severity: Blocker, Side: e.Side,
			Text:   "max_sync_workers_per_subscription is 0: method native copies nothing",
			Remedy: fmt.Sprintf("ALTER SYSTEM SET max_sync_workers_per_subscription = %d;\nSELECT pg_catalog.pg_reload_conf();", max(1, s.Jobs))})
	}
	if s.Method == "native" && 0 < sync && sync < s.Jobs {
		e.add(Finding{Code: "sync-workers", Severity: Info, Side: e.Side,
			Text:   fmt.Sprintf("method native copies %d tables at a time, not %d: max_sync_workers_per_subscription decides", sync, s.Jobs),
			Remedy: fmt.Sprintf("ALTER SYSTEM SET max_sync_workers_per_subscription = %d;\nSELECT pg_catalog.pg_reload_conf();", s.Jobs)})
	}
	return s.judgeSubscriber(ctx, e, Blocker, sync, "the subscription, and each table that method native copies at a time, takes one")
}

func checkSubscriberOnSource(ctx context.Context, s *survey, e *end) error {
	return s.judgeSubscriber(ctx, e, Warning, 0, wayBack)
}

// spareConnections are what pgbaton itself and the servers' workers need beside
// the sessions that copy.
const spareConnections = 5

func checkConnections(ctx context.Context, s *survey, e *end) error {
	var used int
	err := e.conn.QueryRow(ctx, `
		SELECT pg_catalog.count(*)::int FROM pg_catalog.pg_stat_activity
		WHERE datname IS NOT NULL -- the rest of a row is hidden from whom pg_monitor is not granted
			AND coalesce(backend_type, 'client backend') = 'client backend'
			AND coalesce(application_name, '') <> 'pgbaton'`).Scan(&used)
	if err != nil {
		return err
	}
	limit := e.number("max_connections")
	if !e.role.super {
		limit -= e.number("superuser_reserved_connections") + e.number("reserved_connections")
	}
	free, need := limit-used, s.Jobs+spareConnections
	const headroom = 10 // others come and go
	if free >= need {
		return nil
	}
	e.add(Finding{Code: "connections", Severity: Blocker, Side: e.Side,
		Text: fmt.Sprintf("max_connections = %d leaves %d free connections; %d jobs need %d", e.number("max_connections"), max(0, free), s.Jobs, need),
		Remedy: alterSystem("max_connections", strconv.Itoa(e.number("max_connections")+need-free+headroom)) +
			fmt.Sprintf("\n-- or use fewer --jobs: at most %d, or free connections", max(0, free-spareConnections))})
	return nil
}
