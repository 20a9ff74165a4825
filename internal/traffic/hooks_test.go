package traffic

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgbaton/internal/cluster"
)

// TestHooksCheck: what is wrong with a hook is found before it is needed, and the
// remedy mends it.
func TestHooksCheck(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "lead-there")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	hasReason(t, check(t, Hooks{OnSwitch: "lead-there now"}, Route{}), "the command of --on-switch does not exist: lead-there", "give its full path")
	mustCheck(t, Hooks{OnSwitch: script + " now"}, Route{})
	hasReason(t, check(t, Hooks{OnPause: "echo ("}, Route{}), "the shell cannot read --on-pause", "mend the command")
	mustCheck(t, Hooks{OnPause: "echo '('"}, Route{})
}

// TestLineBreak: a name that no entry of PgBouncer's can hold is found, and hooks lead there, as the
// remedy says.
func TestLineBreak(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	m, r := mover(t, p.pooler(t, "", cluster.PoolerOptions{})), p.route()
	r.To.Database = "shop\n2"
	hasReason(t, check(t, m, r), "cannot be written into an entry", "lead the application there by hooks (--on-pause, --on-switch, --on-resume, --on-abort)")
	told := filepath.Join(t.TempDir(), "told")
	hooks := Hooks{OnSwitch: "printf %s \"$PGBATON_TO_DATABASE\" >" + told}
	mustCheck(t, hooks, r)
	must(t, hooks.Switch, r)
	if text, err := os.ReadFile(told); err != nil || string(text) != r.To.Database {
		t.Errorf("the hook was told %q, %v", text, err)
	}
}

// TestHooksSeeNoSecrets: a hook sees the environment, but for what may hold a secret.
func TestHooksSeeNoSecrets(t *testing.T) {
	t.Setenv("PGBATON_SIGNPOST", "postgresql://me:hunter2@there/")
	t.Setenv("PGBATON_SIGNPOST_COLOUR", "green")
	told := filepath.Join(t.TempDir(), "told")
	hooks := Hooks{OnSwitch: "env >" + told, Surroundings: Surroundings{Secrets: []string{"PGBATON_SIGNPOST"}}}
	must(t, hooks.Switch, Route{Migration: "m"})
	text, err := os.ReadFile(told)
	if err != nil || strings.Contains(string(text), "hunter2") {
		t.Errorf("the hook saw\n%s\n%v", text, err)
	}
	for _, line := range []string{"PGBATON_SIGNPOST_COLOUR=green", "PGBATON_PHASE=switch", "PGBATON_MIGRATION=m"} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("the hook did not see %s, but\n%s", line, text)
		}
	}
}
