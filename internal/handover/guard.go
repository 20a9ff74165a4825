package handover

import (
	"context"
	"time"

	"pgbaton/internal/catalog"
	"pgbaton/internal/replication"
)

// Guard stands by while a handover runs: a process of its own that takes over
// when this one is gone, hangs, or is over its budget (rule 6).
type Guard interface {
	// Start makes it ready and returns its process id. Nobody waits yet.
	Start(context.Context, Ward) (pid int, err error)
	// Seen tells it that the handover goes on with other sessions.
	Seen(Ward)
	// Pausing says that the budget begins to run.
	Pausing(budget time.Duration)
	// Aborting says that the phases are being undone, which has bounds of its own.
	Aborting()
	// Passed says that there is only forward: the budget is no reason any more.
	Passed()
	// End dismisses it; unless the handover is finished, it takes over now.
	End(finished bool)
}

// Ward is what a guardian must know to take over from a process.
type Ward struct {
	ID         string `json:"id"` // of the migration
	Label      string `json:"label"`
	Generation int64  `json:"generation"`
	Attempt    int64  `json:"attempt"`
	HolderPID  uint32 `json:"holder_pid"` // of the sessions that hold the lock
	TakerPID   uint32 `json:"taker_pid"`

	Groups    []replication.Group `json:"groups"`
	Selection catalog.Selection   `json:"selection"`

	// Of the guardian itself, from try to try.
	by    string // who has raised the attempt
	blind bool   // the holder was out of reach once: others may have acted without it
}

func (g *grip) ward() Ward {
	return Ward{ID: g.id, Label: g.c.Label, Generation: g.generation, Attempt: g.attempt, HolderPID: pid(g.holder), TakerPID: pid(g.taker),
		Groups: g.c.Groups, Selection: g.c.Selection}
}
