package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// killRun is a start beside a writer that is killed during the copy, then made
// again until the target is ready; or one that is left alone.
type killRun struct {
	Percent int     `json:"percent"`        // of the bytes copied when it was to be killed; 0: left alone
	At      float64 `json:"at,omitempty"`   // percent when it was killed; 0: it was done before
	First   float64 `json:"first_seconds"`  // until it was dead, or ready
	Second  float64 `json:"second_seconds"` // of the next start, until ready
	Copied  int64   `json:"bytes_copied"`   // of COPY streams when it was killed
	Kept    int64   `json:"bytes_kept"`     // of those, what the next start did not copy again
	Writes  int     `json:"writes"`         // transactions of the writer, all of them found on the target
	Rows    int64   `json:"rows"`           // compared on both sides, and found equal
	Later   int     `json:"foreign_keys_later"`
	Load    string  `json:"load_average"`
}

func (k killRun) total() float64 { return k.First + k.Second }

// killRounds bounds the rounds of kills.
const killRounds = 3

// killPercents are when a start is killed, after one that is not.
var killPercents = []int{0, 25, 50, 75}

// applyPatience is how long the target may take to apply what was written.
const applyPatience = 5 * time.Minute

func (b *copyBench) measureKills(ctx context.Context, rounds int, pace *pace) (runs []killRun, err error) {
	for round := range rounds {
		began := time.Now()
		for _, percent := range killPercents {
			k, err := b.measureKill(ctx, percent)
			if err != nil {
				return runs, fmt.Errorf("killed at %d %%: %w", percent, err)
			}
			runs = append(runs, k)
			what := "left alone"
			switch {
			case percent > 0 && k.At == 0:
				what = fmt.Sprintf("was done before it could be killed at %d %%", percent)
			case percent > 0:
				what = fmt.Sprintf("killed at %.0f %%", k.At)
			}
			say("  %s kill round %d: %s: %.1f + %.1f s, %d rows equal", b.name, round+1, what, k.First, k.Second, k.Rows)
		}
		say("  %s", pace.done(b.name, "kill", time.Since(began)))
	}
	return runs, nil
}

func (b *copyBench) measureKill(ctx context.Context, percent int) (k killRun, err error) {
	if err := b.settle(ctx); err != nil {
		return k, err
	}
	k = killRun{Percent: percent, Load: loadAverage()}
	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	w := &writer{url: b.source.ConnStringAs(b.name, "", b.name), tables: b.database.tables}
	done := make(chan error, 1)
	go func() { done <- w.write(writing) }()

	killed, err := b.startAndKill(ctx, &k)
	if err == nil && killed {
		k.Second, k.Kept, err = b.startUntilReady(ctx)
	}
	stopWriting()
	if err := errors.Join(err, <-done); err != nil {
		return k, err
	}
	k.Writes = w.written
	if _, err := b.run(ctx, nil, nil, "resume"); err != nil {
		return k, err
	}
	if err := b.awaitApplied(ctx); err != nil {
		return k, err
	}
	want, err := readContent(ctx, b.source.ConnString(b.name))
	if err != nil {
		return k, err
	}
	have, err := readContent(ctx, b.target.ConnString(b.name))
	if err != nil {
		return k, err
	}
	if killed {
		// Tables copied before and after the kill are never at exactly one position; foreign keys
		// between them are made by the switchover.
		k.Later = want.forgoForeignKeys(have)
	}
	if differences := want.differences(have); len(differences) > 0 {
		return k, fmt.Errorf("the target differs from the source: %s", strings.Join(differences, "; "))
	}
	k.Rows = want.rows()
	return k, b.resetPgbaton(ctx)
}

// startAndKill starts and kills at k.Percent; killed is false when the target was
// ready before that.
func (b *copyBench) startAndKill(ctx context.Context, k *killRun) (killed bool, err error) {
	runCtx, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	ready := time.Duration(0)
	u, err := b.run(runCtx, nil, func(o occurrence) {
		var e struct {
			Step   string `json:"step"`
			Total  int64  `json:"bytes_total"`
			Copied int64  `json:"bytes_copied"`
		}
		if json.Unmarshal(o.line, &e) != nil || runCtx.Err() != nil {
			return
		}
		switch {
		case o.kind == "step_began" && e.Step == readyStep && ready == 0:
			ready = o.at
		case o.kind == "progress" && k.Percent > 0 && ready == 0 && e.Total > 0 && e.Copied*100 >= e.Total*int64(k.Percent):
			k.At, k.Copied = 100*float64(e.Copied)/float64(e.Total), e.Copied
			kill(errKill)
		}
	}, b.startArguments()...)
	if errors.Is(context.Cause(runCtx), errKill) {
		k.First = u.Wall
		return true, nil
	}
	if err == nil && ready == 0 {
		err = fmt.Errorf("pgbaton start showed no step %q", readyStep)
	}
	k.First = ready.Seconds()
	return false, err
}

