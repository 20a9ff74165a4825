package cli_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// To these servers a transaction is large from 64 kB on. A worker that has ended
// starts again at once.
var streamSettings = map[string]string{"logical_decoding_work_mem": "64kB", "wal_retrieve_retry_interval": "100ms"}

// largeWrites is much of everything in one transaction that is not ended, with
// subtransactions that are given up; n makes its keys its own.
func largeWrites(n int) []string {
	first := 1_000_000 * n
	return []string{
		fmt.Sprintf(`INSERT INTO app.filler SELECT i, repeat('l', 100) FROM generate_series(%d, %d) i`, first, first+4999),
		`SAVEPOINT a`,
		fmt.Sprintf(`UPDATE app.filler SET t = 'given up' WHERE i >= %d`, first),
		`SAVEPOINT b`,
		fmt.Sprintf(`INSERT INTO app.filler SELECT i, repeat('b', 100) FROM generate_series(%d, %d) i`, first+5000, first+8999),
		`ROLLBACK TO a`,
		fmt.Sprintf(`DELETE FROM app.filler WHERE i BETWEEN %d AND %d`, first+100, first+1099),
		`SAVEPOINT c`,
		fmt.Sprintf(`INSERT INTO app.filler SELECT i, repeat('c', 100) FROM generate_series(%d, %d) i`, first+5000, first+6999),
		`RELEASE c`,
	}
}

// TestLargeTransactions: what is larger than logical_decoding_work_mem goes to the
// other side while it runs, is committed or given up there as it is here, keeps
// nobody's marker waiting, and does not come in one piece into a handover's pause.
func TestLargeTransactions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to  int
		streaming string // as pg_subscription has it
	}{{13, 17, "f"}, {15, 18, "t"}, {17, 18, "p"}} {
		t.Run(fmt.Sprintf("%d to %d", c.from, c.to), func(t *testing.T) {
			t.Parallel()
			m := &move{t: t, source: pgtest.Start(t, c.from, streamSettings), target: pgtest.Start(t, c.to, streamSettings), db: "app"}
			m.loadApp()
			w := pgtest.StartWriters(t.Context(), t, m.source.ConnStringAs("app", "", m.db), 2, pgtest.WritersOptions{Rate: 50})
			m.run(0, "start")

			for i, command := range []string{"switchover", "rollback"} {
				holder, taker := m.source, m.target
				if command == "rollback" {
					holder, taker = taker, holder
				}
				m.largeCommits(holder, 3*i+1)
				open := m.largeRuns(holder, taker, 3*i+2, c.streaming)
				if s := m.result(0, "status"); s["lag_seconds"] != 0.0 || s["lag_seconds_at_least"] != nil || len(s["findings"].([]any)) > 0 {
					t.Fatalf("a transaction that runs holds up others: %v", s)
				}
				m.handOver(t.Context(), w, command, taker.ConnStringAs("app", "", m.db))
				open.Release() // the fence has ended it
				if n := pgtest.QueryValue[int](t, pgtest.Connect(t, taker.ConnString(m.db)), `SELECT count(*)::int FROM app.filler WHERE i / 1000000 = $1`, 3*i+2); n != 0 {
					t.Errorf("%d rows are there of a transaction that was ended", n)
				}
			}
			m.serves(w)
		})
	}
}

// largeCommits commits a large transaction.
func (m *move) largeCommits(holder *cluster.Cluster, n int) {
	m.t.Helper()
	conn := pgtest.Connect(m.t, holder.ConnStringAs("app", "", m.db))
	for _, sql := range append(append([]string{"BEGIN"}, largeWrites(n)...), "COMMIT") {
		mustExec(m.t, conn, sql)
	}
	conn.Close(m.t.Context())
}

// largeRuns leaves a large transaction open, of which the taker has had as much as
// the versions allow.
func (m *move) largeRuns(holder, taker *cluster.Cluster, n int, streaming string) *pgtest.Held {
	m.t.Helper()
	streamed := "0"
	if streaming != "f" {
		streamed = `coalesce((SELECT sum(stream_txns) FROM pg_stat_replication_slots), 0)`
	}
	before := pgtest.QueryValue[int](m.t, pgtest.Connect(m.t, holder.ConnString(m.db)), `SELECT (`+streamed+`)::int`)
	if got := pgtest.QueryValue[string](m.t, pgtest.Connect(m.t, taker.ConnString(m.db)), subscribedHow(taker)); got != streaming {
		m.t.Fatalf("subscriptions stream %q, want %q", got, streaming)
	}
	open := pgtest.Hold(m.t, holder.ConnStringAs("app", "", m.db), largeWrites(n)...)
	if streaming != "f" {
		pgtest.UntilTrue(m.t, holder.ConnString(m.db), time.Minute, "the transaction is on its way", `SELECT `+streamed+` > $1`, before)
	}
	if streaming == "p" {
		pgtest.UntilTrue(m.t, taker.ConnString(m.db), time.Minute, "a parallel worker applies it", `SELECT EXISTS (
			SELECT FROM pg_stat_subscription w JOIN pg_stat_activity a USING (pid) WHERE w.leader_pid IS NOT NULL AND a.backend_xid IS NOT NULL)`)
	}
	return open
}

// subscribedHow asks how the enabled subscriptions get large transactions.
func subscribedHow(subscriber *cluster.Cluster) string {
	column := "substream::text"
	switch {
	case subscriber.Major() < 14:
		column = "'f'"
	case subscriber.Major() < 16:
		column = "CASE WHEN substream THEN 't' ELSE 'f' END"
	}
	return `SELECT DISTINCT ` + column + ` FROM pg_subscription WHERE subenabled AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`
}

// TestLargeTrouble: a large transaction that cannot be applied is found by its
// reason, although parallel workers meet it, and goes on when that is mended.
func TestLargeTrouble(t *testing.T) {
	t.Parallel()
	// A worker that fails again at once is in the way of whoever wants to see why.
	slowly := map[string]string{"wal_retrieve_retry_interval": "3s"}
	m := &move{t: t, source: pgtest.Start(t, 17, streamSettings), target: pgtest.Start(t, 18, streamSettings, slowly), db: "app"}
	m.loadApp()
	w := pgtest.StartWriters(t.Context(), t, m.source.ConnStringAs("app", "", m.db), 2, pgtest.WritersOptions{Rate: 50})
	m.run(0, "start")
	target := pgtest.Connect(t, m.targetURI())
	mustExec(t, target, `SET default_transaction_read_only = off`)
	mustExec(t, target, `INSERT INTO app.filler VALUES (1000077, 'in the way')`)
	m.largeCommits(m.source, 1)
	pgtest.Until(t, 2*time.Minute, "status shows the server's message", func() bool {
		r := m.run(0, "status")
		return strings.Contains(r.Stdout, `filler_pkey`) && strings.Contains(r.Stdout, "1000077") && strings.Contains(r.Stdout, "hint:")
	})
	mustExec(t, target, `DELETE FROM app.filler WHERE i = 1000077`)
	pgtest.Until(t, 2*time.Minute, "the stream goes on", func() bool { return m.result(0, "status")["phase"] == "streaming" })
	m.serves(w)
}
