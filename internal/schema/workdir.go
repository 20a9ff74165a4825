package schema

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// WorkDir makes a temporary directory for archives, and removes those of processes
// that were killed: with method dump there are rows in them.
func WorkDir() (string, error) {
	removeStale()
	return os.MkdirTemp("", fmt.Sprintf("pgbaton-%d-", os.Getpid()))
}

func removeStale() {
	found, _ := filepath.Glob(filepath.Join(os.TempDir(), "pgbaton-[0-9]*-*")) // the only error is a bad pattern
	for _, dir := range found {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(dir), "pgbaton-%d-", &pid); err != nil || syscall.Kill(pid, 0) != syscall.ESRCH {
			continue
		}
		os.RemoveAll(dir) // somebody else's stays: we may not
	}
}
