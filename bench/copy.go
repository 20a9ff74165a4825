package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// copyOptions are the flags of copy.
type copyOptions struct {
	databases   []string
	pairs       []versions
	contestants []string
	before      string // another build of pgbaton, "" for none
	pgcopydb    string
	scale       float64
	kill        bool
}

// versions are the majors of a source and its target.
type versions struct{ from, to int }

func (v versions) String() string { return fmt.Sprintf("%d-%d", v.from, v.to) }

func parseVersions(text string) (v versions, err error) {
	from, to, _ := strings.Cut(text, "-")
	if v.from, err = strconv.Atoi(from); err == nil {
		v.to, err = strconv.Atoi(to)
	}
	if err != nil {
		return v, fmt.Errorf("%q is no pair of major versions like 12-15", text)
	}
	return v, nil
}

// parse reads the lists among the flags.
func (o *copyOptions) parse(databases, pairs, contestants string) error {
	list := func(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) }
	o.databases, o.contestants = list(databases), list(contestants)
	for _, name := range o.databases {
		if !slices.Contains(allDatabases, name) {
			return fmt.Errorf("--databases: there is no database %q", name)
		}
	}
	for _, name := range o.contestants {
		if !slices.Contains(contestantNames(), name) {
			return fmt.Errorf("--contestants: there is no contestant %q", name)
		}
	}
	if o.before == "" {
		o.contestants = slices.DeleteFunc(o.contestants, func(name string) bool { return name == before })
	}
	for _, text := range list(pairs) {
		v, err := parseVersions(text)
		if err != nil {
			return fmt.Errorf("--pairs: %w", err)
		}
		o.pairs = append(o.pairs, v)
	}
	return nil
}

// copyRun is one copy of a database.
type copyRun struct {
	Contestant string     `json:"contestant"`
	Wall       float64    `json:"wall_seconds"`  // until the target is ready to subscribe
	Whole      float64    `json:"whole_seconds"` // until the program has ended
	SourceCPU  float64    `json:"source_cpu_seconds"`
	TargetCPU  float64    `json:"target_cpu_seconds"`
	ClientCPU  float64    `json:"client_cpu_seconds"` // of all programs that are not servers
	ToolsCPU   float64    `json:"tools_cpu_seconds"`  // of pg_dump, pg_restore and psql among them, where they can be told apart
	PeakRSS    int64      `json:"peak_rss_bytes"`     // of pgbaton itself
	Load       string     `json:"load_average"`       // before
	Steps      []step     `json:"steps"`
	Estimates  []estimate `json:"estimates,omitempty"`
}

// estimate is what pgbaton expected to need still.
type estimate struct {
	At  float64 `json:"at_seconds"`
	ETA float64 `json:"eta_seconds"`
}

// step is a part of a run's time.
type step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// copySet is all that was measured of a database between two servers.
type copySet struct {
	Database string    `json:"database"`
	What     string    `json:"what"`
	Pair     string    `json:"pair"`
	Source   string    `json:"source_version"`
	Target   string    `json:"target_version"`
	PGCopyDB string    `json:"pgcopydb,omitempty"`
	Bytes    int64     `json:"database_bytes"`
	Tables   int       `json:"tables"`
	Indexes  int       `json:"indexes"`
	Rows     int64     `json:"rows"`
	FsyncMS  float64   `json:"fsync_ms"`
	Cores    int       `json:"cores"`
	Runs     []copyRun `json:"runs"`
	Kills    []killRun `json:"kills,omitempty"`
}

// copySettings are those of all servers of copy, besides settings. pg_dump locks
// every table at once.
func copySettings(jobs int) map[string]string {
	return map[string]string{
		"max_locks_per_transaction":         "1024",
		"max_sync_workers_per_subscription": strconv.Itoa(jobs),
		"max_connections":                   "200",
	}
}

