package handover_test

// guardianSteps is guardian.Watch and TakeOver. It seizes the two locks one after
// the other; the code does both at once, which differs from this only in who
// notices first.
func guardianSteps(steps *[waits]step) {
	steps[gWatch] = step{on: nowhere, text: "takes over (watcher.overdue, takeOver)", do: func(e *exec) pc {
		switch a := &e.s.proc[command]; {
		case a.life == runs && a.at != uAgain:
			return waits // a budget that is over is a fault of the world
		default:
			return gSeizeHolder // it ended, or hangs
		}
	}}
	steps[gSeizeHolder] = step{on: nowhere, text: "ends the command's session on the holder, or takes the lock there (seize)", do: func(e *exec) pc {
		if !e.h.up {
			e.p.missed = true
		}
		return e.seizeLock(e.x, gSeizeTaker)
	}}
	steps[gSeizeTaker] = step{on: nowhere, text: "ends the command's session on the taker, or takes the lock there (seize)", do: func(e *exec) pc {
		return e.seizeLock(e.y, gKill)
	}}
	steps[gKill] = step{on: nowhere, text: "kills the command (watcher.kill)", do: func(e *exec) pc {
		if a := &e.s.proc[command]; a.life != absent {
			a.life = killed
		}
		return gRead
	}}
	steps[gRead] = step{on: nowhere, text: "raises the attempt and reads the baton (readBaton)", do: readBaton}
}

// seizeLock is handover.seize by a guardian, which knows the command's sessions.
func (e *exec) seizeLock(x uint8, next pc) pc {
	o := e.s.owner(x)
	switch {
	case !e.s.side[x].up:
		return next
	case e.has(noLock):
		e.p.conn[x] = connOpen // acts without waiting for the old session's end
		return next
	case o == command:
		e.s.proc[command].conn[x] = connNone
		return e.p.at
	case o >= 0 && e.has(givesUp):
		return finished // Superseded, whoever it is
	case o >= 0:
		return waits
	}
	e.p.conn[x] = connLock
	return next
}

// superseded is the end of a guardian that has nothing to do, but that the command
// which it has killed may have held traffic back once more.
func (e *exec) superseded() pc {
	if e.has(looksOnce) {
		return finished
	}
	return e.end()
}

// readBaton never guesses.
func readBaton(e *exec) pc {
	if e.p.conn[e.x] == connNone {
		switch {
		case e.p.conn[e.y] == connNone:
			return unfinished
		case e.t.gen > e.p.gen+1:
			return e.superseded()
		case e.t.took && e.t.gen == e.p.gen+1:
			e.p.passed = true
			return fDisable
		}
		return unfinished
	}
	if !e.p.known[e.x] && !e.has(noAttempt) {
		return e.superseded()
	}
	if !e.has(holderAlone) {
		switch {
		case e.p.conn[e.y] == connNone && e.p.missed:
			return unfinished // the other side may have been given the baton by force
		case e.p.conn[e.y] != connNone && e.t.took && e.t.gen > e.h.gen:
			return e.superseded()
		}
	}
	if !e.has(noLock) {
		e.s.raise(e.p, e.x)
	}
	switch {
	case e.has(onlyBack) && e.h.handed:
		return e.superseded()
	case e.h.handed && e.h.gen == e.p.gen+1 && e.p.conn[e.y] == connNone:
		return unfinished // the taker cannot be opened
	case e.h.handed && e.h.gen == e.p.gen+1:
		e.p.passed = true
		return fDisable
	case e.h.took && e.h.gen == e.p.gen:
		return uTaker // undoDead
	}
	return e.superseded()
}
