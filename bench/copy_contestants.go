package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// contestant is a way to copy a database. All of them leave the same behind:
// rows, indexes, constraints and statistics.
type contestant struct {
	name      string
	what      string   // for the report
	databases []string // empty: all
	prepare   func(*copyBench, context.Context) error
	copy      func(*copyBench, context.Context, *copyRun) error
	clean     func(*copyBench, context.Context) error
}

var contestants = []contestant{
	{name: "pgbaton", what: "`pgbaton start --hold --method stream`, until it makes the subscription; it also makes the target database, a publication and a slot, and copies under the slot's snapshot",
		copy: (*copyBench).copyByPgbaton, clean: (*copyBench).resetPgbaton},
	{name: "pgbaton-parts", what: "the same with `--split-above`, such that the table is read in as many parts as there are jobs",
		databases: []string{"one"}, copy: (*copyBench).copyByPgbatonInParts, clean: (*copyBench).resetPgbaton},
	{name: before, what: "the same by another build of pgbaton, that of `--before`",
		copy: (*copyBench).copyByBefore, clean: (*copyBench).resetBefore},
	{name: "pgcopydb", what: "`pgcopydb clone` with as many jobs for tables, indexes and restoring as the others have, and nothing else changed",
		prepare: (*copyBench).recreate, copy: (*copyBench).copyByPGCopyDB, clean: (*copyBench).discard},
	{name: "pgcopydb-split", what: "the same with `--split-tables-larger-than`, such that the table is read in as many parts as there are jobs",
		databases: []string{"one"}, prepare: (*copyBench).recreate, copy: (*copyBench).copyByPGCopyDBInParts, clean: (*copyBench).discard},
	{name: "pgcopydb-binary", what: "the same with `--use-copy-binary`",
		databases: []string{"mixed", "one"}, prepare: (*copyBench).recreate, copy: (*copyBench).copyByPGCopyDBBinary, clean: (*copyBench).discard},
	{name: "native", what: "schema by pg_dump and psql, then a subscription with `copy_data = true`, until all tables are copied; then vacuumdb --analyze-only. Meanwhile the source writes an empty message twenty times a second, without which its workers would wait for each other again and again",
		databases: []string{"mixed"}, prepare: (*copyBench).recreate, copy: (*copyBench).copyNatively, clean: (*copyBench).cleanNative},
	{name: "dump", what: "`pg_dump -Fd -j`, then `pg_restore -j`, then vacuumdb --analyze-only",
		databases: []string{"mixed"}, prepare: (*copyBench).recreate, copy: (*copyBench).copyByDump, clean: (*copyBench).discard},
	{name: "floor", what: "a script for these databases alone: psql, COPY in binary format with FREEZE, indexes, keys, foreign keys, statistics (`--show-floor` prints it)",
		prepare: (*copyBench).recreate, copy: (*copyBench).copyByFloor, clean: (*copyBench).discard},
}

// readyStep is the step of start that begins when the target is loaded.
const readyStep = "subscription"

// startArguments are those of the start that is measured.
func (b *copyBench) startArguments() []string {
	return []string{"start", "--hold", "--try-schema=false", "--method", "stream", "--jobs", strconv.Itoa(b.jobs), "--pg-bin", b.pgBin}
}

func (b *copyBench) copyByPgbaton(ctx context.Context, run *copyRun) error {
	return b.start(ctx, run)
}

// before is who takes part only when there is another build to compare with.
const before = "before"

func (b *copyBench) copyByBefore(ctx context.Context, run *copyRun) error {
	return b.as(b.before, func() error { return b.start(ctx, run) })
}

func (b *copyBench) resetBefore(ctx context.Context) error {
	return b.as(b.before, func() error { return b.resetPgbaton(ctx) })
}

// as does something with another build.
func (b *copyBench) as(program string, do func() error) error {
	own := b.pgbaton
	b.pgbaton = program
	defer func() { b.pgbaton = own }()
	return do()
}

func (b *copyBench) copyByPgbatonInParts(ctx context.Context, run *copyRun) error {
	size, err := b.partSize(ctx)
	if err != nil {
		return err
	}
	return b.start(ctx, run, "--split-above", size)
}

