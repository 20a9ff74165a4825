package handover_test

import "pgbaton/internal/handover"

// seize is handover.seize: the process's own old session is ended, the lock
// acquired. Somebody else who has it need not have taken the handover over: that
// the attempt tells.
func (e *exec) seize(x uint8) (ok, others bool) {
	switch o := e.s.owner(x); {
	case !e.s.side[x].up:
		return false, false
	case o >= 0 && o != e.i:
		return false, e.has(givesUp | ownerTakesOver)
	}
	e.p.conn[x] = connLock
	return true, false
}

// askMine is run.mine: a session with the lock on the holder, and the attempt. A
// holder that was away asks for more: the taker may have been given the baton.
func (e *exec) askMine() (ok, others bool) {
	if e.p.conn[e.x] == connNone {
		if ok, others = e.seize(e.x); !ok {
			return ok, others
		}
		if !e.has(holderAlone | takerUnlocked) {
			if ok, others = e.aliveTaker(); !ok {
				return ok, others
			}
		}
	}
	if !e.p.known[e.x] && !e.has(noAttempt) {
		return false, true
	}
	return true, false
}

// aliveTaker is run.aliveTaker: a session with the lock on the taker, which has
// not taken a generation that is not ours to give.
func (e *exec) aliveTaker() (ok, others bool) {
	switch {
	case e.p.conn[e.y] != connNone:
		return true, false
	case e.has(takerUnlocked) && e.t.up:
		e.p.conn[e.y] = connOpen
		return true, false
	}
	if ok, others = e.seize(e.y); !ok {
		return ok, others
	}
	switch {
	case e.t.gen > e.p.gen:
		return false, true
	case e.has(takerUnasked):
		return true, false
	}
	// Between pass and take only the holder's attempt tells that all has moved on.
	// Asked when the taker's lock is held: from here on nobody can take over
	// without ending this session.
	return e.p.conn[e.x] != connNone && (e.p.known[e.x] || e.has(noAttempt)), !e.p.known[e.x] && !e.has(noAttempt)
}

// needTaker goes on when there is a session on the taker.
func (e *exec) needTaker(next pc) pc {
	ok, others := e.aliveTaker()
	switch {
	case others:
		return e.takenOver()
	case !ok:
		return steps[e.p.at].fail(e)
	}
	return next
}

func then(next pc) func(*exec) pc { return func(*exec) pc { return next } }

