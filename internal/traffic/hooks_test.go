package traffic

import (
	"os"
	"path/filepath"
	"testing"
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
