// Package outcome is how a command ends: its exit code, and what to run then.
package outcome

// Exit codes (docs/exit-codes.md). Code 5 is reserved.
const (
	Done      = 0
	Failed    = 1
	Usage     = 2
	NotNow    = 3
	Aborted   = 4
	AfterPass = 6
	Unknown   = 7
)
