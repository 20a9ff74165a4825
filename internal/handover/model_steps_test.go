package handover_test

import "pgbaton/internal/handover"

// pc is where a process is: the next statement that it runs.
type pc uint8

const (
	// A command begins.
	cStale pc = iota
	cStaleLock
	cStaleRaise
	cStaleEvict
	cStaleRecord
	cLockSource
	cLockTarget
	cBegin
	cBeginOther
	cForce
	// It hands over.
	cFlow
	cReady
	cPrepare
	cMakeBack
	cGuard
	cNotePause
	cPause
	cFence
	cEvict
	cMarker
	cDrained
	cSeqRead
	cSeqSet
	cDisable
	cDisabled
	cSlot
	cDurable
	cPass
	cAsk
	// Forward from the pass.
	fDisable
	fDisabled
	fTake
	fLift
	fWaits
	fSwitch
	fPing
	fResume
	fMoved
	fAsk
	fHolder
	fEnable
	fUnpause
	fDropSub
	fDropSlot
	// Undoing.
	uRaise
	uTaker
	uDropSlot
	uLift
	uAskPause
	uAbort
	uUnpause
	uAgain
	uFlow
	uEnable
	uDropBackSub
	uPrepTaker
	uDropBackSlot
	// The guardian.
	gWatch
	gSeizeHolder
	gSeizeTaker
	gKill
	gRead

	waits      // the step cannot be made yet
	unfinished // the process ends, and something is left to be done
	finished   // the process ends
)

// where a statement runs. One that has no live session there fails.
type where uint8

const (
	nowhere  where = iota // in the process, or it looks after its session itself
	onHolder              // on the session r.holder
	onTaker               // on the session r.taker
	onStale               // FenceStale's session
	mine                  // on r.holder after run.mine: reconnects, and asks whose the handover is
)

// step is one statement that matters, or several of which it does not matter
// that somebody comes in between: all on one session that holds the lock.
type step struct {
	phase string
	text  string // for the trace; the function that it stands for in brackets
	on    where
	do    func(e *exec) pc
	fail  func(e *exec) pc // when the statement fails; nil: to the next step
}

// exec is one step of one process being made.
type exec struct {
	*model
	s    *state
	p    *process
	i    int
	x, y uint8 // the holder's and the taker's side
	h, t *side
}

// change is called by what changes a side. A process whose attempt is outdated may
// only while it holds the lock and the baton has not moved: then nobody else is at
// work.
func (e *exec) change(x uint8) {
	moved := e.h.gen > e.p.gen || e.t.gen > e.p.gen
	if !e.p.known[e.x] && (moved || e.p.conn[x] != connLock) {
		e.s.bad |= outdated
	}
}

// Where a failure leads.
func ends(*exec) pc   { return finished }
func breaks(*exec) pc { return unfinished }

// aborts is run.abort, from the undo of the phase that failed.
func aborts(at pc) func(*exec) pc {
	return func(e *exec) pc {
		e.p.task = aborting
		e.s.proc[guard].later = e.i == command || e.s.proc[guard].later
		return at
	}
}

// loses is an undo that failed: an abort goes on with the next one, begin gives
// up, the guardian tries again from the beginning.
func loses(next pc) func(*exec) pc {
	return func(e *exec) pc {
		if e.p.task != aborting {
			return unfinished
		}
		e.p.lost = true
		return next
	}
}

// takenOver is errTakenOver: whoever took over has undone it, or goes forward.
func (e *exec) takenOver() pc {
	if e.p.task != aborting {
		return unfinished
	}
	e.p.lost = false
	return e.end()
}

var steps [waits]step

