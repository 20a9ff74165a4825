package pgtest

import (
	"context"
	"fmt"
	"slices"

	"pgbaton/internal/postgres"

	"github.com/jackc/pgx/v5"
)

const (
	countLog  = "SELECT writer, seq, count(*) FROM app.writer_log GROUP BY 1, 2"
	countHeap = "SELECT writer, seq, count(*) FROM app.writer_heap GROUP BY 1, 2"
	allSlots  = "SELECT writer, slot, seq FROM app.writer_slot"
)

// Check compares a database with what the stopped writers know, and returns problems: acknowledged but
// missing, doubled, present though known to have failed, a transaction present in part, a serial number
// used twice. None: every row is accounted for.
//
// A transaction with an unknown outcome may be there or not, but as a whole.
func (w *Writers) Check(ctx context.Context, conn postgres.DB) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	problems := slices.Clone(w.problems)
	report := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }

	if _, err := conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return append(problems, fmt.Sprintf("cannot check: %v", err))
	}
	defer func() { _, _ = conn.Exec(ctx, "ROLLBACK") }() // it only read
	log, err := counts(ctx, conn, countLog)
	if err != nil {
		return append(problems, fmt.Sprintf("cannot read app.writer_log: %v", err))
	}
	heap, err := counts(ctx, conn, countHeap)
	if err != nil {
		return append(problems, fmt.Sprintf("cannot read app.writer_heap: %v", err))
	}

	for tx, outcome := range w.outcomes {
		for table, n := range map[string]int{"app.writer_log": log[tx], "app.writer_heap": heap[tx]} {
			switch {
			case outcome == Committed && n == 0:
				report("%s: %v was acknowledged but is missing", table, tx)
			case outcome == Failed && n > 0:
				report("%s: %v is present but failed", table, tx)
			}
		}
	}
	for tx, n := range log {
		if _, ours := w.outcomes[tx]; !ours && w.mine(tx.writer) {
			report("app.writer_log: %v is present but was never sent", tx)
		}
		if n > 1 {
			report("app.writer_log: %v is there %d times", tx, n)
		}
		if heap[tx] == 0 {
			report("app.writer_heap: %v is missing but present in app.writer_log", tx)
		}
	}
	for tx, n := range heap {
		if n > 1 {
			report("app.writer_heap: %v is there %d times", tx, n)
		}
		if log[tx] == 0 {
			report("app.writer_log: %v is missing but present in app.writer_heap", tx)
		}
	}
	slotProblems, err := checkSlots(ctx, conn, log)
	if err != nil {
		report("cannot read app.writer_slot: %v", err)
	}
	problems = append(problems, slotProblems...)
	slices.Sort(problems)
	return problems
}

// mine says whether a writer's rows are to be accounted for here.
func (w *Writers) mine(writer int) bool {
	_, ok := w.outcomes[transaction{writer, 1}]
	return ok
}

func counts(ctx context.Context, conn postgres.DB, sql string) (map[transaction]int, error) {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	found := map[transaction]int{}
	var tx transaction
	var n int
	_, err = pgx.ForEachRow(rows, []any{&tx.writer, &tx.seq, &n}, func() error {
		found[tx] = n
		return nil
	})
	return found, err
}

// checkSlots: whether updated or inserted anew, a slot shows the last of the committed transactions that
// belong to it, and exactly once.
func checkSlots(ctx context.Context, conn postgres.DB, log map[transaction]int) (problems []string, err error) {
	type place struct{ writer, slot int }
	want, got := map[place]int64{}, map[place][]int64{}
	for tx := range log {
		slot, _ := slotStep(tx.seq)
		p := place{tx.writer, slot}
		want[p] = max(want[p], tx.seq)
	}
	rows, err := conn.Query(ctx, allSlots)
	if err != nil {
		return nil, err
	}
	var p place
	var seq int64
	if _, err := pgx.ForEachRow(rows, []any{&p.writer, &p.slot, &seq}, func() error {
		got[p] = append(got[p], seq)
		return nil
	}); err != nil {
		return nil, err
	}
	for p, seq := range want {
		if len(got[p]) != 1 || got[p][0] != seq {
			problems = append(problems, fmt.Sprintf("app.writer_slot: writer %d slot %d shows transactions %v, not %d", p.writer, p.slot, got[p], seq))
		}
	}
	for p, seqs := range got {
		if _, ok := want[p]; !ok {
			problems = append(problems, fmt.Sprintf("app.writer_slot: writer %d slot %d shows transactions %v, but none is in app.writer_log", p.writer, p.slot, seqs))
		}
	}
	return problems, nil
}