// start runs until the end but counts until the target is ready.
func (b *copyBench) start(ctx context.Context, run *copyRun, flags ...string) error {
	watch, ready := b.stopwatch(), false
	u, err := b.run(ctx, nil, func(o occurrence) {
		var s struct {
			Step    string  `json:"step"`
			Seconds float64 `json:"seconds"`
			ETA     float64 `json:"eta_seconds"`
		}
		if json.Unmarshal(o.line, &s) != nil {
			return
		}
		switch o.kind {
		case "progress":
			run.Estimates = append(run.Estimates, estimate{o.at.Seconds(), s.ETA})
		case "step_began":
			if s.Step == readyStep && !ready {
				ready = true
				watch.read(run)
				run.Wall = o.at.Seconds() // before the servers' CPU was looked up
				own, tools, _ := cpuSeconds(o.pid)
				run.ClientCPU, run.ToolsCPU = own+tools, tools
			}
		case "step_ended":
			if !ready {
				run.Steps = append(run.Steps, step{s.Step, s.Seconds})
			}
		}
	}, append(b.startArguments(), flags...)...)
	if err != nil {
		return err
	}
	if !ready {
		return fmt.Errorf("pgbaton start showed no step %q", readyStep)
	}
	run.Whole, run.PeakRSS = u.Wall, u.PeakRSS
	return nil
}

func (b *copyBench) resetPgbaton(ctx context.Context) error {
	if b.aside {
		// The copy leaves the migration before reset would delete it.
		err := query(ctx, b.target.ConnString(b.name), func(conn *pgx.Conn) error {
			var name string
			err := conn.QueryRow(ctx, `SELECT pg_catalog.quote_ident(subname) FROM pg_catalog.pg_subscription`).Scan(&name)
			for _, sql := range []string{"SET default_transaction_read_only = off", "ALTER SUBSCRIPTION " + name + " DISABLE",
				"ALTER SUBSCRIPTION " + name + " SET (slot_name = NONE)", "DROP SUBSCRIPTION " + name} {
				if err == nil {
					_, err = conn.Exec(ctx, sql)
				}
			}
			return err
		})
		if err := errors.Join(err, b.discard(ctx)); err != nil {
			return err
		}
	}
	var reset struct {
		Left []struct {
			Text string `json:"text"`
		} `json:"left"`
	}
	if _, err := b.run(ctx, &reset, nil, "reset", "--yes", "--drop-database"); err != nil {
		return err
	}
	if len(reset.Left) > 0 {
		return fmt.Errorf("pgbaton reset left something: %s", reset.Left[0].Text)
	}
	return nil
}

func (b *copyBench) copyByPGCopyDB(ctx context.Context, run *copyRun) error {
	return b.clone(ctx, run)
}

func (b *copyBench) copyByPGCopyDBBinary(ctx context.Context, run *copyRun) error {
	return b.clone(ctx, run, "--use-copy-binary")
}

func (b *copyBench) copyByPGCopyDBInParts(ctx context.Context, run *copyRun) error {
	size, err := b.partSize(ctx)
	if err != nil {
		return err
	}
	return b.clone(ctx, run, "--split-tables-larger-than", size)
}

