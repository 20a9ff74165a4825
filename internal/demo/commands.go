package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"pgbaton/internal/event"
)

// interruptPatience is how long a pgbaton that was interrupted may take to
// leave things in order.
const interruptPatience = 15 * time.Second

// A commandError is a pgbaton that did not exit with 0.
type commandError struct {
	command string
	code    int
	said    string // on standard error, or in its result
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
//
// PGBATON_PGBOUNCER is the flag --pgbouncer of the commands that move traffic.
func (d *demo) environment() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") {
			env = append(env, kv)
		}
	}
	env = append(env, "PGBATON_SOURCE="+adminURL(d.source), "PGBATON_TARGET="+adminURL(d.target), "PGBATON_PG_BIN="+d.PgBin)
	if d.pooler != nil {
		env = append(env, "PGBATON_PGBOUNCER="+d.pooler.AdminURI())
	}
	return env
}

// grep runs a command and shows those lines that it prints to people which match
// a pattern: the story is to stay short.
func (d *demo) grep(ctx context.Context, pattern string, args ...string) error {
	d.command(shellWords(args) + " | grep -E " + shellWord(pattern))
	matching := regexp.MustCompile(pattern)
	return d.runCommand(ctx, func(line []byte) {
		if matching.Match(line) {
			d.verbatim(string(line))
		}
	}, args...)
}

// narrate runs a command with --json, which its reader is not shown, hands the
// events to tell and reads the result.
func (d *demo) narrate(ctx context.Context, args []string, tell func(kind string, line []byte), result any) error {
	d.command(shellWords(args))
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
		case head.Type == event.GuardianStarted{}.Type():
			d.guardian = decode[event.GuardianStarted](line).PID
		default:
			tell(head.Type, line)
		}
	}, append(args, "--json")...)
	var failed *commandError
	if errors.As(err, &failed) && last != nil {
		// With --json a command says in its result what went wrong.
		var why struct {
			Error string `json:"error"`
			Hint  string `json:"hint"`
		}
		_ = json.Unmarshal(last, &why)
		failed.said = strings.TrimSpace(strings.Join([]string{why.Error, failed.said, why.Hint}, "\n"))
	}
	if err != nil {
		return err
	}
	d.guardian = 0 // pgbaton has waited for its end
	if err := json.Unmarshal(last, result); err != nil {
		return fmt.Errorf("read the result of pgbaton %s: %w", args[0], err)
	}
	return nil
}
