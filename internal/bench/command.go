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

// run runs the program with --json, reads its result into result (nil to
// ignore it) and hands every event to onEvent (nil to ignore them). Connection
// strings go by the environment.
func (p *pair) run(ctx context.Context, result any, onEvent func(kind string, line []byte), args ...string) (u usage, err error) {
	cmd := exec.CommandContext(ctx, p.pgbaton, append(args, "--json")...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "PGBATON_SOURCE="+p.source.ConnString(p.database), "PGBATON_TARGET="+p.target.ConnString(p.database))
	// A Ctrl-C is for us to handle; pgbaton hears of it from us, once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = interruptPatience
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return u, err
	}
	look := watch(cmd.Process.Pid)
	err = cmd.Wait()
	u.Wall = time.Since(began).Seconds()
	peak, tools := look()
	u.ToolsCPU, u.PeakRSS = tools, peak
	state := cmd.ProcessState
	u.OwnCPU = max(0, (state.UserTime()+state.SystemTime()).Seconds()-tools) // wait4 counts children that were waited for
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok && peak == 0 {
		u.PeakRSS = maxRSS(usage)
	}
	var last []byte
	for line := range bytes.Lines(out.Bytes()) {
		var head struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(line, &head) != nil {
			continue
		}
		if head.Type == "result" {
			last = line
		} else if onEvent != nil {
			onEvent(head.Type, line)
		}
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return u, fmt.Errorf("pgbaton %s: %w\n%s%s", strings.Join(args, " "), err, stderr.Bytes(), last)
	}
	if result == nil {
		return u, nil
	}
	return u, json.Unmarshal(last, result)
}