func undoSteps(steps *[waits]step) {
	// undoLeftovers
	steps[uRaise] = step{on: onHolder, text: "takes an earlier handover over: raises the attempt (undoLeftovers)", fail: breaks, do: func(e *exec) pc {
		e.s.raise(e.p, e.x)
		if e.h.fenced {
			return uTaker
		}
		return uAskPause
	}}
	// undoWayBack: a taker that is down does not keep the holder from serving.
	steps[uTaker] = step{phase: "undo " + handover.PhaseWayBack, on: mine, text: "makes sure of a session on the taker (undoWayBack, aliveTaker)", fail: then(uLift), do: func(e *exec) pc {
		return e.needTaker(uDropSlot)
	}}
	steps[uDropSlot] = step{phase: "undo " + handover.PhaseWayBack, on: onTaker, text: "drops the way back's slot (undoWayBack)", fail: then(uLift), do: func(e *exec) pc {
		e.change(e.y)
		e.t.slot, e.t.pending, e.t.sent = false, 0, 0
		return uLift
	}}
	steps[uLift] = step{phase: "undo " + handover.PhaseFence, on: mine, text: "lifts the holder's fence (undoFence)", fail: loses(uAskPause), do: func(e *exec) pc {
		e.change(e.x)
		e.h.fenced, e.h.sessions = false, true
		if e.p.task == guarding && !e.h.paused {
			return uFlow
		}
		return uAskPause
	}}
	steps[uAskPause] = step{phase: "undo " + handover.PhasePause, on: mine, text: "asks whether traffic is its own (undoPause, mine)", fail: loses(uFlow), do: func(e *exec) pc {
		e.p.asked = !e.has(noQuestion)
		return uAbort
	}}
	steps[uAbort] = step{phase: "undo " + handover.PhasePause, on: nowhere, text: "lets traffic go to the holder (Traffic.Abort)", do: func(e *exec) pc {
		e.order()
		e.s.held, e.s.points, e.p.ordered = false, e.x, false
		return uUnpause
	}}
	steps[uUnpause] = step{phase: "undo " + handover.PhasePause, on: onHolder, text: "deletes the note of the pause (undoPause)", fail: loses(uFlow), do: func(e *exec) pc {
		e.h.paused = false
		return uFlow
	}}
	// flowAgain: nobody waits any more. A taker that is down is left to the next command.
	steps[uFlow] = step{phase: "undo " + handover.PhaseWayBack, on: mine, text: "makes sure of a session on the taker once more (letFlow, aliveTaker)", fail: undone, do: func(e *exec) pc {
		return e.needTaker(uEnable)
	}}
	steps[uEnable] = step{phase: "undo " + handover.PhaseWayBack, on: onTaker, text: "drops the way back's slot, if it is still there, and enables the stream to the taker (letFlow)", fail: undone, do: func(e *exec) pc {
		flow(uEnable)(e)
		return undone(e)
	}}
	// A process that could not undo its pause, because the handover is another's by
	// now or the holder is out of reach. The guardian has been told already.
	steps[uAgain] = step{phase: "undo " + handover.PhasePause, on: nowhere, text: "looks whether traffic is held back for nobody, and lets it go", do: func(e *exec) pc {
		switch {
		case e.has(looksOnce) && e.p.task == aborting: // letGoLate
			e.s.held = e.s.held && (!e.h.up || e.h.paused)
			return finished
		case !e.h.up || !e.t.up:
			return waits
		}
		for x := range e.s.side {
			d, o := &e.s.side[x], &e.s.side[1-x]
			if d.took && (d.paused || d.moving) || d.handed && d.gen > o.gen {
				if e.p.known[x] {
					return unfinished // its own: the guardian, or a re-run
				}
				return waits // whoever has it now will let traffic go
			}
		}
		e.s.held = false
		if e.p.lost {
			return unfinished
		}
		return finished
	}}
	steps[uDropBackSub] = step{phase: "undo " + handover.PhasePrepare, on: mine, text: "drops the way back's subscription (undoPrepare)", fail: prepareLost, do: func(e *exec) pc {
		e.change(e.x)
		e.h.sub = subNone
		return uPrepTaker
	}}
	steps[uPrepTaker] = step{phase: "undo " + handover.PhasePrepare, on: nowhere, text: "makes sure of a session on the taker (undoPrepare, aliveTaker)", fail: prepareLost, do: func(e *exec) pc {
		return e.needTaker(uDropBackSlot)
	}}
	steps[uDropBackSlot] = step{phase: "undo " + handover.PhasePrepare, on: onTaker, text: "drops the way back's slot (undoPrepare)", fail: prepareLost, do: func(e *exec) pc {
		e.change(e.y)
		e.t.slot, e.t.pending, e.t.sent = false, 0, 0
		if e.p.task == preparing {
			e.p.task = handing
			return cMakeBack
		}
		return prepareLost(e)
	}}
}

// flow is clearBack and enableStream.
func flow(next pc) func(*exec) pc {
	return func(e *exec) pc {
		if e.t.sub == subDisabled || e.t.sub == subEnding {
			e.change(e.y)
			e.t.slot, e.t.pending, e.t.sent = false, 0, 0
			e.t.sub = subEnabled
		}
		return next
	}
}

// undone is what follows when the holder serves again.
func undone(e *exec) pc {
	switch e.p.task {
	case beginning:
		e.p.task = handing
		return cBeginOther
	case beginOther:
		e.p.task = handing
		return begun(e)
	}
	return uDropBackSub
}

