package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pgbaton/internal/pgtest"
)

// question is how the program asks whether it may.
const question = "? [y/N]"

// atTerminal runs the program with a terminal, types an answer when it is asked, and
// returns what stood on the terminal.
func (m *move) atTerminal(answer string, args ...string) (said string, code int) {
	m.t.Helper()
	return m.thinking(func() string { return answer }, args...)
}

// thinking does so with a person who does something else before the answer.
func (m *move) thinking(answer func() string, args ...string) (said string, code int) {
	m.t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer ours.Close()
	fd := int(ours.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		m.t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		m.t.Fatal(err)
	}
	theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	o := m.options(args...)
	cmd := exec.CommandContext(m.t.Context(), pgtest.Build(m.t), o.Args...)
	cmd.Env = append(os.Environ(), append(o.Env, "TERM=dumb")...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	theirs.Close()
	var screen bytes.Buffer
	part, answered := make([]byte, 4096), false
	for err == nil {
		if n, err = ours.Read(part); n > 0 {
			screen.Write(part[:n])
		}
		if !answered && strings.Contains(screen.String(), question) {
			answered = true
			if _, err := io.WriteString(ours, answer()+"\n"); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return screen.String(), cmd.ProcessState.ExitCode()
}
