// Package tablecopy moves the rows of many tables from one server to another
// under one snapshot, several tables at a time, while the source keeps working.
// It changes nothing on the source.
package tablecopy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
)

// Job says what to copy, and who wants to hear of it.
type Job struct {
	Source, Target *postgres.Server
	// Snapshot is the exported snapshot that every row is read under. The
	// session that exported it must stay as it is until Run returns.
	Snapshot string
	// Tables exist on both sides. On the target they are emptied first.
	Tables []catalog.Table
	// Jobs is the number of tables copied at a time; each takes one session on
	// either side. At least 1.
	Jobs int

	// Observer gets event.TableCopied, and event.Progress up to four times a
	// second and once at the end, also after a failure. May be nil.
	Observer event.Observer
	// OnDone is called when a table's rows have been stored, inside the
	// transaction that stored them, so that what it writes with tx is committed
	// together with the rows or not at all. It is called by several goroutines
	// at once. May be nil.
	OnDone func(ctx context.Context, tx *pgconn.PgConn, t catalog.Table, rows, bytes int64) error
	// OnProgress is called every so often from a goroutine of its own, never by
	// two at once, and a last time when all tables are copied. The states are
	// those of the tables being copied right now. It may take its time: the copy
	// does not wait for it. May be nil.
	OnProgress func(ctx context.Context, p event.Progress, running []TableState)
	// Every is the interval of OnProgress; a second if zero.
	Every time.Duration
}

// Result is what a complete copy has moved.
type Result struct {
	Tables  int
	Rows    int64
	Bytes   int64 // of the COPY streams
	Elapsed time.Duration
}

// ErrSnapshotGone says that the snapshot can no longer be read under. Rows
// copied under another one do not go with the same replication slot.
var ErrSnapshotGone = errors.New("the exported snapshot is gone")

// Run copies the tables, the largest first, and returns when all rows are
// committed on the target or at the first error; nothing of it runs on after
// that. A table is on the target either in full or as it was before. A second
// Run copies every table of its job again.
//
// The commits are asynchronous: before anything relies on the copy, one
// synchronous commit on the target has to make it durable.
func Run(ctx context.Context, job Job) (Result, error) {
	began := time.Now()
	job.Tables = slices.Clone(job.Tables)
	// Largest first: a big table that starts last would keep one worker busy
	// after all others are done.
	slices.SortStableFunc(job.Tables, func(a, b catalog.Table) int { return cmp.Compare(b.Bytes, a.Bytes) })
	c := &copier{job: job, queue: make(chan *tableCopy, len(job.Tables)), meter: newMeter(job.Tables, began)}
	for _, t := range c.meter.tables {
		c.queue <- t
	}
	close(c.queue)

	err := c.run(ctx)
	p, _ := c.meter.read(time.Now())
	c.observe(p)
	if err == nil && job.OnProgress != nil {
		job.OnProgress(ctx, p, nil)
	}
	result := Result{Tables: p.TablesCopied, Rows: c.meter.rows.Load(), Bytes: p.BytesCopied, Elapsed: time.Since(began)}
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Cause(ctx))) {
		err = fmt.Errorf("copying tables was interrupted: %w", context.Cause(ctx))
	}
	return result, err
}

// copier is one Run.
type copier struct {
	job   Job
	queue chan *tableCopy // filled and closed before the workers start
	meter *meter
}

// run starts the workers and those who report on them, and waits for all.
func (c *copier) run(ctx context.Context) error {
	if len(c.job.Tables) == 0 {
		return nil
	}
	for _, s := range []*postgres.Server{c.job.Source, c.job.Target} {
		if err := learnVersion(ctx, s); err != nil {
			return err
		}
	}
	// A report in progress when the copy fails is cut short; one in progress when
	// it succeeds is waited for, or the caller's session would be lost with it.
	reports, cutReports := context.WithCancel(ctx)
	defer cutReports()
	done := make(chan struct{})
	var reporters sync.WaitGroup
	reporters.Go(func() {
		every(observeEvery, done, func() {
			p, _ := c.meter.read(time.Now())
			c.observe(p)
		})
	})
	if c.job.OnProgress != nil {
		reporters.Go(func() {
			every(cmp.Or(c.job.Every, time.Second), done, func() {
				p, running := c.meter.read(time.Now())
				c.job.OnProgress(reports, p, running)
			})
		})
	}

	workers, workCtx := errgroup.WithContext(ctx)
	for range max(1, min(c.job.Jobs, len(c.job.Tables))) {
		workers.Go(func() error { return c.work(workCtx) })
	}
	err := workers.Wait()
	if err != nil {
		cutReports()
	}
	close(done)
	reporters.Wait()
	return err
}

// work copies tables from the queue, in one session on either side, until the
// queue is empty or ctx ends.
func (c *copier) work(ctx context.Context) (err error) {
	source, err := openSource(ctx, c.job.Source, c.job.Snapshot)
	if err != nil {
		return err
	}
	defer func() { end(ctx, source, err != nil) }()
	target, err := openTarget(ctx, c.job.Target)
	if err != nil {
		return err
	}
	defer func() { end(ctx, target, err != nil) }()
	if err := checkEncodings(ctx, source, target); err != nil {
		return err
	}

	buf := make([]byte, bufferSize)
	for t := range c.queue {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := c.copyTable(ctx, source, target, t, buf); err != nil {
			return err
		}
	}
	return nil
}

// copyTable replaces the target's rows of one table, in one transaction:
// emptying makes a second run safe, and it is what COPY FREEZE asks for.
func (c *copier) copyTable(ctx context.Context, source, target *pgconn.PgConn, t *tableCopy, buf []byte) error {
	began := time.Now()
	c.meter.begin(t, began)
	err := exec(ctx, target, "BEGIN; TRUNCATE ONLY "+t.Ident.String())
	if err != nil {
		return explain(postgres.Target, "emptying", t.Table, err)
	}
	send, store := encodings(source, target)
	copyOut, copyIn := Statements(t.Table)
	rows, bytes, err := relay(ctx, source, target, inEncoding(send, copyOut), inEncoding(store, copyIn), buf, t.add)
	if err != nil {
		return explainRelay(t.Table, err)
	}
	if c.job.OnDone != nil {
		if err := c.job.OnDone(ctx, target, t.Table, rows, bytes); err != nil {
			return postgres.Wrap(postgres.Target, "recording that "+t.Ident.String()+" is copied", err)
		}
	}
	if err := exec(ctx, target, "COMMIT"); err != nil {
		return explain(postgres.Target, "committing", t.Table, err)
	}
	c.meter.end(t, rows)
	c.observe(event.TableCopied{Table: t.Ident.String(), Rows: rows, Bytes: bytes, Seconds: event.Since(began)})
	return nil
}

func (c *copier) observe(e event.Event) {
	if c.job.Observer != nil {
		c.job.Observer(e)
	}
}

// every calls f at an interval until done is closed.
func every(interval time.Duration, done <-chan struct{}, f func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			f()
		}
	}
}