// prepareLost ends an abort: what is left of prepare, the next handover makes
// anew. It fails a prepare that begins.
func prepareLost(e *exec) pc {
	switch {
	case e.p.task == preparing && e.p.at == uDropBackSub:
		e.p.task = aborting
		return finished // its undo is the very thing that failed
	case e.p.task == preparing:
		return aborts(uDropBackSub)(e)
	}
	return e.end()
}

// end is the end of an abort or of a guardian. Either looks at traffic once more:
// an order of its own, or of the command that it has killed, may have come late.
func (e *exec) end() pc {
	if e.p.lost && (e.i == elsewhere || e.s.proc[guard].life == absent) {
		e.s.unattended = true
	}
	switch {
	case e.p.lost && e.has(looksOnce):
		return unfinished
	case !e.has(pauseLeft) && (e.p.ordered || e.p.task == guarding):
		e.p.conn = [2]uint8{} // whoever has the handover needs the locks
		return uAgain
	case e.p.lost:
		return unfinished
	}
	return finished
}

// order notes that a process moves traffic. Between its last question and the
// order it may have been stopped, and the handover taken over: that nobody can
// prevent. Without a question it is a defect.
func (e *exec) order() {
	if !e.p.known[e.x] || e.p.passed && e.t.gen != e.p.gen+1 {
		e.s.late = true
		if !e.p.asked {
			e.s.bad |= outdated
		}
	}
	e.p.asked = false
}

func forwardSteps(steps *[waits]step) {
	steps[fDisable] = step{phase: handover.PhaseOpen, on: onTaker, text: "disables the stream to the taker once more (open)", fail: breaks, do: func(e *exec) pc {
		if e.t.sub == subEnabled && !e.has(streamLeft) {
			e.t.sub = subEnding
		}
		if e.t.sub != subEnding {
			return steps[fDisabled].do(e) // there is no worker to wait for
		}
		return fDisabled
	}}
	steps[fDisabled] = step{phase: handover.PhaseOpen, on: onTaker, text: "waits until the worker is gone (open)", fail: breaks, do: func(e *exec) pc {
		if e.has(openFirst) {
			return workerGone(fLift)(e)
		}
		return workerGone(fTake)(e)
	}}
	steps[fTake] = step{phase: handover.PhaseOpen, on: onTaker, text: "records that it took the baton (TakeSQL)", fail: breaks, do: take}
	steps[fLift] = step{phase: handover.PhaseOpen, on: onTaker, text: "lifts the taker's fence (open)", fail: breaks, do: func(e *exec) pc {
		if e.t.fenced {
			e.t.fenced, e.t.sessions = false, true
		}
		if e.has(openFirst) && e.t.gen <= e.p.gen {
			return fTake
		}
		return fWaits
	}}
	steps[fWaits] = step{phase: handover.PhaseSwitch, on: onTaker, text: "reads whether traffic is to be moved (TrafficWaits)", fail: trafficLost, do: func(e *exec) pc {
		if e.t.moving {
			e.p.asked = true
			return fSwitch
		}
		return fAsk
	}}
	steps[fSwitch] = step{phase: handover.PhaseSwitch, on: nowhere, text: "points traffic at the taker (Traffic.Switch)", do: func(e *exec) pc {
		e.order()
		e.s.points = e.y
		return fPing
	}}
	steps[fPing] = step{phase: handover.PhaseResume, on: onTaker, text: "asks the taker once more (resume)", fail: trafficLost, do: func(e *exec) pc {
		e.p.asked = true
		return fResume
	}}
	steps[fResume] = step{phase: handover.PhaseResume, on: nowhere, text: "lets traffic go (Traffic.Resume)", do: func(e *exec) pc {
		e.order()
		// PgBouncer that leads elsewhere is paused again (backWhenWrong).
		if e.s.held = e.s.points != e.y; e.s.held {
			return trafficLost(e)
		}
		e.p.ordered = false
		return fMoved
	}}
	steps[fMoved] = step{phase: handover.PhaseResume, on: onTaker, text: "notes that traffic was moved (resume)", fail: trafficLost, do: func(e *exec) pc {
		e.t.moving = false
		return fAsk
	}}
	steps[fAsk] = step{phase: handover.PhaseSettle, on: nowhere, text: "begins to tidy up (settle)", do: func(e *exec) pc {
		if e.has(lateSlot) && !e.t.slot && e.p.conn[e.y] != connNone {
			e.t.slot = true
		}
		if !e.has(settleBlind) && !e.tookHere() {
			return settled(e)
		}
		return fHolder
	}}
	steps[fHolder] = step{phase: handover.PhaseSettle, on: nowhere, text: "makes sure of a session on the old holder (enableBack)", do: func(e *exec) pc {
		switch {
		case e.p.conn[e.x] != connNone:
			return fEnable
		case !e.h.up:
			return fDropSub
		case e.has(settleBlind):
			e.p.conn[e.x] = connOpen
			return fEnable
		}
		if ok, _ := e.seize(e.x); !ok {
			return fDropSub
		}
		handed := e.h.handed && e.h.gen == e.p.gen+1
		switch {
		case e.has(settleGoesOn) && handed:
			return fEnable
		case e.has(settleGoesOn):
			return fUnpause // what follows is tried all the same
		case !handed || !e.tookHere():
			return settled(e)
		}
		// Asked when both locks are held: from here on nobody else moves the baton.
		return fEnable
	}}
	steps[fEnable] = step{phase: handover.PhaseSettle, on: onHolder, text: "enables the way back (enableBack)", fail: then(fUnpause), do: func(e *exec) pc {
		if e.h.sub != subNone {
			e.h.sub = subEnabled
		}
		return fUnpause
	}}
	steps[fUnpause] = step{phase: handover.PhaseSettle, on: onHolder, text: "deletes the note of the pause (settle)", fail: then(fDropSub), do: func(e *exec) pc {
		e.h.paused = false
		return fDropSub
	}}
	steps[fDropSub] = step{phase: handover.PhaseSettle, on: onTaker, text: "drops the subscription of the old stream (settle)", fail: then(fDropSlot), do: func(e *exec) pc {
		e.t.sub = subNone
		return fDropSlot
	}}
	steps[fDropSlot] = step{phase: handover.PhaseSettle, on: onHolder, text: "drops the slot of the old stream (settle)", fail: settled, do: func(e *exec) pc {
		e.h.slot, e.h.pending, e.h.sent = false, 0, 0
		return settled(e)
	}}
}

