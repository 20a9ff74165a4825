package pgtest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestRun uses a shell in place of pgbaton: what is tested is how a program is run.
func TestRun(t *testing.T) {
	t.Setenv("PGHOST", "must not be passed on")
	dir := t.TempDir()
	r := Run(t, RunOptions{
		Program: "/bin/sh", Dir: dir, Stdin: "from stdin",
		Env:  []string{"PGBATON_X=y"},
		Args: []string{"-c", `cat; echo " $PGHOST|$PGBATON_X" ; pwd >&2; exit 7`},
	})
	if r.Code != 7 || r.Stdout != "from stdin |y\n" || strings.TrimSpace(r.Stderr) != dir {
		t.Errorf("%v", r)
	}
}

func TestSpawn(t *testing.T) {
	t.Parallel()
	p := Spawn(t, RunOptions{Program: "/bin/sh", Args: []string{"-c", `trap 'echo ended >&2; exit 3' TERM; echo started; while :; do sleep 0.01; done`}})
	p.AwaitStdout(t, "started\n")
	p.Signal(t, syscall.SIGTERM)
	p.AwaitStderr(t, "ended\n")
	if r := p.Wait(t); r.Code != 3 {
		t.Errorf("%v", r)
	}
}

func TestSameContent(t *testing.T) {
	t.Parallel()
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	if same, err := sameContent(a, b); same || err != nil {
		t.Errorf("no file is the same as another: %v, %v", same, err)
	}
	for _, file := range []string{a, b} {
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if same, err := sameContent(a, b); !same || err != nil {
		t.Errorf("%v, %v", same, err)
	}
}
