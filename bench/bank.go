package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// The database that is handed over: the tables of pgbench, made small, and as
// many others as bring it to bankTables.
const (
	bankName   = "bank"
	bankTables = 100
	otherRows  = 100
	branches   = 10
	tellers    = 10 * branches
	accounts   = 100_000
)

// bankSQL makes the four tables that are written to. The number that the
// application gives a transfer is its primary key; n comes from a sequence.
const bankSQL = `
CREATE TABLE branches (bid int PRIMARY KEY, bbalance bigint NOT NULL, filler char(88));
CREATE TABLE tellers (tid int PRIMARY KEY, bid int NOT NULL, tbalance bigint NOT NULL, filler char(84));
CREATE TABLE accounts (aid int PRIMARY KEY, bid int NOT NULL, abalance bigint NOT NULL, filler char(84));
CREATE TABLE history (id bigint PRIMARY KEY, n bigserial, tid int NOT NULL, bid int NOT NULL, aid int NOT NULL,
	delta bigint NOT NULL, mtime timestamptz NOT NULL DEFAULT clock_timestamp(), filler char(22));
INSERT INTO branches SELECT i, 0, '' FROM generate_series(1, %[1]d) i;
INSERT INTO tellers SELECT i, 1 + i %% %[1]d, 0, '' FROM generate_series(1, %[2]d) i;
INSERT INTO accounts SELECT i, 1 + i %% %[1]d, 0, '' FROM generate_series(1, %[3]d) i;
`

// loadBank fills a database with bankTables tables and the number of sequences
// given: each of the other tables has one, the rest stand alone.
func loadBank(ctx context.Context, conn *pgx.Conn, sequences int) error {
	var sql strings.Builder
	fmt.Fprintf(&sql, bankSQL, branches, tellers, accounts)
	const others = bankTables - 4
	for i := range others {
		fmt.Fprintf(&sql, `CREATE TABLE other_%03[1]d (id bigserial PRIMARY KEY, note text NOT NULL, at timestamptz NOT NULL);
			CREATE INDEX ON other_%03[1]d (at);
			INSERT INTO other_%03[1]d (note, at) SELECT 'row ' || i, now() FROM generate_series(1, %[2]d) i;`, i, otherRows)
	}
	for i := others + 1; i < sequences; i++ { // one is that of history
		fmt.Fprintf(&sql, "CREATE SEQUENCE alone_%04[1]d; SELECT setval('alone_%04[1]d', %[1]d);", i)
	}
	return conn.PgConn().Exec(ctx, sql.String()).Close()
}

// books is what the database itself says of the transfers.
type books struct {
	ids      map[int64]int // how often each number is there
	numbers  int           // different values of the sequence
	history  int64         // sum of all transfers …
	accounts int64         // … which must be that of each kind of balance
	tellers  int64
	branches int64
}

func readBooks(ctx context.Context, conn *pgx.Conn) (b books, err error) {
	rows, err := conn.Query(ctx, `SELECT id FROM history`)
	if err != nil {
		return b, err
	}
	b.ids = map[int64]int{}
	var id int64
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error { b.ids[id]++; return nil }); err != nil {
		return b, err
	}
	err = conn.QueryRow(ctx, `SELECT (SELECT count(DISTINCT n) FROM history),
		(SELECT coalesce(sum(delta), 0)::bigint FROM history), (SELECT sum(abalance)::bigint FROM accounts),
		(SELECT sum(tbalance)::bigint FROM tellers), (SELECT sum(bbalance)::bigint FROM branches)`).
		Scan(&b.numbers, &b.history, &b.accounts, &b.tellers, &b.branches)
	return b, err
}

// reckoning is how every transfer of a series was accounted for, on the side that
// had the baton at its end.
type reckoning struct {
	Acknowledged int `json:"acknowledged"`
	Missing      int `json:"missing"`  // acknowledged and not there: lost
	Doubled      int `json:"doubled"`  // there more than once
	Unasked      int `json:"unasked"`  // there, but neither acknowledged nor left without an answer
	Numbers      int `json:"numbers"`  // values of a sequence given out twice
	Balances     int `json:"balances"` // kinds of balances that differ from the sum of transfers
}

func (r reckoning) right() bool {
	return r.Missing+r.Doubled+r.Unasked+r.Numbers+r.Balances == 0
}

// reckon compares what clients were told with what is there.
func (b books) reckon(acknowledged []int64, unanswered map[int64]bool) (r reckoning) {
	r.Acknowledged = len(acknowledged)
	told := make(map[int64]bool, len(acknowledged))
	for _, id := range acknowledged {
		told[id] = true
		if b.ids[id] == 0 {
			r.Missing++
		}
	}
	rows := 0
	for id, n := range b.ids {
		rows += n
		if n > 1 {
			r.Doubled++
		}
		if !told[id] && !unanswered[id] {
			r.Unasked++
		}
	}
	r.Numbers = rows - b.numbers
	for _, sum := range []int64{b.accounts, b.tellers, b.branches} {
		if sum != b.history {
			r.Balances++
		}
	}
	return r
}
