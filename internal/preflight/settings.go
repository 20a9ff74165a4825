package preflight

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// settingsSQL reads the settings that checks look at. Memory and time settings
// come in the unit that pg_settings gives.
const settingsSQL = `
SELECT name, setting
FROM pg_catalog.pg_settings
WHERE name IN ('wal_level', 'max_replication_slots', 'max_wal_senders', 'max_active_replication_origins',
	'max_logical_replication_workers', 'max_sync_workers_per_subscription', 'max_worker_processes',
	'max_connections', 'superuser_reserved_connections', 'reserved_connections', 'max_slot_wal_keep_size',
	'max_prepared_transactions', 'max_locks_per_transaction', 'log_statement', 'log_min_duration_statement', 'synchronous_standby_names')`

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
	if s.Method != Native || s.target == nil || s.target.setting == nil {
		return 0
	}
	return s.target.number("max_sync_workers_per_subscription")
}

// capacity is one limit of a server, and what there is below it.
type capacity struct {
	code    string
	setting string
	what    string // one of what it limits: "replication slot"
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
		Text:   fmt.Sprintf("%s = %d leaves %s, needed are %d: %s", c.setting, limit, plural(max(0, limit-c.used), "free "+c.what), c.need, c.why),
		Remedy: alterSystem(c.setting, strconv.Itoa(c.used+c.need))})
}

// wayBack is how the reason for a need ends that only the way back has.
const wayBack = "without them rollback is not possible"

// groups is how many streams there will be to begin with.
func (s *survey) groups() int { return max(1, s.Groups) }

// perStream is the reason for a need that every stream has, and others beside.
func (s *survey) perStream(others ...string) string {
	reason := "one for the stream"
	if s.groups() > 1 {
		reason = fmt.Sprintf("one for each of %d streams (--groups)", s.groups())
	}
	if s.Method == Native {
		others = append(others, "one for each table that method native copies at a time")
	}
	for i, o := range others {
		if i == len(others)-1 {
			reason += " and " + o
		} else {
			reason += ", " + o
		}
	}
	return reason
}

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
	if !replication.Decodes(e.Version(), e.setting["wal_level"]) {
		e.add(Finding{Code: "wal-level", Severity: Blocker, Side: e.Side,
			Text:   fmt.Sprintf("wal_level is %s: changes cannot be decoded", e.setting["wal_level"]),
			Remedy: alterSystem("wal_level", "'logical'")})
	}
	var slots, senders int
	if err := e.conn.QueryRow(ctx, publisherUse, s.mine()).Scan(&slots, &senders); err != nil {
		return err
	}
	sync, groups := s.syncWorkers(), s.groups()
	// The handover's leak check needs one more slot, when those of the copy are gone.
	e.judge(Blocker, capacity{"replication-slots", "max_replication_slots", "replication slot", slots, groups + max(1, sync),
		s.perStream("one in the handover")})
	e.judge(Blocker, capacity{"wal-senders", "max_wal_senders", "WAL sender", senders, groups + 1 + sync,
		s.perStream("one to set up")})
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
	if !replication.Decodes(e.Version(), e.setting["wal_level"]) {
		e.add(Finding{Code: "wal-level", Severity: Blocker, Side: e.Side,
			Text:   fmt.Sprintf("wal_level is %s: after the switchover nothing could flow back, so rollback would not be possible", e.setting["wal_level"]),
			Remedy: alterSystem("wal_level", "'logical'") + "\n-- or go without a way back: --accept wal-level"})
		return nil
	}
	var slots, senders int
	if err := e.conn.QueryRow(ctx, publisherUse, s.mine()).Scan(&slots, &senders); err != nil {
		return err
	}
	e.judge(Warning, capacity{"replication-slots", "max_replication_slots", "replication slot", slots, 2, wayBack})
	e.judge(Warning, capacity{"wal-senders", "max_wal_senders", "WAL sender", senders, 1, wayBack})
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
func (s *survey) judgeSubscriber(ctx context.Context, e *end, severity Severity, need int, why string) error {
	var all, enabled int
	if err := e.conn.QueryRow(ctx, subscriberUse, s.mine()).Scan(&all, &enabled); err != nil {
		return err
	}
	origins := "max_replication_slots" // which limits origins too, before 18
	if e.Version().Major() >= 18 {
		origins = "max_active_replication_origins"
	}
	e.judge(severity, capacity{"replication-origins", origins, "replication origin", all, need, why})
	e.judge(severity, capacity{"logical-workers", "max_logical_replication_workers", "logical replication worker", enabled, need, why})
	// The launcher is a background worker too.
	e.judge(severity, capacity{"worker-processes", "max_worker_processes", "background worker", enabled + 1, need, why})
	return nil
}