// tookHere asks the taker, on the session that holds its lock, whether it has the
// baton by this very handover.
func (e *exec) tookHere() bool {
	return e.p.conn[e.y] != connNone && e.t.took && e.t.gen == e.p.gen+1
}

// take is open's transaction.
func take(e *exec) pc {
	if e.has(sequencesAgain) && e.p.conn[e.x] != connNone {
		e.t.seq = e.h.seq
	}
	switch {
	case e.t.took && e.t.gen > e.p.gen: // an earlier run has taken it
		return fLift
	case e.t.gen > e.p.gen:
		return unfinished
	}
	e.change(e.y)
	e.t.gen, e.t.took, e.t.handed, e.t.moving = e.p.gen+1, true, false, true
	e.t.paused = false // of an earlier handover, in which this side was the holder
	e.s.flush(e.y)
	if e.p.force {
		e.s.forced = true
		e.h.excused = !e.h.fenced
	}
	if e.has(openFirst) {
		return fWaits
	}
	return fLift
}

// trafficLost is a problem after the pass that leaves traffic where it is.
func trafficLost(e *exec) pc {
	e.p.held = true
	return fAsk
}

// settled is the end of forward. As long as traffic is held back, the guardian goes on.
func settled(e *exec) pc {
	switch {
	case e.p.held && e.i == command && e.has(dismissed):
		return finished
	case e.p.held:
		return unfinished
	}
	return e.end()
}