// startUntilReady is the start after the one that was killed. kept is what it has not
// copied itself.
func (b *copyBench) startUntilReady(ctx context.Context) (seconds float64, kept int64, err error) {
	var result struct {
		Bytes int64 `json:"bytes_copied"`
	}
	copied := int64(0)
	_, err = b.run(ctx, &result, func(o occurrence) {
		var e struct {
			Step  string `json:"step"`
			Bytes int64  `json:"bytes"`
		}
		switch {
		case json.Unmarshal(o.line, &e) != nil:
		case o.kind == "step_began" && e.Step == readyStep && seconds == 0:
			seconds = o.at.Seconds()
		case o.kind == "table_copied":
			copied += e.Bytes
		}
	}, b.startArguments()...)
	if err == nil && seconds == 0 {
		err = fmt.Errorf("the second pgbaton start showed no step %q", readyStep)
	}
	return seconds, result.Bytes - copied, err
}

// awaitApplied waits until every subscription has applied what is on the source,
// to which nobody writes any more.
func (b *copyBench) awaitApplied(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, applyPatience, fmt.Errorf("the target has not applied everything within %s", applyPatience))
	defer cancel()
	return query(ctx, b.source.ConnString(b.name), func(conn *pgx.Conn) error {
		var lsn string
		// With something to send behind it, a server says at once how far it has come.
		err := conn.QueryRow(ctx, `SELECT pg_catalog.pg_logical_emit_message(true, 'bench', 'done')::text`).Scan(&lsn)
		if err != nil {
			return err
		}
		return poll(ctx, 100*time.Millisecond, func() (done bool, err error) {
			err = conn.QueryRow(ctx, `SELECT count(*) > 0 AND coalesce(pg_catalog.bool_and(active AND confirmed_flush_lsn >= $1::text::pg_lsn), false)
				FROM pg_catalog.pg_replication_slots WHERE database = pg_catalog.current_database()`, lsn).Scan(&done)
			return done, err
		})
	})
}

// writer inserts, updates and deletes in all tables that may be written to, in
// transactions of one each.
type writer struct {
	url     string
	tables  []genTable
	written int
}

// writerInterval keeps it from taking a core for itself.
const writerInterval = 10 * time.Millisecond

// write goes on until ctx ends, which is no error.
func (w *writer) write(ctx context.Context) error {
	err := query(ctx, w.url, func(conn *pgx.Conn) error {
		random := rand.New(rand.NewPCG(1, 2))
		tick := time.NewTicker(writerInterval)
		defer tick.Stop()
		last := make([]int64, len(w.tables)) // ids given out
		for i, t := range w.tables {
			err := conn.QueryRow(ctx, "SELECT max(id) FROM "+t.name).Scan(&last[i])
			if err != nil {
				return err
			}
		}
		for n := 0; ; n++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
			i := n % len(w.tables)
			t := w.tables[i]
			last[i]++
			// Rows of the beginning are changed, rows of ours are deleted: nobody refers to them.
			sql := []string{"BEGIN", t.insert(fmt.Sprintf("generate_series(%d::bigint, %[1]d)", last[i])),
				fmt.Sprintf("UPDATE %s SET %s WHERE id = %d", t.name, t.touch, 1+random.Int64N(t.rows))}
			if old := last[i] - 2; old > t.rows && old%2 == 0 {
				sql = append(sql, fmt.Sprintf("DELETE FROM %s WHERE id = %d", t.name, old))
			}
			sql = append(sql, "COMMIT")
			// Not cut short: it must be known whether it was committed.
			if err := conn.PgConn().Exec(context.WithoutCancel(ctx), strings.Join(sql, "; ")).Close(); err != nil {
				return err
			}
			w.written++
		}
	})
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
