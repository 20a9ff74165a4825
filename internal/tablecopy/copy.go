package tablecopy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
)

// This file has the tasks that move rows.

func nothing(context.Context, *worker, int) error { return nil }

// pass relays rows from the source's session to the target's and counts them.
func (w *worker) pass(ctx context.Context, t *task, copyOut, copyIn string) ([]copied, error) {
	send, store := encodings(w.source, w.target)
	return relay(ctx, w.source, w.target, inEncoding(send, copyOut), inEncoding(store, copyIn), w.buf, func(n int) error {
		t.bytes.Add(int64(n))
		if w.limiter == nil {
			return nil
		}
		return w.limiter.WaitN(ctx, n)
	})
}

// copyTable replaces the target's rows of one table, in one transaction:
// emptying makes a second try safe, and it is what COPY FREEZE asks for.
func (l *loader) copyTable(table *Table) *task {
	t := &task{class: copying, what: "copy", name: table.Ident.String(), cost: float64(table.Bytes), size: table.Bytes, rows: table.Rows}
	t.run = func(ctx context.Context, w *worker, _ int) error {
		began := time.Now()
		if err := w.read(ctx, table.Snapshot); err != nil {
			return err
		}
		if err := exec(ctx, w.target, "BEGIN; TRUNCATE ONLY "+t.name); err != nil {
			return l.explain(postgres.Target, "emptying", table.Ident, err)
		}
		copyOut, copyIn := Statements(table.Table, true)
		done, err := w.pass(ctx, t, copyOut, copyIn)
		if err != nil {
			return l.explainRelay(table.Ident, err)
		}
		one := Loaded{table.Ident, done[0].rows, done[0].bytes}
		if err := exec(ctx, w.target, l.record(Copied, one)+"; COMMIT"); err != nil {
			return l.explain(postgres.Target, "committing", table.Ident, err)
		}
		l.copied(began, one)
		return nil
	}
	return t
}

// copied tells of a table whose rows are there.
func (l *loader) copied(began time.Time, one Loaded) {
	l.meter.rows.Add(one.Rows)
	l.meter.tables.Add(1)
	l.observe(event.TableCopied{Table: one.Table.String(), Rows: one.Rows, Bytes: one.Bytes, Seconds: event.Since(began)})
}

// splitBegin empties a table that is loaded in parts.
func (l *loader) splitBegin(table *Table) *task {
	t := &task{class: copying, what: "copy", name: table.Ident.String()}
	t.run = func(ctx context.Context, w *worker, _ int) error {
		if err := exec(ctx, w.target, "TRUNCATE ONLY "+t.name); err != nil {
			return l.explain(postgres.Target, "emptying", table.Ident, err)
		}
		return nil
	}
	return t
}

// copyPart copies the rows for which a condition holds, beside those of other
// parts. What an earlier try has committed cannot be emptied away, so that the
// server is asked whether it has.
func (l *loader) copyPart(table *Table, condition string, i, n int) *task {
	t := &task{class: copying, what: "copy", name: fmt.Sprintf("%s, part %d of %d", table.Ident, i+1, n), cost: float64(table.Bytes) / float64(n),
		size: table.Bytes / int64(n), rows: table.Rows / int64(n)}
	copyOut, copyIn := partStatements(table.Table, condition)
	var transaction string // whose commit was sent
	var moved copied
	done := func() error {
		l.meter.rows.Add(moved.rows)
		table.parts.rows.Add(moved.rows)
		table.parts.bytes.Add(moved.bytes)
		return nil
	}
	t.run = func(ctx context.Context, w *worker, _ int) error {
		if transaction != "" {
			switch state, err := w.outcome(ctx, transaction); {
			case err != nil:
				return l.explain(postgres.Target, "asking whether rows were committed of", table.Ident, err)
			case state == "committed":
				t.bytes.Store(moved.bytes)
				return done()
			}
		}
		if err := w.read(ctx, table.Snapshot); err != nil {
			return err
		}
		if err := exec(ctx, w.target, "BEGIN"); err != nil {
			return l.explain(postgres.Target, "loading", table.Ident, err)
		}
		passed, err := w.pass(ctx, t, copyOut, copyIn)
		if err != nil {
			return l.explainRelay(table.Ident, err)
		}
		moved = passed[0]
		id, err := w.value(ctx, "SELECT pg_catalog.txid_current()")
		if err != nil {
			return l.explain(postgres.Target, "loading", table.Ident, err)
		}
		transaction = id
		if err := exec(ctx, w.target, "COMMIT"); err != nil {
			return l.explain(postgres.Target, "committing", table.Ident, err)
		}
		return done()
	}
	return t
}

