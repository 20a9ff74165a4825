package tablecopy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
	"pgbaton/internal/routine"
)

// Table is a table as far as it is still to be loaded.
type Table struct {
	catalog.Table
	// Snapshot is what its rows are read under; "" when they are there already. The
	// session that exported it must stay as it is until Run returns.
	Snapshot string
	Indexes  []Index
	// Analyzed: its statistics are there already. AnalyzeLater leaves them to the caller.
	Analyzed, AnalyzeLater bool

	parts *parts // while it is loaded in parts
}

// parts sums up what the parts of a table have moved.
type parts struct{ rows, bytes atomic.Int64 }

// Index is an index to build. Built: it is there, but not yet its constraint.
type Index struct {
	catalog.Index
	Built bool
}

// ForeignKey is a foreign key to make. Added: it is there, but not validated.
type ForeignKey struct {
	catalog.ForeignKey
	Added bool
}

// Stage is how far a table is.
type Stage string

// Stages of a table.
const (
	Copied   Stage = "copied"   // its rows are there
	Finished Stage = "finished" // and its indexes, keys and statistics
)

// Loaded is a table that has reached a stage. Rows and Bytes, those of the COPY
// stream, are of Copied.
type Loaded struct {
	Table postgres.Ident
	Rows  int64
	Bytes int64
}

// Job says what to load, and who wants to hear of it.
type Job struct {
	Source, Target *postgres.Server
	Tables         []Table // they exist on both sides
	ForeignKeys    []ForeignKey
	// Jobs bounds the copies at a time, each with one session on either side;
	// IndexJobs the index builds and what follows them, each with one session on the
	// target. Together they are no more than the larger of both: what has the longest
	// way to go comes first.
	Jobs, IndexJobs int
	MaxRate         int64 // bytes of the COPY streams a second, all together; 0 for no limit
	SplitAbove      int64 // bytes of a table that is copied in parts; 0 for what Run finds best
	Tries           int   // of a task that fails for a transient reason; 0 for some

	// Before is what earlier runs have done, for the totals of what is reported.
	Before event.Progress
	// Observer gets event.TableCopied, and event.Progress up to four times a
	// second and once at the end, also after a failure. May be nil.
	Observer event.Observer
	// Record returns the SQL that notes what some tables have reached. It becomes
	// part of the transaction that achieves it: both are there, or neither. It is
	// called by several goroutines at once. May be nil.
	Record func(Stage, []Loaded) string
	// OnProgress is called every so often from a goroutine of its own, never by
	// two at once, and a last time when all is loaded. It may take its time: the
	// load does not wait for it. May be nil.
	OnProgress func(context.Context, event.Progress)
	// Every is the interval of OnProgress; a second if zero.
	Every time.Duration
}

// Result is what a complete load has moved.
type Result struct {
	Tables  int
	Rows    int64
	Bytes   int64 // of the COPY streams
	Elapsed time.Duration
}

// ErrSnapshotGone says that the snapshot can no longer be read under. Rows
// copied under another one do not go with the same replication slot.
var ErrSnapshotGone = errors.New("the exported snapshot is gone")

// loader is one Run.
type loader struct {
	job      Job
	schedule *schedule
	meter    *meter
	witness  *witness
	limiter  *rate.Limiter // nil: no limit
	target   targetFacts
	memory   string // maintenance_work_mem of our sessions
}

// Run loads the tables and returns when everything is committed on the target or
// at the first error that does not pass; nothing of it runs on after that. A
// table's rows are on the target either in full or, unless it was being copied
// in parts, as they were before.
//
// The commits are asynchronous: before anything relies on the load, one
// synchronous commit on the target has to make it durable.
func Run(ctx context.Context, job Job) (Result, error) {
	began := time.Now()
	l := &loader{job: job, meter: newMeter(job.Before, began)}
	err := l.run(ctx)
	p := l.meter.read(time.Now())
	l.observe(p)
	if err == nil && job.OnProgress != nil {
		job.OnProgress(ctx, p)
	}
	result := Result{Tables: p.TablesCopied - job.Before.TablesCopied, Rows: l.meter.rows.Load(),
		Bytes: p.BytesCopied - job.Before.BytesCopied, Elapsed: time.Since(began)}
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Cause(ctx))) {
		err = fmt.Errorf("loading tables was interrupted: %w", context.Cause(ctx))
	}
	return result, err
}

