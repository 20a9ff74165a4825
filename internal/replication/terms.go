package replication

import (
	"context"
	"fmt"
	"strings"

	"pgbaton/internal/postgres"
)

// This file decides what a stream is made with beyond what every version knows.

// How a subscription gets transactions that are larger than the publisher's
// logical_decoding_work_mem
// (https://www.postgresql.org/docs/current/sql-createsubscription.html).
const (
	StreamingOff      = ""         // in one piece, at the commit
	StreamingOn       = "on"       // while they run; applied at the commit. 14 and newer
	StreamingParallel = "parallel" // applied while they run, committed at the commit. 16 and newer
)

// Terms are what a stream's subscription and slot are made with.
type Terms struct {
	CopyData   bool // only for method native
	Streaming  string
	Failover   bool // of the subscription; both servers are 17 or newer
	RunAsOwner bool
}

// FailoverSlot says whether a publisher's slots are made such that its standbys can
// carry them on (sync_replication_slots): they are there after a promotion. Which
// version subscribes does not matter.
func FailoverSlot(publisher postgres.Version) bool { return publisher.Major() >= 17 }

// KnownTerms are the terms that versions alone decide.
//
// There is no binary transfer: by it, a column whose type is for a while another one
// on the receiving side, as while somebody changes it on both, would be read as that
// type without an error.
func KnownTerms(publisher, subscriber postgres.Version, copyData bool) Terms {
	t := Terms{CopyData: copyData, Failover: FailoverSlot(publisher) && subscriber.Major() >= 17,
		// Since 16 apply switches to each table's owner, whom row security may keep
		// from writing; as before 16, ours applies as its own.
		RunAsOwner: subscriber.Major() >= 16}
	switch older := min(publisher.Major(), subscriber.Major()); {
	case older >= 16:
		t.Streaming = StreamingParallel
	case older >= 14:
		t.Streaming = StreamingOn
	}
	return t
}

// workersSQL asks a subscriber for the workers that one subscription may have to
// apply large transactions (no such setting before 16: no row), and for those that
// others than $1 matches leave.
const workersSQL = `
SELECT setting::int,
	pg_catalog.current_setting('max_logical_replication_workers')::int - o.n,
	pg_catalog.current_setting('max_worker_processes')::int - 1 - o.n
FROM pg_catalog.pg_settings, (SELECT pg_catalog.count(*)::int AS n FROM pg_catalog.pg_subscription WHERE subenabled AND subname !~ $1) AS o
WHERE name = 'max_parallel_apply_workers_per_subscription'`

// ParallelApply says how many workers so many streams need to apply large
// transactions while they run, and how many there are. Workers stay when they have
// applied one: with fewer, a stream that is interrupted could find none to go on with.
func ParallelApply(ctx context.Context, subscriber postgres.DB, migration string, streams int) (need, have int, err error) {
	var each, workers, processes int
	if err := subscriber.QueryRow(ctx, workersSQL, AllOf(migration)).Scan(&each, &workers, &processes); err != nil {
		return 0, 0, err
	}
	if each == 0 { // switched off
		return 0, 0, nil
	}
	return streams * (1 + each), min(workers, processes), nil
}

// TermsFor are the terms for so many streams of a migration to a subscriber.
func TermsFor(ctx context.Context, subscriber postgres.DB, pv, sv postgres.Version, migration string, streams int, copyData bool) (Terms, error) {
	t := KnownTerms(pv, sv, copyData)
	if t.Streaming != StreamingParallel {
		return t, nil
	}
	need, have, err := ParallelApply(ctx, subscriber, migration, streams)
	if need == 0 || have < need {
		t.Streaming = StreamingOn
	}
	return t, err
}

// SubscriptionSQL is the statement that makes a subscription, connected and
// disabled, on a slot that pgbaton makes itself (rule 12).
func SubscriptionSQL(name, conninfo string, t Terms) string {
	var sql strings.Builder
	fmt.Fprintf(&sql, "CREATE SUBSCRIPTION %[1]s CONNECTION %[2]s PUBLICATION %[1]s "+
		"WITH (copy_data = %[3]t, create_slot = false, enabled = false, slot_name = %[4]s",
		postgres.QuoteIdent(name), postgres.QuoteLiteral(conninfo), t.CopyData, postgres.QuoteLiteral(name))
	if t.Streaming != StreamingOff {
		sql.WriteString(", streaming = " + t.Streaming)
	}
	if t.Failover {
		sql.WriteString(", failover = true")
	}
	if t.RunAsOwner {
		sql.WriteString(", run_as_owner = true")
	}
	return sql.String() + ")"
}