func checkSubscriberOnTarget(ctx context.Context, s *survey, e *end) error {
	sync := s.syncWorkers()
	if s.Method == Native && sync == 0 {
		e.add(Finding{Code: "sync-workers", Severity: Blocker, Side: e.Side,
			Text:   "max_sync_workers_per_subscription is 0: method native copies nothing",
			Remedy: fmt.Sprintf("ALTER SYSTEM SET max_sync_workers_per_subscription = %d;\nSELECT pg_catalog.pg_reload_conf();", max(1, s.Jobs))})
	}
	if s.Method == Native && 0 < sync && sync < s.Jobs {
		e.add(Finding{Code: "sync-workers", Severity: Info, Side: e.Side,
			Text:   fmt.Sprintf("method native copies %s at a time, not %d: max_sync_workers_per_subscription decides", plural(sync, "table"), s.Jobs),
			Remedy: fmt.Sprintf("ALTER SYSTEM SET max_sync_workers_per_subscription = %d;\nSELECT pg_catalog.pg_reload_conf();", s.Jobs)})
	}
	return s.judgeSubscriber(ctx, e, Blocker, s.groups()+sync, s.perStream())
}

func checkSubscriberOnSource(ctx context.Context, s *survey, e *end) error {
	return s.judgeSubscriber(ctx, e, Warning, 1, wayBack) // which is one stream always
}

// spareConnections are what pgbaton itself and the servers' workers need beside
// the sessions that load; headroom is what a remedy adds: others come and go.
const spareConnections, headroom = 5, 10

// connectionsSQL counts the sessions of others in the cluster, of our role and in
// the database $1, and reads the limits of those two. A superuser minds neither.
const connectionsSQL = `
SELECT pg_catalog.count(*) FILTER (WHERE client)::int,
	pg_catalog.count(*) FILTER (WHERE usename = current_user)::int,
	pg_catalog.count(*) FILTER (WHERE datname = $1)::int,
	(SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = current_user),
	coalesce((SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = $1), -1)
FROM (
	-- backend_type is hidden from whom pg_monitor is not granted
	SELECT coalesce(backend_type, 'client backend') = 'client backend' AS client, usename, datname
	FROM pg_catalog.pg_stat_activity
	WHERE datname IS NOT NULL AND coalesce(application_name, '') NOT LIKE $2
		AND coalesce(application_name, '') NOT LIKE 'pgbaton%'
		AND coalesce(backend_type, 'client backend') IN ('client backend', 'walsender')
) AS a`

// needConnections is how many sessions we open on a side, what for, and which
// options make them fewer.
func (s *survey) needConnections(e *end) (n int, what, options string) {
	what, options = plural(s.Jobs, "job"), "--jobs"
	if s.Method != Stream {
		return s.Jobs + spareConnections, what, options
	}
	if e.Side == postgres.Source {
		if s.groups() > 1 {
			options += " or --groups"
		}
		return s.Jobs + s.groups() + spareConnections, what + " and " + plural(s.groups(), "stream"), options
	}
	// One session copies or builds.
	n = max(s.Jobs, s.IndexJobs)
	return n + spareConnections, plural(n, "job") + " that copy or build indexes", options + " or --index-jobs"
}

