package replication

import (
	"context"
	"fmt"
	"maps"
	"slices"
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
	Server     bool // through a foreign server of ours; the subscriber is 19 or newer
}

// FailoverSlot says whether a publisher's slots are made such that its standbys can
// carry them on (sync_replication_slots): they are there after a promotion. Which
// version subscribes does not matter.
func FailoverSlot(publisher postgres.Version) bool { return publisher.Major() >= 17 }

// Decodes says whether a server with this wal_level can have logical slots: since 19
// one with replica goes over to logical by itself while there is such a slot, as
// effective_wal_level says, without a restart
// (https://www.postgresql.org/docs/19/runtime-config-wal.html).
func Decodes(v postgres.Version, walLevel string) bool {
	return walLevel == "logical" || walLevel == "replica" && v.Major() >= 19
}

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
func ParallelApply(ctx context.Context, subscriber postgres.DB, label string, streams int) (need, have int, err error) {
	var each, workers, processes int
	if err := subscriber.QueryRow(ctx, workersSQL, AllOf(label)).Scan(&each, &workers, &processes); err != nil {
		return 0, 0, err
	}
	if each == 0 { // switched off
		return 0, 0, nil
	}
	return streams * (1 + each), min(workers, processes), nil
}

// TermsFor are the terms for so many streams of a migration to a subscriber.
func TermsFor(ctx context.Context, subscriber postgres.DB, pv postgres.Version, label string, streams int, copyData bool) (Terms, error) {
	sv := postgres.VersionOf(subscriber)
	t := KnownTerms(pv, sv, copyData)
	if sv.Major() >= 19 {
		if err := subscriber.QueryRow(ctx, foreignServerSQL).Scan(&t.Server); err != nil {
			return t, err
		}
	}
	if t.Streaming != StreamingParallel {
		return t, nil
	}
	need, have, err := ParallelApply(ctx, subscriber, label, streams)
	if need == 0 || have < need {
		t.Streaming = StreamingOn
	}
	return t, err
}

// foreignServerSQL says whether the role may make a foreign server whose wrapper
// can give a subscription its connection string: 1.3 of postgres_fdw, which comes
// with 19. The extension itself is not ours to make: what others then make with it
// would be lost with it.
const foreignServerSQL = `
SELECT EXISTS (SELECT FROM pg_catalog.pg_foreign_data_wrapper w
	WHERE w.fdwname = 'postgres_fdw' AND w.fdwconnection <> 0 AND pg_catalog.has_foreign_data_wrapper_privilege(w.oid, 'USAGE'))`

// SubscriptionSQL are the statements that make a subscription, connected and
// disabled, on a slot that pgbaton makes itself (rule 12). Those that make its
// foreign server come first: the connection string, with the password, is then in a
// user mapping, which can be altered, and neither in pg_subscription nor in the
// statement that connects
// (https://www.postgresql.org/docs/19/sql-createsubscription.html).
func SubscriptionSQL(name string, conninfo postgres.Conninfo, t Terms) []string {
	q := postgres.QuoteIdent(name)
	var statements []string
	from := "CONNECTION " + postgres.QuoteLiteral(conninfo.String())
	if t.Server {
		server, user := conninfo.Split()
		from = "SERVER " + q
		statements = append(statements,
			fmt.Sprintf("CREATE SERVER %s FOREIGN DATA WRAPPER postgres_fdw%s", q, fdwOptions(server)),
			fmt.Sprintf("CREATE USER MAPPING FOR CURRENT_USER SERVER %s%s", q, fdwOptions(user)))
	}
	sql := fmt.Sprintf("CREATE SUBSCRIPTION %[1]s %[2]s PUBLICATION %[1]s "+
		"WITH (copy_data = %[3]t, create_slot = false, enabled = false, slot_name = %[4]s",
		q, from, t.CopyData, postgres.QuoteLiteral(name))
	if t.Streaming != StreamingOff {
		sql += ", streaming = " + t.Streaming
	}
	if t.Failover {
		sql += ", failover = true"
	}
	if t.RunAsOwner {
		sql += ", run_as_owner = true"
	}
	return append(statements, sql+")")
}

// fdwOptions writes keywords as the options of a foreign server or user mapping.
func fdwOptions(c postgres.Conninfo) string {
	var options []string
	for _, k := range slices.Sorted(maps.Keys(c)) {
		options = append(options, postgres.QuoteIdent(k)+" "+postgres.QuoteLiteral(c[k]))
	}
	if len(options) == 0 {
		return ""
	}
	return " OPTIONS (" + strings.Join(options, ", ") + ")"
}
