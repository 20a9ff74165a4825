package handover

import (
	"context"
	"slices"

	"pgbaton/internal/plan"
)

// This file is the table of a handover. Whoever runs it, takes it back, rehearses or
// plans it, walks along the table (engine.go); there is no other list of the phases.

// phase is a row: all that there is to say of a phase. Rows are written without the
// names of the columns, so that none can be forgotten.
type phase struct {
	name string
	when when
	do   func(*run, context.Context) error
	// left says whether a handover that died may have left something of this phase;
	// nil where nothing can be left.
	left func(*run, context.Context) (bool, error)
	// undo takes it back before the holder serves again; later, when nobody waits any
	// more, what has time until then: that keeps nobody from anything.
	undo  undo
	later func(*run, context.Context) error
	// rehearse measures it without doing it; nil where nobody waits, or where another
	// row says it too.
	rehearse func(*run, context.Context) (Part, error)
	// plan lists the statements that change something, and what is done elsewhere.
	plan func(*planner, context.Context) ([]plan.Action, error)
}

// when is where a phase lies.
type when int

const (
	before when = iota // nobody waits yet
	within             // applications wait, and the phase can be taken back
	passes             // the pass
	behind             // there is only forward
)

// undo takes a phase back.
type undo struct {
	do    func(*run, context.Context) error
	fails fails
}

// fails is what it means when a phase cannot be taken back.
type fails int

const (
	closes  fails = iota // the holder does not serve
	holds                // applications wait
	retried              // later it is tried once more, which tells
)

// nothing is to be taken back.
var nothing undo

// table has the phases in order.
var table = []phase{
	{PhaseReady, before, (*run).ready, nil, nothing, nil, nil, (*planner).ready},
	{PhasePrepare, before, (*run).prepare, nil, nothing, (*run).undoPrepare, nil, (*planner).prepare},
	{PhasePause, within, (*run).pause, (*run).leftPaused, undo{(*run).undoPause, holds}, nil, (*run).rehearsePause, (*planner).pause},
	{PhaseFence, within, (*run).fence, (*run).leftFenced, undo{(*run).undoFence, closes}, nil, (*run).rehearseFence, (*planner).fence},
	{PhaseDrain, within, (*run).drain, nil, nothing, nil, (*run).rehearseDrain, (*planner).drain},
	{PhaseSequences, within, (*run).setSequences, nil, nothing, nil, (*run).rehearseSequences, (*planner).sequences},
	{PhaseWayBack, within, (*run).wayBack, (*run).leftStream, undo{(*run).undoWayBack, retried}, (*run).flowAgain, (*run).rehearseWayBack, (*planner).wayBack},
	{PhasePass, passes, (*run).pass, nil, nothing, nil, (*run).rehearsePass, (*planner).pass},
	{PhaseOpen, behind, (*run).open, nil, nothing, nil, (*run).rehearseOpen, (*planner).open},
	{PhaseSwitch, behind, (*run).switchTraffic, nil, nothing, nil, (*run).rehearseMove, (*planner).switchTraffic},
	{PhaseResume, behind, (*run).resume, nil, nothing, nil, nil, (*planner).resume},
	{PhaseSettle, behind, (*run).settle, nil, nothing, nil, nil, (*planner).settle},
}

// row is the phase of a name.
func row(name string) phase {
	return table[slices.IndexFunc(table, func(p phase) bool { return p.name == name })]
}

// rows are the phases that lie there, in order.
func rows(places ...when) (found []phase) {
	for _, p := range table {
		if slices.Contains(places, p.when) {
			found = append(found, p)
		}
	}
	return found
}

// Phases lists the names of the phases in order.
func Phases() (all []string) {
	for _, p := range table {
		all = append(all, p.name)
	}
	return all
}
