package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// usage is what a pgbaton cost.
type usage struct {
	Wall     float64 `json:"wall_seconds"`
	OwnCPU   float64 `json:"own_cpu_seconds"`
	ToolsCPU float64 `json:"tools_cpu_seconds"` // of the pg_dump and pg_restore that it ran
	PeakRSS  int64   `json:"peak_rss_bytes"`    // of pgbaton itself
}

// interruptPatience is how long a pgbaton that was interrupted may take to
// leave things in order.
const interruptPatience = 20 * time.Second

// errKill cancels a context to make run kill the program, as a machine that runs
// out of memory would.
var errKill = errors.New("killed")

// occurrence is an event of a program that runs.
type occurrence struct {
	kind string
	line []byte        // valid only during the call
	at   time.Duration // since the program was started
	pid  int           // the program's
}

// run runs the program with --json, reads its result into result (nil to
// ignore it) and hands every event to onEvent as it comes (nil to ignore them).
// Connection strings go by the environment.
func (p *pair) run(ctx context.Context, result any, onEvent func(occurrence), args ...string) (u usage, err error) {
	cmd := exec.CommandContext(ctx, p.pgbaton, append(args, "--json")...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "PGBATON_SOURCE="+p.source.ConnString(p.database), "PGBATON_TARGET="+p.target.ConnString(p.database))
	// A Ctrl-C is for us to handle; pgbaton hears of it from us, once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		if errors.Is(context.Cause(ctx), errKill) {
			return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		return cmd.Process.Signal(os.Interrupt)
	}
	cmd.WaitDelay = interruptPatience
	var stderr bytes.Buffer
	var last []byte
	began := time.Now()
	cmd.Stdout = &lines{each: func(line []byte) {
		o := occurrence{line: line, at: time.Since(began), pid: cmd.Process.Pid}
		var head struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(line, &head) != nil {
			return
		}
		if o.kind = head.Type; o.kind == "result" {
			last = bytes.Clone(line)
		} else if onEvent != nil {
			onEvent(o)
		}
	}}
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return u, err
	}
	look := watch(cmd.Process.Pid)
	err = cmd.Wait()
	u.Wall = time.Since(began).Seconds()
	if ctx.Err() != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it could not end in time
	}
	peak, tools := look()
	u.ToolsCPU, u.PeakRSS = tools, peak
	state := cmd.ProcessState
	u.OwnCPU = max(0, (state.UserTime()+state.SystemTime()).Seconds()-tools) // wait4 counts children that were waited for
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok && peak == 0 {
		u.PeakRSS = maxRSS(usage)
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return u, fmt.Errorf("pgbaton %s: %w\n%s%s", strings.Join(args, " "), err, stderr.Bytes(), last)
	}
	if result == nil {
		return u, nil
	}
	return u, json.Unmarshal(last, result)
}

// lines hands on what is written to it line by line.
type lines struct {
	each    func(line []byte)
	pending []byte
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.pending = append(l.pending, b...)
	for {
		line, rest, ok := bytes.Cut(l.pending, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.each(line)
		l.pending = rest
	}
}