func checkConnections(ctx context.Context, s *survey, e *end) error {
	var all, ofRole, inDatabase, roleLimit, databaseLimit int
	err := e.conn.QueryRow(ctx, connectionsSQL, e.Database(), s.mine()).Scan(&all, &ofRole, &inDatabase, &roleLimit, &databaseLimit)
	if err != nil {
		return err
	}
	need, what, options := s.needConnections(e)
	lack := func(code, limited string, limit, free int, remedy string) {
		fewer := fmt.Sprintf("or use fewer %s, or end sessions: %d can be open", options, max(0, free))
		e.add(Finding{Code: code, Severity: Blocker, Side: e.Side, Remedy: remedy + "\n-- " + fewer,
			Text: fmt.Sprintf("%s = %d leaves %s free, needed are %d: for %s", limited, limit, plural(max(0, free), "connection"), need, what)})
	}
	limit := e.number("max_connections")
	free := limit - all
	if !e.role.super {
		free -= e.number("superuser_reserved_connections") + e.number("reserved_connections")
	}
	if free < need {
		lack("connections", "max_connections", limit, free, alterSystem("max_connections", strconv.Itoa(limit+need-free+headroom)))
	}
	if free := roleLimit - ofRole; !e.role.super && roleLimit >= 0 && free < need {
		lack("role-connections", "the connection limit of role "+e.user(), roleLimit, free,
			statements(fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d", e.user(), roleLimit+need-free+headroom)))
	}
	if free := databaseLimit - inDatabase; !e.role.super && databaseLimit >= 0 && free < need {
		lack("database-connections", "the connection limit of database "+e.database(), databaseLimit, free,
			statements(fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", e.database(), databaseLimit+need-free+headroom)))
	}
	return nil
}

// locksSQL counts what pg_dump locks until it is done: tables, and what views
// read, which may be other views. $1 is left out.
const locksSQL = `
SELECT pg_catalog.count(*)::int
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm') AND c.relpersistence <> 't' AND c.oid <> ALL ($1) AND ` + userSchema

// checkLocksOnSource looks whether the lock table holds what pg_dump locks in its
// one transaction.
func checkLocksOnSource(ctx context.Context, _ *survey, e *end) error {
	var n int
	if err := e.conn.QueryRow(ctx, locksSQL, e.relationsOut).Scan(&n); err != nil {
		return err
	}
	e.judgeLocks(n, fmt.Sprintf("pg_dump locks %d tables and views at once", n))
	return nil
}

// checkLocksOnTarget does so for the target. A restore locks little at a time:
// every statement is a transaction. But one statement creates the subscription,
// and one the publication of the way back, within the pause.
func checkLocksOnTarget(_ context.Context, s *survey, e *end) error {
	n := len(s.source.tables)
	e.judgeLocks(n, fmt.Sprintf("a subscription and a publication lock all of their %d tables at once", n))
	return nil
}

// judgeLocks warns when so many locks of one transaction come near what the lock
// table is made for. It never blocks: the table has some room beyond that.
func (e *end) judgeLocks(n int, why string) {
	slots := e.number("max_connections") + e.number("max_prepared_transactions")
	room := e.number("max_locks_per_transaction") * slots
	if slots == 0 || n <= room*8/10 {
		return
	}
	const step = 64                    // the setting's default
	perSlot := (n*5/4 + slots) / slots // so that n is 80 % at most
	e.add(Finding{Code: "lock-table", Severity: Warning, Side: e.Side,
		Text: fmt.Sprintf("max_locks_per_transaction = %d makes room for %d locks, and %s: with those of others they may not fit, which fails with \"out of shared memory\"",
			e.number("max_locks_per_transaction"), room, why),
		Remedy: alterSystem("max_locks_per_transaction", strconv.Itoa((perSlot+step-1)/step*step))})
}