// run starts the workers and those who report on them, and waits for all.
func (l *loader) run(ctx context.Context) error {
	if len(l.job.Tables) == 0 && len(l.job.ForeignKeys) == 0 {
		return nil
	}
	l.job.Jobs = max(1, l.job.Jobs)
	l.job.IndexJobs = cmp.Or(max(0, l.job.IndexJobs), l.job.Jobs)
	if l.job.MaxRate > 0 {
		// A burst of a tenth of a second, but of one buffer at least.
		l.limiter = rate.NewLimiter(rate.Limit(l.job.MaxRate), int(max(bufferSize, l.job.MaxRate/10)))
	}
	for _, s := range []*postgres.Server{l.job.Source, l.job.Target} {
		if err := s.Learn(ctx); err != nil {
			return err
		}
		defer s.Attend(ctx, copySettings["application_name"])()
	}
	conn, err := openTarget(ctx, l.job.Target, "")
	if err != nil {
		return err
	}
	defer func() { end(ctx, conn, ctx.Err() != nil) }()
	l.witness = &witness{conn: conn}
	if err := l.readTarget(ctx); err != nil {
		return postgres.Wrap(postgres.Target, "looking at what is there", err)
	}
	splits, release, err := l.planSplits(ctx)
	defer release()
	if err != nil {
		return err
	}
	tasks := l.tasks(splits)
	l.meter.expect(l.job.Tables)
	l.meter.watch(tasks)
	l.schedule = newSchedule(tasks, [classes]int{copying: l.job.Jobs, building: l.job.IndexJobs})
	stop := context.AfterFunc(ctx, l.schedule.stop)
	defer stop()

	// A report in progress when the load fails is cut short; one in progress when
	// it succeeds is waited for, or the caller's session would be lost with it.
	reports, cutReports := context.WithCancel(ctx)
	defer cutReports()
	done := make(chan struct{})
	end := sync.OnceFunc(func() { close(done) })
	defer end() // whatever happens
	reporters, reported := routine.WithContext(ctx)
	report := func(interval time.Duration, f func()) {
		reporters.Go(func() error { every(interval, done, f); return nil })
	}
	report(observeEvery, func() { l.observe(l.meter.read(time.Now())) })
	report(time.Second, func() { l.askServer(reports) })
	if l.job.OnProgress != nil {
		report(cmp.Or(l.job.Every, time.Second), func() { l.job.OnProgress(reports, l.meter.read(time.Now())) })
	}

	workers, workCtx := routine.WithContext(reported) // nobody goes on without reports
	stopWorkers := context.AfterFunc(workCtx, l.schedule.stop)
	defer stopWorkers()
	for range min(max(l.job.Jobs, l.job.IndexJobs), len(tasks)) {
		workers.Go(func() error { return l.work(workCtx) })
	}
	err = workers.Wait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		cutReports()
	}
	end()
	return cmp.Or(err, reporters.Wait())
}

// targetFacts are what the target says before anything is loaded.
type targetFacts struct {
	holdsRows   map[postgres.Ident]bool // tables with a file that is not empty
	tablespaces map[string]bool
	parallel    bool // indexes can be built by several processes
}

// mostMemory bounds, in kB, the maintenance_work_mem that we give a session which
// sorts a table for an index: before 18 more is hardly used.
const mostMemory = 1 << 20

// readTarget asks for targetFacts, and decides how much memory an index build may
// take: as much as the server's own setting says, or, where that is more, its
// part of as much as the server was given for shared buffers. What fills those,
// the load, needs little of them.
func (l *loader) readTarget(ctx context.Context) error {
	l.target = targetFacts{holdsRows: map[postgres.Ident]bool{}, tablespaces: map[string]bool{},
		parallel: l.job.Target.Version().Major() >= 11}
	rows, err := l.witness.ask(ctx, `SELECT n.nspname, c.relname
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND pg_catalog.pg_relation_size(c.oid) > 0`)
	if err != nil {
		return err
	}
	for _, r := range rows {
		l.target.holdsRows[postgres.Ident{Schema: string(r[0]), Name: string(r[1])}] = true
	}
	if rows, err = l.witness.ask(ctx, `SELECT spcname FROM pg_catalog.pg_tablespace`); err != nil {
		return err
	}
	for _, r := range rows {
		l.target.tablespaces[string(r[0])] = true
	}
	rows, err = l.witness.ask(ctx, `SELECT
		(SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem'), -- kB
		(SELECT setting::bigint * pg_catalog.current_setting('block_size')::bigint / 1024 FROM pg_catalog.pg_settings WHERE name = 'shared_buffers')`)
	if err != nil {
		return err
	}
	own, err := strconv.ParseInt(string(rows[0][0]), 10, 64)
	if err != nil {
		return err
	}
	buffers, err := strconv.ParseInt(string(rows[0][1]), 10, 64)
	if err != nil {
		return err
	}
	l.memory = fmt.Sprintf("%dkB", max(own, min(mostMemory, buffers/int64(l.job.IndexJobs))))
	return nil
}

func (l *loader) observe(e event.Event) {
	if l.job.Observer != nil {
		l.job.Observer(e)
	}
}

// record is the SQL that notes a stage, "" for none.
func (l *loader) record(s Stage, tables ...Loaded) string {
	if l.job.Record == nil || len(tables) == 0 {
		return ""
	}
	return l.job.Record(s, tables)
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
