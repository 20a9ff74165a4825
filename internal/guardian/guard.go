package guardian

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"pgbaton/internal/handover"
	"pgbaton/internal/routine"
)

// Guard is the guarded process's end. It implements handover.Guard. A guardian
// that dies is no reason to fail: what it is told then goes nowhere.
type Guard struct {
	program string
	args    []string
	task    any

	mu    sync.Mutex // of what is written to the pipe
	pipe  io.WriteCloser
	cmd   *exec.Cmd
	beats chan struct{} // closed to end the heartbeats
	beat  *routine.Routine
}

// New prepares a guardian: this program, run again with args.
func New(program string, args []string) *Guard { return &Guard{program: program, args: args} }

// Task is what the guardian will be given on its standard input, where no process
// list shows it. It must be said before Start.
func (g *Guard) Task(task any) { g.task = task }

// heartbeat is how often the guarded process shows that it is not stopped.
const heartbeat = 200 * time.Millisecond

// startTimeout bounds the start of the guardian.
const startTimeout = 10 * time.Second

// Start implements handover.Guard. The guardian is of a session of its own:
// neither the end of our terminal nor a signal to our process group reaches it.
func (g *Guard) Start(ctx context.Context, w handover.Ward) (pid int, err error) {
	task, err := json.Marshal(g.task)
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(g.program, g.args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stderr = os.Stderr
	if g.pipe, err = cmd.StdinPipe(); err != nil {
		return 0, err
	}
	answer, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	g.cmd = cmd
	g.tell(message{PID: os.Getpid(), Task: task})
	g.tell(message{Ward: &w})
	var line string // valid after reading
	var readErr error
	reading := routine.Start(func() { line, readErr = bufio.NewReader(answer).ReadString('\n') })
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-reading.Done():
		reading.Wait()
		if err = readErr; err == nil && line != readyLine {
			err = fmt.Errorf("it said %q", line)
		}
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		g.pipe.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		g.cmd = nil
		return 0, err
	}
	g.beats = make(chan struct{})
	g.beat = routine.Start(g.beatOn)
	return cmd.Process.Pid, nil
}

func (g *Guard) beatOn() {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			g.tell(message{Alive: true})
		case <-g.beats:
			return
		}
	}
}

// tell writes a message. An error means that the guardian is gone.
func (g *Guard) tell(m message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pipe == nil {
		return
	}
	line, err := json.Marshal(m)
	if err == nil {
		_, _ = g.pipe.Write(append(line, '\n'))
	}
}

// Seen implements handover.Guard.
func (g *Guard) Seen(w handover.Ward) { g.tell(message{Ward: &w}) }

// Pausing implements handover.Guard.
func (g *Guard) Pausing(budget time.Duration) { g.tell(message{Pausing: budget.Milliseconds()}) }

// Aborting implements handover.Guard.
func (g *Guard) Aborting() { g.tell(message{Aborting: true}) }

// Passed implements handover.Guard.
func (g *Guard) Passed() { g.tell(message{Passed: true}) }

// Child tells of a process group that the guardian must end, should it take over;
// a negative one has ended.
func (g *Guard) Child(group int) { g.tell(message{Child: group}) }

// endTimeout bounds the wait for a guardian that has been dismissed.
const endTimeout = 5 * time.Second

// End implements handover.Guard. A dismissed guardian is waited for: nothing of
// ours keeps running. One that takes over is left alone.
func (g *Guard) End(finished bool) {
	if g.cmd == nil {
		return
	}
	close(g.beats)
	g.beat.Wait()
	if finished {
		g.tell(message{Finished: true})
	}
	g.mu.Lock()
	g.pipe.Close()
	g.pipe = nil
	g.mu.Unlock()
	if finished {
		kill := time.AfterFunc(endTimeout, func() { _ = g.cmd.Process.Kill() })
		_ = g.cmd.Wait()
		kill.Stop()
	}
	g.cmd = nil
}
