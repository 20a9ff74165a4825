package handover_test

// This file has what a command does before it hands over: FenceStale, the locks,
// Run.begin, TakeByForce.

func lookStale(e *exec) pc {
	for x := range e.s.side {
		here, there := &e.s.side[x], &e.s.side[1-x]
		if here.up && there.up && here.took && there.took && here.gen < there.gen {
			e.p.need = uint8(x)
			return cStaleLock
		}
	}
	return cLockSource
}

func lockStale(e *exec) pc {
	if d := &e.s.side[e.p.need]; !d.up || e.s.owner(e.p.need) >= 0 {
		e.p.need = 0
		return cLockSource // whoever has the lock has seen the same
	}
	e.p.conn[e.p.need] = connLock
	return cStaleRaise
}

func raiseStale(e *exec) pc {
	e.s.side[e.p.need].fenced = true
	return cStaleEvict
}

func evictStale(e *exec) pc {
	d := &e.s.side[e.p.need]
	d.sessions, d.excused = false, false
	return cStaleRecord
}

func recordStale(e *exec) pc {
	x := e.p.need
	here, there := &e.s.side[x], &e.s.side[1-x]
	if !here.took || here.gen >= there.gen {
		return unfinished
	}
	here.gen, here.took, here.handed = there.gen, false, true
	for i := range e.s.proc {
		e.s.proc[i].known[x] = false
	}
	e.p.conn[x], e.p.need = connNone, 0
	return cLockSource
}

// lockSide waits for a lock, or refuses after a while. A side that is down is
// refused, but for --holder-lost.
func lockSide(x uint8, next pc) func(*exec) pc {
	return func(e *exec) pc {
		switch {
		case !e.s.side[x].up && !(e.p.force && x == e.p.holder):
			return finished
		case !e.s.side[x].up:
		case e.p.force && x == e.p.holder:
			return finished // it answers: it is not lost
		case e.s.owner(x) >= 0:
			return waits
		default:
			e.p.conn[x] = connLock
		}
		if e.p.force && next == cBegin {
			return cForce
		}
		return next
	}
}

// begin is the first half of Run.begin: the holder's record.
func begin(e *exec) pc {
	switch {
	case !e.has(beginBlind) && (e.h.took && e.t.took || e.h.handed && e.t.gen > e.h.gen):
		return finished // one is stale, or another command is to complete its handover
	case e.h.took:
		// The attempt that it reads is another's; it has none of its own yet.
		e.p.gen = e.h.gen
		if e.h.fenced || e.h.paused {
			e.p.task = beginning
			return uRaise
		}
	case e.h.handed && !e.has(onlyBack):
		e.p.gen, e.p.known[e.x], e.p.passed = e.h.gen-1, true, true
	default:
		return finished // it never had the baton
	}
	return cBeginOther
}

// beginTheOther is the second half: a handover of the other direction that died.
func beginTheOther(e *exec) pc {
	if e.t.took {
		e.p.known[e.y] = true
		if e.t.fenced || e.t.paused {
			e.p.task = beginOther
			return uRaise
		}
	}
	return begun(e)
}

// begun is what Run goes on with.
func begun(e *exec) pc {
	if e.p.passed {
		return fDisable
	}
	return cFlow
}

// takeByForce is TakeByForce up to its forward: what the taker does not have is lost.
func takeByForce(e *exec) pc {
	if e.t.took && e.t.gen == 0 {
		return finished // not modelled: the side that began with the baton
	}
	e.p.gen, e.p.known[e.x], e.p.passed = e.t.gen, true, true
	if e.t.took {
		e.p.gen--
		return fDisable
	}
	if e.t.sub != subNone {
		e.t.sub = subEnding
	}
	e.s.acked = e.t.rows
	e.t.seq = count(e.t.rows)
	return fDisable
}

func ready(e *exec) pc {
	switch {
	case e.p.conn[e.y] == connNone, e.t.sub != subEnabled, !e.h.slot, e.h.gen >= maxGeneration:
		return finished // refused
	}
	return cPrepare
}
