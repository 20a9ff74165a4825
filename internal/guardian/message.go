package guardian

import (
	"encoding/json"

	"pgbaton/internal/handover"
)

// message is what the guarded process tells, one JSON object per line.
type message struct {
	// The first: who it is, and what is to be done, for the guardian's program.
	PID  int             `json:"pid,omitempty"`
	Task json.RawMessage `json:"task,omitempty"`

	Ward     *handover.Ward `json:"ward,omitempty"`
	Pausing  int64          `json:"pausing_ms,omitempty"` // the budget, which runs from now
	Aborting bool           `json:"aborting,omitempty"`
	Passed   bool           `json:"passed,omitempty"`
	Child    int            `json:"child,omitempty"` // a process group that began, or its negative when it ended
	Alive    bool           `json:"alive,omitempty"`
	Finished bool           `json:"finished,omitempty"`
}

// readyLine is what the guardian answers when it stands by.
const readyLine = "ready\n"