// measureCopies measures every database between every two servers, and writes
// the report after each, since all of them take hours.
func measureCopies(ctx context.Context, o options, r *report) error {
	pace := newPace(o)
	for _, v := range o.copy.pairs {
		for _, name := range o.copy.databases {
			d, _ := copyDatabase(name, o.copy.scale)
			set, err := measureCopySet(ctx, o, v, d, pace)
			if err != nil {
				err = fmt.Errorf("%s, %s: %w", name, v, err)
			}
			if len(set.Runs)+len(set.Kills) > 0 { // also when it was interrupted
				r.Copies = append(r.Copies, set)
				err = errors.Join(err, r.write(o.out, "copy", io.Discard))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func measureCopySet(ctx context.Context, o options, v versions, d database, pace *pace) (set copySet, err error) {
	say("%s: making the database on PostgreSQL %d …", d.name, v.from)
	p, err := startPair(ctx, pairOptions{pgbaton: o.pgbaton, from: v.from, to: v.to, database: d.name, extra: copySettings(o.jobs), load: d.load})
	if err != nil {
		return set, err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	b := &copyBench{pair: p, database: d, jobs: o.jobs, before: o.copy.before}
	if b.want, err = readContent(ctx, p.source.ConnString(d.name)); err != nil {
		return set, err
	}
	set = copySet{Database: d.name, What: d.what, Pair: v.String(), Source: p.sourceVersion, Target: p.targetVersion, Bytes: p.bytes,
		Tables: len(b.want.tables), Indexes: len(b.want.indexes), Rows: b.want.rows(), FsyncMS: fsyncMedian(p.dir), Cores: cores()}
	wanted := contestantsFor(d.name, o.copy.contestants)
	if slices.ContainsFunc(wanted, func(c contestant) bool { return strings.HasPrefix(c.name, "pgcopydb") }) {
		if b.pgcopydb, err = findPGCopyDB(o.copy.pgcopydb, p.pgBin); err != nil {
			return set, err
		}
		if set.PGCopyDB, err = programVersion(ctx, b.pgcopydb); err != nil {
			return set, err
		}
	}
	say("%s, %s: %s, %d tables, %d rows, %d indexes", d.name, v, megabytes(p.bytes), set.Tables, set.Rows, set.Indexes)
	if len(wanted) > 0 {
		// Whoever is first finds servers that have done nothing yet, and whose WAL files
		// have still to be made.
		say("  %s %s warming up with %s, which does not count", d.name, v, wanted[0].name)
		if _, err := b.measure(ctx, wanted[0], false); err != nil {
			return set, fmt.Errorf("%s: %w", wanted[0].name, err)
		}
	}
	for round := range o.runs {
		for i := range wanted {
			// Each round begins with another, so that nobody always has the same one before it.
			c := wanted[(round+i)%len(wanted)]
			began := time.Now()
			run, err := b.measure(ctx, c, round == 0)
			if err != nil {
				return set, fmt.Errorf("%s: %w", c.name, err)
			}
			set.Runs = append(set.Runs, run)
			say("  %s %s round %d %-15s %7.1f s   CPU %.1f + %.1f + %.1f   load %s   %s", d.name, v, round+1, c.name, run.Wall,
				run.SourceCPU, run.TargetCPU, run.ClientCPU, run.Load, pace.done(d.name, c.name, time.Since(began)))
		}
	}
	if o.copy.kill {
		set.Kills, err = b.measureKills(ctx, min(killRounds, o.runs), pace)
	}
	return set, err
}

// copyBench measures on one pair of servers.
type copyBench struct {
	*pair
	database
	jobs     int
	pgcopydb string
	before   string
	want     content
}

// measure lets a contestant copy the database once, looks at what arrived if
// asked to, and takes it back.
func (b *copyBench) measure(ctx context.Context, c contestant, look bool) (run copyRun, err error) {
	if c.prepare != nil {
		if err := c.prepare(b, ctx); err != nil {
			return run, err
		}
	}
	if err := b.settle(ctx); err != nil {
		return run, err
	}
	run = copyRun{Contestant: c.name, Load: loadAverage()}
	if err := c.copy(b, ctx, &run); err != nil {
		return run, err
	}
	if look {
		have, err := readContent(ctx, b.target.ConnString(b.name))
		if err != nil {
			return run, err
		}
		if differences := b.want.differences(have); len(differences) > 0 {
			return run, fmt.Errorf("what arrived differs from the source: %s", strings.Join(differences, "; "))
		}
	}
	return run, c.clean(b, ctx)
}

// stopwatch runs from when it was made: time, and CPU of the servers.
type stopwatch struct {
	pair           *pair
	began          time.Time
	source, target float64
}

func (p *pair) stopwatch() stopwatch {
	w := stopwatch{pair: p}
	w.source, _ = serverCPU(p.source.PID())
	w.target, _ = serverCPU(p.target.PID())
	w.began = time.Now()
	return w
}

// read notes the time until now.
func (w stopwatch) read(run *copyRun) {
	run.Wall = time.Since(w.began).Seconds()
	source, _ := serverCPU(w.pair.source.PID())
	target, _ := serverCPU(w.pair.target.PID())
	run.SourceCPU, run.TargetCPU = source-w.source, target-w.target
}

// recreate makes an empty database on the target.
func (b *copyBench) recreate(ctx context.Context) error {
	if err := b.discard(ctx); err != nil {
		return err
	}
	return b.onTarget(ctx, "CREATE DATABASE "+b.name+" TEMPLATE template0 OWNER "+b.name)
}

// discard takes away a copy that is done with. Where a database has many files,
// it is only renamed: for minutes after many were deleted, ext4 makes new ones several
// times slower (recently_deleted in fs/ext4/ialloc.c), and the next run would pay.
func (b *copyBench) discard(ctx context.Context) error {
	if !b.aside {
		return b.onTarget(ctx, "DROP DATABASE IF EXISTS "+b.name)
	}
	return query(ctx, b.target.ConnString("postgres"), func(conn *pgx.Conn) error {
		var exists bool
		var n int
		err := conn.QueryRow(ctx, `SELECT bool_or(datname = $1), count(*) FROM pg_catalog.pg_database`, b.name).Scan(&exists, &n)
		if err == nil && exists {
			_, err = conn.Exec(ctx, fmt.Sprintf(`ALTER DATABASE %s RENAME TO %[1]s_%d`, b.name, n))
		}
		return err
	})
}

func (b *copyBench) onTarget(ctx context.Context, sql string) error {
	return query(ctx, b.target.ConnString("postgres"), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

// pace tells how long all of it will take, by what has been done.
type pace struct {
	began time.Time
	left  map[[2]string]int             // runs by database and contestant
	took  map[[2]string][]time.Duration // with all that surrounds them
}

func newPace(o options) *pace {
	p := &pace{began: time.Now(), left: map[[2]string]int{}, took: map[[2]string][]time.Duration{}}
	for _, name := range o.copy.databases {
		for _, c := range contestantsFor(name, o.copy.contestants) {
			p.left[[2]string{name, c.name}] += o.runs * len(o.copy.pairs)
		}
		if o.copy.kill {
			p.left[[2]string{name, "kill"}] += min(killRounds, o.runs) * len(o.copy.pairs)
		}
	}
	return p
}

// done notes a run and says how much there is left to do.
func (p *pace) done(database, contestant string, took time.Duration) string {
	key := [2]string{database, contestant}
	p.left[key]--
	p.took[key] = append(p.took[key], took)
	runs, unknown := 0, 0
	var rest time.Duration
	for key, n := range p.left {
		runs += n
		if n > 0 && len(p.took[key]) == 0 {
			unknown += n
			continue
		}
		rest += time.Duration(n) * mean(p.took[key])
	}
	if unknown > 0 {
		return fmt.Sprintf("%d runs left, %s so far", runs, time.Since(p.began).Round(time.Second))
	}
	return fmt.Sprintf("%d runs left, about %s", runs, rest.Round(time.Minute))
}

func mean(durations []time.Duration) time.Duration {
	var sum time.Duration
	for _, d := range durations {
		sum += d
	}
	return sum / time.Duration(max(1, len(durations)))
}

// describeCopyOptions is describeOptions for copy.
func describeCopyOptions(o options) []string {
	var pairs []string
	for _, v := range o.copy.pairs {
		pairs = append(pairs, v.String())
	}
	flags := []string{"--databases=" + strings.Join(o.copy.databases, ","), "--pairs=" + strings.Join(pairs, ","),
		"--contestants=" + strings.Join(o.copy.contestants, ","), "--jobs=" + strconv.Itoa(o.jobs),
		fmt.Sprintf("--scale=%g", o.copy.scale), "--runs=" + strconv.Itoa(o.runs)}
	if o.copy.kill {
		flags = append(flags, "--kill")
	}
	return flags
}

func contestantNames() []string {
	var names []string
	for _, c := range contestants {
		names = append(names, c.name)
	}
	return names
}

// contestantsFor lists those of the names that copy a database, in the order of
// contestants.
func contestantsFor(database string, names []string) (list []contestant) {
	for _, c := range contestants {
		if slices.Contains(names, c.name) && (len(c.databases) == 0 || slices.Contains(c.databases, database)) {
			list = append(list, c)
		}
	}
	return list
}

// sortedKeys is for reports.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