func init() {
	steps = [waits]step{
		// cli.withMigration: before the locks, a side that came back stale is fenced.
		cStale:       {on: nowhere, text: "looks for a stale side (FenceStale)", do: lookStale},
		cStaleLock:   {on: nowhere, text: "takes the stale side's lock (FenceStale)", do: lockStale},
		cStaleRaise:  {on: onStale, text: "fences the stale side (FenceStale)", do: raiseStale, fail: breaks},
		cStaleEvict:  {on: onStale, text: "evicts the stale side's sessions (FenceStale)", do: evictStale, fail: breaks},
		cStaleRecord: {on: onStale, text: "records that the side is stale (StaleSQL)", do: recordStale, fail: breaks},
		cLockSource:  {on: nowhere, text: "locks the source (Sessions.Lock)", do: lockSide(source, cLockTarget)},
		cLockTarget:  {on: nowhere, text: "locks the target (Sessions.Lock)", do: lockSide(target, cBegin)},
		cBegin:       {on: onHolder, text: "reads the holder's record (begin)", do: begin, fail: ends},
		cBeginOther:  {on: onTaker, text: "reads the taker's record (begin)", do: beginTheOther, fail: breaks},
		cForce:       {on: onTaker, text: "ends the stream and raises the sequences (prepareByForce)", do: takeByForce, fail: breaks},

		cFlow:  {phase: handover.PhaseReady, on: onTaker, text: "lets the stream flow that a handover has left disabled (readyStreams)", do: flow(cReady), fail: ends},
		cReady: {phase: handover.PhaseReady, on: onHolder, text: "finds all ready (ready)", do: ready, fail: ends},
		cPrepare: {phase: handover.PhasePrepare, on: onHolder, text: "raises the attempt (prepare)", fail: aborts(uDropBackSub), do: func(e *exec) pc {
			e.s.raise(e.p, e.x)
			e.p.task = preparing
			return uDropBackSub // then cMakeBack
		}},
		cMakeBack: {phase: handover.PhasePrepare, on: onHolder, text: "makes the way back's subscription, disabled (prepareBack)", fail: aborts(uDropBackSub), do: func(e *exec) pc {
			e.change(e.x)
			e.h.sub = subDisabled
			if e.i == elsewhere {
				return cNotePause // nobody guards it
			}
			return cGuard
		}},
		cGuard: {phase: handover.PhasePrepare, on: nowhere, text: "starts the guardian (Guard.Start)", do: startGuard},
		cNotePause: {phase: handover.PhasePrepare, on: onHolder, text: "notes the pause in the journal (notePause)", fail: aborts(uDropBackSub), do: func(e *exec) pc {
			e.h.paused = true
			return cPause
		}},
		cPause: {phase: handover.PhasePause, on: nowhere, text: "holds traffic back (Traffic.Pause)", do: func(e *exec) pc {
			e.s.held, e.p.ordered = true, true
			return cFence
		}},
		cFence: {phase: handover.PhaseFence, on: onHolder, text: "commits the fence (fence.Raise)", fail: aborts(uLift), do: func(e *exec) pc {
			e.change(e.x)
			e.h.fenced = true
			return cEvict
		}},
		cEvict: {phase: handover.PhaseFence, on: onHolder, text: "evicts every session (fence.Barrier, Evict)", fail: aborts(uLift), do: func(e *exec) pc {
			if !e.has(noEvict) {
				e.h.sessions = false
				e.evictOurs()
			}
			return cMarker
		}},
		cMarker: {phase: handover.PhaseDrain, on: onHolder, text: "writes the marker (drain)", fail: aborts(uLift), do: func(e *exec) pc {
			e.p.need = e.h.rows
			e.s.flush(e.x)
			return cDrained
		}},
		cDrained: {phase: handover.PhaseDrain, on: onTaker, text: "sees the marker on the taker (drain)", fail: aborts(uLift), do: func(e *exec) pc {
			if e.p.need&^e.t.rows != 0 && !e.has(noDrain) {
				return waits
			}
			e.p.need = 0
			return cSeqRead
		}},
		cSeqRead: {phase: handover.PhaseSequences, on: onHolder, text: "reads the sequences (setSequences)", fail: aborts(uLift), do: func(e *exec) pc {
			e.p.seq = e.h.seq
			return cSeqSet
		}},
		cSeqSet: {phase: handover.PhaseSequences, on: onTaker, text: "sets the taker's sequences (setSequences)", fail: aborts(uLift), do: func(e *exec) pc {
			e.change(e.y)
			e.t.seq, e.p.seq = e.p.seq, 0
			return cDisable
		}},
		cDisable: {phase: handover.PhaseWayBack, on: onTaker, text: "disables the stream to the taker (wayBack)", fail: aborts(uTaker), do: func(e *exec) pc {
			e.change(e.y)
			if e.t.sub == subEnabled && !e.has(streamLeft) {
				e.t.sub = subEnding
			}
			return cDisabled
		}},
		cDisabled: {phase: handover.PhaseWayBack, on: onTaker, text: "waits until the worker is gone (SetEnabled)", fail: aborts(uTaker), do: workerGone(cSlot)},
		cSlot: {phase: handover.PhaseWayBack, on: onTaker, text: "makes the way back's slot (CreateSlotHere)", fail: aborts(uTaker), do: func(e *exec) pc {
			e.change(e.y)
			if !e.has(lateSlot) {
				e.t.slot = true
			}
			return cDurable
		}},
		cDurable: {phase: handover.PhaseWayBack, on: onTaker, text: "makes durable what was applied (durable)", fail: aborts(uTaker), do: func(e *exec) pc {
			if !e.has(noDurable) {
				e.s.flush(e.y)
			}
			return cPass
		}},
		cPass: {phase: handover.PhasePass, on: onHolder, text: "commits the pass (PassSQL)", fail: aborts(uTaker), do: pass},
		cAsk:  {phase: handover.PhasePass, on: mine, text: "asks whether the baton has passed (askForPass)", do: askForPass, fail: breaks},
	}
	undoSteps(&steps)
	forwardSteps(&steps)
	guardianSteps(&steps)
}

// startGuard is the end of prepare.
func startGuard(e *exec) pc {
	e.s.proc[guard] = process{life: runs, at: gWatch, holder: e.p.holder, task: guarding, gen: e.p.gen, known: e.p.known}
	return cNotePause
}

// workerGone ends a disabled subscription's worker.
func workerGone(next pc) func(*exec) pc {
	return func(e *exec) pc {
		if e.t.sub == subEnding {
			e.t.sub = subDisabled
		}
		return next
	}
}

// evictOurs is what fence.Evict does to sessions of ours without the lock.
func (e *exec) evictOurs() {
	for i := range e.s.proc {
		if e.s.proc[i].conn[e.x] == connOpen {
			e.s.proc[i].conn[e.x] = connNone
		}
	}
}

// pass is PassSQL, and its commit.
func pass(e *exec) pc {
	if !e.h.took || e.h.gen != e.p.gen || !e.p.known[e.x] && !e.has(noAttempt) {
		return aborts(uTaker)(e)
	}
	e.change(e.x)
	e.h.gen, e.h.took, e.h.handed = e.h.gen+1, false, true
	e.s.flush(e.x)
	e.p.passed = true
	e.s.proc[guard].later = e.i == command || e.s.proc[guard].later
	return fDisable
}

// askForPass is what follows run.mine in askForPass.
func askForPass(e *exec) pc {
	if e.h.handed && e.h.gen == e.p.gen+1 {
		e.p.passed = true
		return fDisable
	}
	return aborts(uTaker)(e)
}