// outcome is what became of a transaction: committed or aborted.
func (w *worker) outcome(ctx context.Context, id string) (string, error) {
	for {
		state, err := w.value(ctx, "SELECT pg_catalog.txid_status("+id+")")
		if err != nil || state != "in progress" {
			return state, err
		}
		if err := postgres.Pause(ctx, 50*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// value runs a query for one value on the target.
func (w *worker) value(ctx context.Context, sql string) (string, error) {
	results, err := w.target.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return "", errors.New("the server's answer is not understood")
	}
	return string(results[0].Rows[0][0]), nil
}

// splitDone notes that all parts are there. Its commit is later than theirs: a
// crash of the server that takes one of them back takes it along.
func (l *loader) splitDone(table *Table) *task {
	t := &task{class: building, what: "rows", name: table.Ident.String()}
	table.parts = &parts{}
	began := time.Now()
	t.run = func(ctx context.Context, w *worker, _ int) error {
		one := Loaded{table.Ident, table.parts.rows.Load(), table.parts.bytes.Load()}
		if sql := l.record(Copied, one); sql != "" {
			if err := exec(ctx, w.target, sql); err != nil {
				return l.explain(postgres.Target, "noting the rows of", table.Ident, err)
			}
		}
		l.meter.rows.Add(-one.Rows) // counted part by part
		l.copied(began, one)
		return nil
	}
	return t
}

// loadBatch loads small tables from rows to statistics: their rows in one
// transaction, all else in another, each without a round trip per table.
func (l *loader) loadBatch(batch []*Table) *task {
	t := &task{class: copying, what: "copy", name: names(batch)}
	for _, table := range batch {
		t.size += table.Bytes
		t.cost += float64(table.Bytes) + 32<<10 // what a table costs beside its rows
		for _, x := range table.Indexes {
			t.cost += indexCost(table, x) + 16<<10
		}
	}
	there := batch[0].Snapshot == ""
	t.run = func(ctx context.Context, w *worker, try int) error {
		if !there {
			if err := w.copyBatch(ctx, t, batch, try); err != nil {
				return err
			}
			there = true
		}
		return w.finishBatch(ctx, batch, try)
	}
	return t
}

// copyBatch copies the rows of small tables. Only those that hold rows are
// emptied: a new file for each table costs more than its rows.
func (w *worker) copyBatch(ctx context.Context, t *task, batch []*Table, try int) error {
	began := time.Now()
	if err := w.read(ctx, batch[0].Snapshot); err != nil {
		return err
	}
	var from, to, full []string
	for _, table := range batch {
		empty := try > 1 || w.loader.target.holdsRows[table.Ident]
		if empty {
			full = append(full, table.Ident.String())
		}
		copyOut, copyIn := Statements(table.Table, empty)
		from, to = append(from, copyOut), append(to, copyIn)
	}
	begin := "BEGIN"
	if len(full) > 0 {
		begin += "; TRUNCATE ONLY " + strings.Join(full, ", ONLY ")
	}
	if err := exec(ctx, w.target, begin); err != nil {
		return w.explain(postgres.Target, "emptying", batch[0].Ident, err)
	}
	done, err := w.pass(ctx, t, strings.Join(from, "; "), strings.Join(to, "; "))
	if err != nil {
		return w.explainRelay(batch[min(len(done), len(batch)-1)].Ident, err)
	}
	all := make([]Loaded, len(batch))
	for i, table := range batch {
		all[i] = Loaded{table.Ident, done[i].rows, done[i].bytes}
	}
	if err := exec(ctx, w.target, w.record(Copied, all...)+"; COMMIT"); err != nil {
		return w.explain(postgres.Target, "committing", batch[0].Ident, err)
	}
	for _, one := range all {
		w.copied(began, one)
	}
	return nil
}
