package replication

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/journal"
	"pgbaton/internal/phrase"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
)

// GroupNumbers lists the groups of a direction of which anything exists: a
// publication or a slot on the publisher, a subscription on the subscriber. A side
// that is nil is not asked.
func GroupNumbers(ctx context.Context, publisher, subscriber *postgres.Session, like Group) ([]int, error) {
	var numbers []int
	prefix := strings.TrimSuffix(like.Name(), strconv.Itoa(like.Number))
	read := func(conn *postgres.Session, sql string) error {
		if conn == nil {
			return nil
		}
		rows, err := conn.Query(ctx, sql, "^"+prefix+"[0-9]+$")
		if err != nil {
			return err
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, name := range names {
			n, err := strconv.Atoi(strings.TrimPrefix(name, prefix))
			if err == nil && !slices.Contains(numbers, n) {
				numbers = append(numbers, n)
			}
		}
		return err
	}
	err := read(publisher, `
		SELECT pubname::text FROM pg_catalog.pg_publication WHERE pubname ~ $1
		UNION SELECT slot_name::text FROM pg_catalog.pg_replication_slots
			WHERE slot_name ~ $1 AND database = pg_catalog.current_database()`)
	if err != nil {
		return nil, fmt.Errorf("listing publications and slots: %w", err)
	}
	err = read(subscriber, subscriptionsSQL)
	if err != nil {
		return nil, fmt.Errorf("listing subscriptions: %w", err)
	}
	slices.Sort(numbers)
	return numbers, nil
}

// leftSQL lists the ids in the names of publications, slots and subscriptions of this
// database that match a pattern.
const leftSQL = `
SELECT DISTINCT (pg_catalog.regexp_match(name, $1))[1] FROM (
	SELECT pubname::text FROM pg_catalog.pg_publication
	UNION ALL SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE database = pg_catalog.current_database()
	UNION ALL SELECT subname::text FROM pg_catalog.pg_subscription
		WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())) AS n (name)
WHERE name ~ $1 ORDER BY 1`

// LeftLabel returns a label that something of a migration carries in a session's
// database whose record is gone; "" when nothing is there. A name that had to be
// shortened cannot be told.
func LeftLabel(ctx context.Context, conn *postgres.Session, migration string) (string, error) {
	rows, err := conn.Query(ctx, leftSQL, "^"+postgres.ClusterName(migration, "")+"([0-9a-f]{8})_(?:forward|reverse)_[0-9]+$")
	if err != nil {
		return "", err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(ids) == 0 {
		return "", err
	}
	return journal.Label(migration, ids[0]), nil
}

const subscriptionsSQL = `
SELECT subname::text FROM pg_catalog.pg_subscription
WHERE subname ~ $1 AND subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`

// Subscribed lists the groups of a direction that have a subscription, in order.
func Subscribed(ctx context.Context, subscriber *postgres.Session, like Group) ([]Group, error) {
	numbers, err := GroupNumbers(ctx, nil, subscriber, like)
	groups := make([]Group, len(numbers))
	for i, n := range numbers {
		groups[i] = like
		groups[i].Number = n
	}
	return groups, err
}

// roomSQL compares limits with what others than this migration ($1 matches its
// names) hold: on a publisher slots and WAL senders.
const roomSQL = `
SELECT pg_catalog.current_setting('max_replication_slots')::int
		- (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name !~ $1)::int,
	pg_catalog.current_setting('max_wal_senders')::int
		- (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication r WHERE NOT EXISTS (
			SELECT FROM pg_catalog.pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_name ~ $1))::int`

// subscriberRoomSQL does so on a subscriber: origins, workers, processes. $2 is the
// setting that limits origins.
const subscriberRoomSQL = `
SELECT pg_catalog.current_setting($2)::int - pg_catalog.count(*)::int,
	pg_catalog.current_setting('max_logical_replication_workers')::int - pg_catalog.count(*) FILTER (WHERE subenabled)::int,
	pg_catalog.current_setting('max_worker_processes')::int - 1 - pg_catalog.count(*) FILTER (WHERE subenabled)::int
FROM pg_catalog.pg_subscription WHERE subname !~ $1`

// RoomFor says what is missing for so many groups, "" when nothing is. A handover
// needs a slot and a WAL sender more.
func RoomFor(ctx context.Context, publisher, subscriber postgres.DB, label string, groups int) (string, error) {
	sv := postgres.VersionOf(subscriber)
	var slots, senders, origins, workers, processes int
	if err := publisher.QueryRow(ctx, roomSQL, AllOf(label)).Scan(&slots, &senders); err != nil {
		return "", err
	}
	limit := "max_replication_slots" // which limits origins too, before 18
	if sv.Major() >= 18 {
		limit = "max_active_replication_origins"
	}
	if err := subscriber.QueryRow(ctx, subscriberRoomSQL, AllOf(label), limit).Scan(&origins, &workers, &processes); err != nil {
		return "", err
	}
	for _, r := range []struct {
		have, need int
		side       postgres.Side
		setting    string
	}{
		{slots, groups + 1, postgres.Source, "max_replication_slots"}, {senders, groups + 1, postgres.Source, "max_wal_senders"},
		{origins, groups, postgres.Target, limit}, {workers, groups, postgres.Target, "max_logical_replication_workers"},
		{processes, groups, postgres.Target, "max_worker_processes"},
	} {
		if r.have < r.need {
			return fmt.Sprintf("%s of the %s leaves room for %d, and %d are needed for %s", r.setting, r.side, max(0, r.have), r.need, phrase.Count(groups, "group")), nil
		}
	}
	return "", nil
}

// WithheldKey is a foreign key between tables of different groups. The groups are
// not at one position before a handover has drained them, and apply truncates with
// RESTRICT: until then the key is not there (rule 13).
type WithheldKey struct {
	Table    postgres.Ident `json:"table"`
	Name     string         `json:"name"`
	Add      string         `json:"add,omitempty"`      // NOT VALID, in no time
	Validate string         `json:"validate,omitempty"` // "" for one that is not valid on the source either
	Comment  string         `json:"comment,omitempty"`  // once it is there
	Whole    string         `json:"whole,omitempty"`    // of a partitioned table: takes over those of its leaves, when they are validated
}

// withheldEntries are those that a subscriber keeps.
var withheldEntries = journal.Many[WithheldKey](journal.ForeignKey)

// Withhold remembers foreign keys in place of those remembered so far.
func Withhold(ctx context.Context, tx postgres.DB, keys []WithheldKey) error {
	if err := journal.Clear(ctx, tx, journal.ForeignKey); err != nil {
		return err
	}
	for _, k := range keys {
		if err := withheldEntries.Put(ctx, tx, k.Table.String()+"."+postgres.QuoteIdent(k.Name), k); err != nil {
			return err
		}
	}
	return nil
}

// Withheld lists the foreign keys that a side is still to get.
func Withheld(ctx context.Context, db postgres.DB) ([]WithheldKey, error) {
	byName, err := withheldEntries.List(ctx, db)
	var keys []WithheldKey
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		keys = append(keys, byName[name])
	}
	return keys, err
}

// AddWithheld adds them, not validated. What is there already stays. gone are those of
// which one of the tables was dropped since.
func AddWithheld(ctx context.Context, conn *postgres.Session, keys []WithheldKey) (gone []WithheldKey, err error) {
	return eachWithheld(ctx, conn, keys, false, func(k WithheldKey) string { return k.Add })
}

// DropWithheld takes them back, for apply to go on in several groups.
func DropWithheld(ctx context.Context, conn *postgres.Session, keys []WithheldKey) error {
	_, err := eachWithheld(ctx, conn, keys, true, func(k WithheldKey) string {
		return fmt.Sprintf("ALTER TABLE ONLY %s DROP CONSTRAINT %s", k.Table, postgres.QuoteIdent(k.Name))
	})
	return err
}

// eachWithheld runs a statement for each key that is there, or for each that is
// not, in one transaction.
func eachWithheld(ctx context.Context, conn *postgres.Session, keys []WithheldKey, there bool, sql func(WithheldKey) string) (gone []WithheldKey, err error) {
	if len(keys) == 0 {
		return nil, nil
	}
	return postgres.EachThere(ctx, conn, keys, func(tx pgx.Tx, k WithheldKey) error {
		if k.Add == "" {
			return nil
		}
		exists, err := foreignKeyExists(ctx, tx, k)
		if err == nil && exists == there {
			_, err = tx.Exec(ctx, sql(k))
			if err == nil && !there && k.Comment != "" {
				_, err = tx.Exec(ctx, k.Comment)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
		return nil
	})
}

// String names it for people.
func (k WithheldKey) String() string {
	return fmt.Sprintf("foreign key %s of %s", postgres.QuoteIdent(k.Name), k.Table)
}

func foreignKeyExists(ctx context.Context, db postgres.DB, k WithheldKey) (exists bool, err error) {
	err = db.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
			JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = $1 AND c.relname = $2 AND k.conname = $3 AND k.contype = 'f')`,
		k.Table.Schema, k.Table.Name, k.Name).Scan(&exists)
	return exists, err
}

// ValidateWithheld looks at the rows, and forgets each key that is complete, or whose
// table is gone. left is what the server refuses: rows that violate it, above all.
func ValidateWithheld(ctx context.Context, conn *postgres.Session) (left []refusal.Reason, err error) {
	keys, err := Withheld(ctx, conn)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(keys, func(a, b WithheldKey) int { return cmp.Compare(a.Whole, b.Whole) }) // leaves first
	for _, k := range keys {
		sql, err := k.complete(ctx, conn)
		switch {
		case postgres.Gone(err):
		case postgres.Refused(err):
			left = append(left, refusal.Reason{Why: fmt.Sprintf("%s is not validated: %s", k, postgres.Describe(err)),
				Remedy: "correct the rows that the server names, or what else it says, then " + sql})
			continue
		case err != nil:
			return left, fmt.Errorf("validating %s: %w", k, err)
		}
		if err := withheldEntries.Delete(ctx, conn, k.Table.String()+"."+postgres.QuoteIdent(k.Name)); err != nil {
			return left, err
		}
	}
	return left, nil
}

// complete makes a key that is there as it was; left are the statements from the one on
// that failed.
func (k WithheldKey) complete(ctx context.Context, conn *postgres.Session) (left string, err error) {
	statements := slices.DeleteFunc([]string{k.Validate, k.Whole, k.Comment}, func(sql string) bool { return sql == "" })
	for i, sql := range statements {
		exists := false
		if sql == k.Whole {
			exists, err = foreignKeyExists(ctx, conn, k)
		}
		if err == nil && !exists {
			_, err = conn.Exec(ctx, sql)
		}
		if err != nil {
			return strings.Join(statements[i:], "; "), err
		}
	}
	return "", nil
}
