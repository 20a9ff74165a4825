package demo

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

// interruptPatience is how long a pgbaton that was interrupted may take to
// leave things in order.
const interruptPatience = 15 * time.Second

// A commandError is a pgbaton that did not exit with 0.
type commandError struct {
	command string
	code    int
	said    string // on standard error
}

func (e *commandError) Error() string {
	text := fmt.Sprintf("pgbaton %s ended with exit code %d", e.command, e.code)
	if e.said != "" {
		text += ": " + e.said
	}
	return text
}

// runCommand runs pgbaton to its end as a user would, and hands on its
// standard output line by line.
func (d *demo) runCommand(ctx context.Context, each func(line []byte), args ...string) error {
	cmd := exec.CommandContext(ctx, d.Executable, args...)
	cmd.Dir = d.dir
	cmd.Env = d.environment()
	// A Ctrl-C is for us to handle; pgbaton hears of it from us, once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = interruptPatience
	stdout := &lineWriter{each: each}
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	err := cmd.Run()
	if len(stdout.rest) > 0 {
		each(stdout.rest)
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && ctx.Err() == nil:
		return &commandError{args[0], exit.ExitCode(), strings.TrimPrefix(strings.TrimSpace(stderr.String()), "pgbaton: ")}
	case errors.Is(err, exec.ErrWaitDelay):
		return nil // it ended well; something that it started still holds its output
	case err != nil:
		return fmt.Errorf("run pgbaton %s: %w", args[0], err)
	}
	return nil
}

// environment holds the connection strings, so that no password stands on a
// command line, and nothing that the caller has set for pgbaton or libpq.
func (d *demo) environment() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") {
			env = append(env, kv)
		}
	}
	return append(env, "PGBATON_SOURCE="+adminURL(d.source), "PGBATON_TARGET="+adminURL(d.target))
}

// show runs a command and shows what it prints to people.
func (d *demo) show(ctx context.Context, args ...string) error {
	d.command(args...)
	began := time.Now()
	if err := d.runCommand(ctx, func(line []byte) { d.verbatim(string(line)) }, args...); err != nil {
		return err
	}
	d.step("  done", time.Since(began))
	return nil
}

// narrate runs a command with --json, which its reader is not shown, hands the
// events to tell and reads the result.
func (d *demo) narrate(ctx context.Context, args []string, tell func(kind string, line []byte), result any) error {
	d.command(args...)
	var last []byte
	err := d.runCommand(ctx, func(line []byte) {
		var head struct {
			Type string `json:"type"`
		}
		switch {
		case json.Unmarshal(line, &head) != nil:
			d.verbatim(string(line)) // not for a program, so for people
		case head.Type == "result":
			last = bytes.Clone(line)
		default:
			tell(head.Type, line)
		}
	}, append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(last, result); err != nil {
		return fmt.Errorf("read the result of pgbaton %s: %w", args[0], err)
	}
	return nil
}
