package guardian

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgbaton/internal/handover"
)

// The test's program is run again as what the tests need beside themselves.
const (
	asGuardian = "be-the-guardian"
	asWard     = "be-the-guarded"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case asGuardian:
			os.Exit(exitCode(beGuardian()))
		case asWard:
			os.Exit(exitCode(beGuarded(os.Args[2])))
		}
	}
	os.Exit(m.Run())
}

func exitCode(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// report is what the processes tell the test, one a line.
type report struct {
	Who  string // guardian, ward, or over: who takes over
	PID  int
	Why  string
	Ward handover.Ward
}

func tellTest(to string, r report) error {
	conn, err := net.Dial("unix", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	r.PID = os.Getpid()
	return json.NewEncoder(conn).Encode(r)
}

// beGuardian watches. Its task is where it tells what it does, when it takes over.
func beGuardian() error {
	prepare := func(task json.RawMessage) (TakeOver, error) {
		var to string
		if err := json.Unmarshal(task, &to); err != nil {
			return nil, err
		}
		if to == "" {
			return nil, errors.New("no task")
		}
		return func(_ context.Context, w *handover.Ward, kill func(), why string) error {
			kill()
			return tellTest(to, report{Who: "over", Why: why, Ward: *w})
		}, nil
	}
	return Watch(context.Background(), os.Stdin, os.Stdout, prepare, func(string) {})
}

// beGuarded has a guardian and a hook, and waits for its end with traffic held back.
func beGuarded(to string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	g := New(self, []string{asGuardian})
	g.Task(to)
	if _, err := g.Start(context.Background(), handover.Ward{ID: "first"}); err != nil {
		return err
	}
	hook := exec.Command("sh", "-c", "cat >/dev/null") // until its end of the pipe is closed, or it is killed
	hook.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	hook.ExtraFiles = []*os.File{os.NewFile(3, "the test's pipe")}
	if _, err := hook.StdinPipe(); err != nil {
		return err
	}
	if err := hook.Start(); err != nil {
		return err
	}
	g.Child(hook.Process.Pid)
	g.Child(1 << 30) // one that began,
	g.Child(-(1 << 30))
	g.Seen(handover.Ward{ID: "second"})
	g.Pausing(time.Hour)
	if err := tellTest(to, report{Who: "ward"}); err != nil {
		return err
	}
	select {}
}

// listen is where processes tell the test what happens.
func listen(t *testing.T) (to string, next func(who string) report) {
	t.Helper()
	dir, err := os.MkdirTemp("", "guardian") // a short name: a socket's has a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	to = filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: to, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return to, func(who string) report {
		t.Helper()
		_ = l.SetDeadline(time.Now().Add(30 * time.Second))
		conn, err := l.Accept()
		if err != nil {
			t.Fatalf("waiting for %s: %v", who, err)
		}
		defer conn.Close()
		var r report
		if err := json.NewDecoder(conn).Decode(&r); err != nil || r.Who != who {
			t.Fatalf("%+v, %v; want %s", r, err, who)
		}
		return r
	}
}

// newGuard is a guard whose guardian is the test's program, not yet started.
func newGuard(t *testing.T, to string) *Guard {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g := New(self, []string{asGuardian})
	g.Task(to)
	return g
}

// TestGuardedDies: whatever ends or stops the process that hands over, its guardian takes
// over, with what it was told last, and nothing of the old process is left.
func TestGuardedDies(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		signal syscall.Signal
		why    string
	}{{syscall.SIGKILL, "ended in the middle"}, {syscall.SIGTERM, "ended in the middle"}, {syscall.SIGSTOP, "hung"}} {
		t.Run(test.signal.String(), func(t *testing.T) {
			t.Parallel()
			to, next := listen(t)
			r, w, err := os.Pipe() // which the hook holds open
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			cmd := exec.Command(self, asWard, to)
			cmd.ExtraFiles = []*os.File{w}
			var stderr strings.Builder
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			ward := next("ward")
			if err := cmd.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			over := next("over")
			if !strings.Contains(over.Why, test.why) || over.Ward.ID != "second" || over.PID == ward.PID {
				t.Errorf("%+v", over)
			}
			_ = cmd.Wait()
			if state := cmd.ProcessState.Sys().(syscall.WaitStatus); test.signal == syscall.SIGSTOP && state.Signal() != syscall.SIGKILL {
				t.Errorf("the stopped process: %v", cmd.ProcessState)
			}
			_ = r.SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err := r.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
				t.Errorf("the hook still runs: %v", err)
			}
		})
	}
}

// TestEnd: a guardian is waited for when the handover is finished; when it is not, it takes
// over at once, and nobody waits for it.
func TestEnd(t *testing.T) {
	t.Parallel()
	to, next := listen(t)
	g := newGuard(t, to)
	pid, err := g.Start(t.Context(), handover.Ward{})
	if err != nil {
		t.Fatal(err)
	}
	if group, err := syscall.Getpgid(pid); err != nil || group != pid { // which a signal from our terminal does not reach
		t.Errorf("guardian %d is of process group %d, %v", pid, group, err)
	}
	g.Pausing(time.Hour)
	g.Passed()
	g.End(true)
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the dismissed guardian: %v", err)
	}
	g.End(true) // again, and to tell it something, does nothing
	g.Aborting()

	// Nobody waits yet: this one has nothing to do, though the handover is not finished.
	early := newGuard(t, to)
	if _, err := early.Start(t.Context(), handover.Ward{ID: "early"}); err != nil {
		t.Fatal(err)
	}
	process := early.cmd
	early.End(false)
	if err := process.Wait(); err != nil {
		t.Errorf("a guardian without anybody who waits: %v", err)
	}
	// From then on it has: the pipe's end is the process's, which it does not kill then.
	late := newGuard(t, to)
	if _, err := late.Start(t.Context(), handover.Ward{ID: "late"}); err != nil {
		t.Fatal(err)
	}
	process = late.cmd
	late.Pausing(time.Hour)
	late.End(false)
	if over := next("over"); over.Ward.ID != "late" || over.PID != process.Process.Pid {
		t.Errorf("%+v", over)
	}
	if err := process.Wait(); err != nil {
		t.Errorf("the guardian that took over: %v", err)
	}
}

// TestStartFails: a guardian that does not get ready is said, and none is left.
func TestStartFails(t *testing.T) {
	t.Parallel()
	g := newGuard(t, "")
	if _, err := g.Start(t.Context(), handover.Ward{}); err == nil {
		t.Error("a guardian without a task is ready")
	}
	g.End(true)
	g = New("/nowhere/pgbaton", nil)
	if _, err := g.Start(t.Context(), handover.Ward{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	g = New("echo", []string{"hello"})
	if _, err := g.Start(t.Context(), handover.Ward{}); err == nil || !strings.Contains(err.Error(), `"hello\n"`) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g = New("cat", []string{"/dev/zero"}) // never says a line
	if _, err := g.Start(ctx, handover.Ward{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
