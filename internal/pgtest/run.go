package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const defaultRunTimeout = 5 * time.Minute

// build compiles cmd/pgbaton once per process, into a file that the test processes of a user share. It
// is replaced only by a different binary, and then as a whole: other tests may be running it.
var build = sync.OnceValues(func() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir, err := sharedDir()
	if err != nil {
		return "", err
	}
	args := []string{"build", "-buildvcs=false"}
	if os.Getenv("PGTEST_RACE") != "" {
		args = append(args, "-race")
	}
	fresh, err := os.CreateTemp(dir, "pgbaton-new-")
	if err != nil {
		return "", err
	}
	defer os.Remove(fresh.Name())
	if err := fresh.Close(); err != nil {
		return "", err
	}
	cmd := exec.Command("go", append(args, "-o", fresh.Name(), "./cmd/pgbaton")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pgbaton: %w\n%s", err, out)
	}
	h := fnv.New64a()
	fmt.Fprint(h, root, args)
	program := filepath.Join(dir, fmt.Sprintf("pgbaton-%x", h.Sum64()))
	if same, err := sameContent(program, fresh.Name()); err != nil || same {
		return program, err
	}
	return program, os.Rename(fresh.Name(), program)
})

func sameContent(old, fresh string) (bool, error) {
	a, err := os.ReadFile(old)
	if os.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	b, err := os.ReadFile(fresh)
	return bytes.Equal(a, b), err
}

// Build returns the path of the pgbaton binary, built once per test process from the working tree;
// with the race detector if PGTEST_RACE is set.
func Build(t testing.TB) string {
	t.Helper()
	NeedServers(t)
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// RunOptions say how to run pgbaton.
type RunOptions struct {
	Args    []string
	Env     []string // NAME=value; variables PG* and PGBATON_* of the test's own environment are not passed on
	Stdin   string
	Dir     string        // working directory; empty: a temporary one
	Timeout time.Duration // 0: five minutes; when it is over the test fails
	Program string        // empty: Build
}

// Result is what a finished run left.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code; -1 when a signal ended it
}

func (r Result) String() string {
	return fmt.Sprintf("exit code %d\nstdout:\n%s\nstderr:\n%s", r.Code, r.Stdout, r.Stderr)
}

// Run runs pgbaton to its end.
func Run(t testing.TB, o RunOptions) Result {
	t.Helper()
	return Spawn(t, o).Wait(t)
}

// Process is a pgbaton that is running.
type Process struct {
	cmd            *exec.Cmd
	args           []string
	timeout        time.Duration
	stdout, stderr output
	done           chan struct{}
	err            error // of Wait, valid after done
}

// Spawn starts pgbaton in a process group of its own. What is still running at the end of the test is
// killed: that process only, as the guardian it may have started has work to do.
func Spawn(t testing.TB, o RunOptions) *Process {
	t.Helper()
	if o.Program == "" {
		o.Program = Build(t)
	}
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Timeout == 0 {
		o.Timeout = defaultRunTimeout
	}
	p := &Process{cmd: exec.Command(o.Program, o.Args...), args: o.Args, timeout: o.Timeout, done: make(chan struct{})}
	p.cmd.Dir = o.Dir
	p.cmd.Env = append(cleanEnvironment(), o.Env...)
	p.cmd.Stdin = strings.NewReader(o.Stdin)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = 5 * time.Second // a guardian may hold our pipes open
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start pgbaton %q: %v", o.Args, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		p.stdout.close()
		p.stderr.close()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // no error: it has ended
		<-p.done
	})
	return p
}

// cleanEnvironment is ours without what would configure pgbaton or libpq.
func cleanEnvironment() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "PGBATON_") && (!strings.HasPrefix(e, "PG") || strings.HasPrefix(e, "PGTEST_")) {
			env = append(env, e)
		}
	}
	return env
}

// Signal sends a signal to this process alone.
func (p *Process) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Errorf("signal pgbaton %q: %v", p.args, err)
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end; the test fails when it takes longer than the timeout.
func (p *Process) Wait(t testing.TB) Result {
	t.Helper()
	timer := time.NewTimer(p.timeout)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // a Go program shows where it hangs
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.done
		}
		t.Fatalf("pgbaton %q did not end within %v\n%v", p.args, p.timeout, p.result())
	}
	return p.result()
}

func (p *Process) result() Result {
	return Result{Stdout: p.stdout.String(), Stderr: p.stderr.String(), Code: p.cmd.ProcessState.ExitCode()}
}

// Stdout is the standard output so far.
func (p *Process) Stdout() string { return p.stdout.String() }

// Stderr is the standard error so far.
func (p *Process) Stderr() string { return p.stderr.String() }

// AwaitStdout waits until the standard output so far contains a text; the test fails when the process
// ends, or the timeout is over, without it.
func (p *Process) AwaitStdout(t testing.TB, text string) { t.Helper(); p.await(t, &p.stdout, text) }

// AwaitStderr is AwaitStdout for the standard error.
func (p *Process) AwaitStderr(t testing.TB, text string) { t.Helper(); p.await(t, &p.stderr, text) }

func (p *Process) await(t testing.TB, o *output, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), p.timeout)
	defer cancel()
	if err := o.await(ctx, text); err != nil {
		t.Fatalf("pgbaton %q: waiting for %q: %v\nstdout:\n%s\nstderr:\n%s", p.args, text, err, p.stdout.String(), p.stderr.String())
	}
}

// output is a buffer that can be waited on.
type output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	closed  bool
	changed chan struct{} // closed at the next change; nil when nobody waits
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake()
	return o.buf.Write(b)
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.wake()
}

func (o *output) wake() {
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) await(ctx context.Context, text string) error {
	for {
		o.mu.Lock()
		found, closed := bytes.Contains(o.buf.Bytes(), []byte(text)), o.closed
		if o.changed == nil {
			o.changed = make(chan struct{})
		}
		changed := o.changed
		o.mu.Unlock()
		switch {
		case found:
			return nil
		case closed:
			return io.ErrUnexpectedEOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
