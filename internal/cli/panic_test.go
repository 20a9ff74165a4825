package cli_test

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"pgbaton/internal/cli"
	"pgbaton/internal/pgtest"
)

// panicky is the program with a fault: its standard output panics at the text in
// PANIC_AT, in whatever goroutine writes it. Its guardian has none.
func panicky() {
	var stdout interface{ Write([]byte) (int, error) } = os.Stdout
	if at := os.Getenv("PANIC_AT"); !slices.Contains(os.Args, "guardian") {
		stdout = &panicAt{text: at}
	}
	os.Exit(cli.Run(context.Background(), os.Args[1:], os.Stdin, stdout, os.Stderr))
}

type panicAt struct{ text string }

func (p *panicAt) Write(b []byte) (int, error) {
	if p.text != "" && strings.Contains(string(b), p.text) {
		p.text = ""
		var nothing []int
		_ = nothing[len(b)]
	}
	return os.Stdout.Write(b)
}

// panics runs a command that panics, and requires exit 1 with a report.
func (m *move) panics(at string, args ...string) {
	m.t.Helper()
	o := m.options(append(args, "--json")...)
	program, err := exec.LookPath("pgbaton-panicky") // of TestMain
	if err != nil {
		m.t.Fatal(err)
	}
	o.Program = program
	o.Env = append(o.Env, "PANIC_AT="+at)
	r := pgtest.Run(m.t, o)
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	last := lines[len(lines)-1]
	if r.Code != 1 || !strings.Contains(last, `"type":"result"`) || !strings.Contains(last, "index out of range") || !strings.Contains(r.Stderr, "panic_test.go") {
		m.t.Fatalf("%s", r)
	}
}

// TestPanic: a panic, in whatever goroutine, ends as a failure that says what stands;
// a handover that it interrupts is undone or completed by the guardian.
func TestPanic(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 17)
	m.loadApp()
	m.panics(`"step_began","step":"publication"`, "start")
	m.panics(`"type":"progress"`, "start", "--max-rate", "1MB") // of a goroutine of its own
	if s := m.result(0, "start"); s["phase"] != "streaming" {
		t.Fatalf("start: %v", s)
	}
	m.panics(`"phase_ended","phase":"fence"`, "switchover", "--yes")
	m.settled("source", "streaming")
	m.panics(`"phase_ended","phase":"pass"`, "switchover", "--yes")
	m.settled("target", "switched")
	m.run(0, "finish", "--yes")
}

// settled waits until the guardian is done.
func (m *move) settled(side, phase string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), m.options().Timeout)
	defer cancel()
	for {
		s := m.result(0, "status")
		if sides := m.writable(ctx); s["phase"] == phase && s["baton"] == side && slices.Equal(sides, []string{side}) {
			return
		}
		if ctx.Err() != nil {
			m.t.Fatalf("the guardian does not bring the %s to serve: %v", side, s)
		}
	}
}
