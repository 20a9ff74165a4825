package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"pgbaton/internal/routine"
)

// child is a server process, watched by a goroutine until it ends.
type child struct {
	pid  int
	done chan struct{} // closed when the process has been waited for
}

// startChild starts a program as the given account in a process group of its own (a Ctrl-C in our
// terminal is for us to handle, not for the server).
//
// Nothing may be left running when this process dies, even by SIGKILL. On Linux the kernel does that
// (dieWithParent), but it takes the death of the *thread* that started the child for the death of the
// parent. So one goroutine, locked to its thread, starts the child and then waits for it: the thread
// lives as long as the child does.
func startChild(who account, output *os.File, dir, program string, args ...string) (*child, error) {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Env = environment(dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: who.credential()}
	dieWithParent(cmd.SysProcAttr)

	c := &child{done: make(chan struct{})}
	started := make(chan error)
	living := routine.Start(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			c.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // how a server ended is in its log
			close(c.done)
		}
	})
	select {
	case err := <-started:
		if err != nil {
			return nil, err
		}
	case <-living.Done():
		living.Wait()
	}
	return c, nil
}

// environment of the server: nothing of ours that could change how it behaves (PG*, LD_*, LC_*).
func environment(home string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + os.TempDir(), "LC_ALL=C", "TZ=UTC"}
}

func (c *child) gone() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *child) signal(sig syscall.Signal) error {
	if c.gone() {
		return nil
	}
	if err := syscall.Kill(c.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal the server, pid %d: %w", c.pid, err)
	}
	return nil
}

// end sends sig and waits; a server that is still there after the bound is killed with all its processes.
func (c *child) end(sig syscall.Signal, bound time.Duration) error {
	if sig == syscall.SIGKILL {
		return c.crash(bound)
	}
	if err := c.signal(sig); err != nil {
		return err
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-c.done:
		return nil
	case <-timer.C:
		return c.crash(bound)
	}
}

// crash kills the postmaster and its children. The children are in sessions of their own, so the
// process group does not reach them, and those at work would outlive the postmaster for a while and
// keep the data directory from being used again. The postmaster is stopped first: it must neither
// start new children nor begin a recovery while its children are being listed.
func (c *child) crash(bound time.Duration) error {
	if c.gone() {
		return nil
	}
	if err := c.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	children, listErr := childrenOf(c.pid)
	if err := c.signal(syscall.SIGKILL); err != nil {
		return err
	}
	for _, pid := range children {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill pid %d of the server: %w", pid, err)
		}
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		return fmt.Errorf("the server, pid %d, did not end after SIGKILL", c.pid)
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for _, pid := range children {
		for alive(pid) {
			select {
			case <-tick.C:
			case <-timer.C:
				return fmt.Errorf("pid %d of the server did not end after SIGKILL", pid)
			}
		}
	}
	return listErr
}