// partSize is that of the largest table divided by the jobs.
func (b *copyBench) partSize(ctx context.Context) (string, error) {
	var largest int64
	err := query(ctx, b.source.ConnString(b.name), func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT max(pg_catalog.pg_table_size(oid)) FROM pg_catalog.pg_class WHERE relkind = 'r'`).Scan(&largest)
	})
	return fmt.Sprintf("%d kB", largest/1024/int64(b.jobs)+1), err
}

// clone runs pgcopydb, which needs a directory that it makes itself.
func (b *copyBench) clone(ctx context.Context, run *copyRun, flags ...string) (err error) {
	dir, err := os.MkdirTemp(b.dir, "pgcopydb-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	jobs := strconv.Itoa(b.jobs)
	args := append([]string{"clone", "--source", b.source.ConnString(b.name), "--target", b.target.ConnString(b.name),
		"--dir", filepath.Join(dir, "work"), "--table-jobs", jobs, "--index-jobs", jobs, "--restore-jobs", jobs, "--no-role-passwords"}, flags...)
	w := b.stopwatch()
	cpu, _, err := b.tool(ctx, nil, b.pgcopydb, args...)
	w.read(run)
	run.Whole, run.ClientCPU = run.Wall, cpu
	return err
}

// tools runs programs one after the other, as the steps of a run.
func (b *copyBench) tools(ctx context.Context, run *copyRun, commands ...[]string) error {
	for _, c := range commands {
		began := time.Now()
		cpu, _, err := b.tool(ctx, nil, c[0], c[1:]...)
		if err != nil {
			return err
		}
		run.ClientCPU, run.ToolsCPU = run.ClientCPU+cpu, run.ToolsCPU+cpu
		run.Steps = append(run.Steps, step{filepath.Base(c[0]), time.Since(began).Seconds()})
	}
	return nil
}

func (b *copyBench) program(name string) string { return filepath.Join(b.pgBin, name) }

func (b *copyBench) analyze() []string {
	return []string{b.program("vacuumdb"), "--analyze-only", "-q", "-j", strconv.Itoa(b.jobs), "-d", b.target.ConnString(b.name)}
}

func (b *copyBench) copyByDump(ctx context.Context, run *copyRun) (err error) {
	dir, err := os.MkdirTemp(b.dir, "dump-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	jobs, archive := strconv.Itoa(b.jobs), filepath.Join(dir, "archive")
	w := b.stopwatch()
	err = b.tools(ctx, run,
		[]string{b.program("pg_dump"), "-Fd", "-j", jobs, "-f", archive, "-d", b.source.ConnString(b.name)},
		[]string{b.program("pg_restore"), "-j", jobs, "-d", b.target.ConnString(b.name), archive},
		b.analyze())
	w.read(run)
	run.Whole = run.Wall
	return err
}

// nativeName is of the publication, the subscription and so the slot.
const nativeName = "bench_native"

func (b *copyBench) copyNatively(ctx context.Context, run *copyRun) (err error) {
	dir, err := os.MkdirTemp(b.dir, "native-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "schema.sql")
	w := b.stopwatch()
	err = b.tools(ctx, run,
		[]string{b.program("pg_dump"), "--schema-only", "-f", file, "-d", b.source.ConnString(b.name)},
		[]string{b.program("psql"), "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-o", os.DevNull, "-d", b.target.ConnString(b.name), "-f", file})
	if err != nil {
		return err
	}
	began := time.Now()
	err = query(ctx, b.source.ConnString(b.name), func(source *pgx.Conn) error {
		if _, err := source.Exec(ctx, "CREATE PUBLICATION "+nativeName+" FOR ALL TABLES"); err != nil {
			return err
		}
		return query(ctx, b.target.ConnString(b.name), func(target *pgx.Conn) error {
			_, err := target.Exec(ctx, fmt.Sprintf("CREATE SUBSCRIPTION %[1]s CONNECTION '%s' PUBLICATION %[1]s", nativeName, b.source.ConnString(b.name)))
			if err != nil {
				return err
			}
			return poll(ctx, 50*time.Millisecond, func() (done bool, err error) {
				// On a source where nothing happens, workers that have copied a table wait ten seconds
				// for the position at which they may hand it over. No source is as quiet as this one.
				if _, err := source.Exec(ctx, `SELECT pg_catalog.pg_logical_emit_message(true, 'bench', '')`); err != nil {
					return false, err
				}
				err = target.QueryRow(ctx, `SELECT pg_catalog.bool_and(srsubstate IN ('r', 's')) FROM pg_catalog.pg_subscription_rel`).Scan(&done)
				return done, err
			})
		})
	})
	if err != nil {
		return err
	}
	run.Steps = append(run.Steps, step{"subscription", time.Since(began).Seconds()})
	err = b.tools(ctx, run, b.analyze())
	w.read(run)
	run.Whole = run.Wall
	return err
}

func (b *copyBench) cleanNative(ctx context.Context) error {
	err := query(ctx, b.target.ConnString(b.name), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "DROP SUBSCRIPTION "+nativeName)
		return err
	})
	if err != nil {
		return err
	}
	err = query(ctx, b.source.ConnString(b.name), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "DROP PUBLICATION "+nativeName)
		return err
	})
	return errors.Join(err, b.discard(ctx))
}

//go:embed copy_floor.sh
var floorScript string

// floorMemory is the maintenance_work_mem of the floor: what pgcopydb takes too.
const floorMemory = "1GB"

func (b *copyBench) copyByFloor(ctx context.Context, run *copyRun) (err error) {
	dir, err := os.MkdirTemp(b.dir, "floor-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	script, work := filepath.Join(dir, "floor"), filepath.Join(dir, "work")
	if err := errors.Join(os.WriteFile(script, []byte(floorScript), 0o600), os.Mkdir(work, 0o700)); err != nil {
		return err
	}
	w := b.stopwatch()
	cpu, out, err := b.tool(ctx, []string{"SOURCE=" + b.source.ConnString(b.name), "TARGET=" + b.target.ConnString(b.name),
		"JOBS=" + strconv.Itoa(b.jobs), "MEMORY=" + floorMemory, "WORK=" + work}, "bash", script)
	w.read(run)
	run.Whole, run.ClientCPU, run.Steps = run.Wall, cpu, floorSteps(out, time.Now())
	return err
}

// floorSteps reads the lines "step SECONDS NAME" of the script.
func floorSteps(out []byte, end time.Time) (steps []step) {
	var begun float64
	close := func(at float64) {
		if len(steps) > 0 {
			steps[len(steps)-1].Seconds = at - begun
		}
		begun = at
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "step" {
			continue
		}
		at, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			continue
		}
		close(at)
		steps = append(steps, step{Name: strings.Join(f[2:], " ")})
	}
	close(float64(end.UnixMicro()) / 1e6)
	return steps
}

// tool runs a program of somebody else's in a process group of its own. PATH
// begins with the servers' client programs. cpu counts all of its descendants.
func (b *copyBench) tool(ctx context.Context, env []string, program string, args ...string) (cpu float64, out []byte, err error) {
	cmd := exec.CommandContext(ctx, program, args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "PATH=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "PATH="+b.pgBin+string(os.PathListSeparator)+os.Getenv("PATH"))
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = interruptPatience
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err = cmd.Start(); err != nil {
		return 0, nil, err
	}
	err = cmd.Wait()
	// Usually nobody is left in the group; after a failure somebody may be.
	if err != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		err = fmt.Errorf("%s: %w\n%s", filepath.Base(program), err, tail(stderr.Bytes(), 20))
	}
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), stdout.Bytes(), err
}

// tail is the last lines of what a program had to say.
func tail(b []byte, n int) string {
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// poll asks until the answer is yes, an error, or ctx ends.
func poll(ctx context.Context, every time.Duration, ask func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		done, err := ask()
		if done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// findPGCopyDB is the program named, or else the newest beside the servers, or
// else one that is installed.
func findPGCopyDB(named, pgBin string) (string, error) {
	if named != "" {
		return named, nil
	}
	found, err := filepath.Glob(filepath.Join(pgBin, "..", "..", "tools", "pgcopydb-*"))
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		return slices.MaxFunc(found, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) }), nil
	}
	if found, err := exec.LookPath("pgcopydb"); err == nil {
		return found, nil
	}
	return "", errors.New("no pgcopydb; get it with scripts/fetch-postgres pgcopydb, or leave it out of --contestants")
}

// numbers are those in the name of a file: 0.9 is older than 0.17.
func numbers(path string) (n []int) {
	for _, s := range strings.FieldsFunc(filepath.Base(path), func(r rune) bool { return r < '0' || r > '9' }) {
		i, _ := strconv.Atoi(s)
		n = append(n, i)
	}
	return n
}

// programVersion is the first line of --version.
func programVersion(ctx context.Context, program string) (string, error) {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return string(line), err
}

func cores() int { return runtime.NumCPU() }
