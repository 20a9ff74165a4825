package handover_test

import (
	"fmt"
	"math/bits"
	"strings"
)

// The bounds of the model.
const (
	maxWrites     = 3 // commits of applications
	maxGeneration = 2 // there and back
)

func count(set uint8) uint8 { return uint8(bits.OnesCount8(set)) }

// model is the handover with none, or some, of its defects.
type model struct {
	defects   defect
	rollback  bool // other commands are rollbacks, too
	byForce   bool // an operator may say --holder-lost
	maxFaults uint8
	writes    uint8
}

func (m *model) has(d defect) bool { return m.defects&d != 0 }

// event is what leads from one state to another.
type event struct {
	kind                  kind
	who, what, where, how string
}

type kind uint8

const (
	work  kind = iota // a process, a server or a worker gets on
	offer             // what an operator or an application may do, and need not
	fault             // their number is bounded
)

// String tells it in a trace.
func (v event) String() string { return strings.TrimPrefix(v.who+" "+v.what, " ") + v.where + v.how }

var (
	processNames = [processes]string{"the command", "the guardian", "the re-run"}
	sideNames    = [2]string{"the source", "the target"}
)

// emit takes a state that can follow, and what leads there.
type emit func(next *state, v event)

// next lists every state that can follow one.
func (m *model) next(s *state, out emit) {
	for i := range s.proc {
		m.process(s, i, out)
	}
	m.operator(s, out)
	m.world(s, out)
	if s.faults > 0 {
		m.faults(s, func(n *state, v event) {
			n.faults--
			v.kind = fault
			out(n, v)
		})
	}
}

// process makes the next step of one process.
func (m *model) process(s *state, i int, out emit) {
	name := processNames[i]
	switch p := &s.proc[i]; p.life {
	case runs:
		m.step(s, i, out)
	case stopped:
		n := *s
		n.proc[i].life = runs
		out(&n, event{who: name, what: "is woken"})
		for x := range s.side {
			if p.conn[x] != connNone {
				n := *s
				n.proc[i].conn[x] = connNone
				out(&n, event{who: name, what: "is stopped, and its session ends on ", where: sideNames[x]})
			}
		}
	case killed:
		n := *s
		n.proc[i] = process{}
		out(&n, event{who: name, what: "is dead, and its sessions end"})
		// What it had sent may still run, where a session is left.
		if x := p.side(steps[p.at].on); x >= 0 && p.conn[x] != connNone {
			m.step(s, i, func(n *state, v event) {
				n.proc[i] = process{}
				v.how += ", after its death"
				out(n, v)
			})
		}
	}
}

// side is where a statement runs, -1 for nowhere.
func (p *process) side(on where) int {
	switch on {
	case onHolder, mine:
		return int(p.from())
	case onTaker:
		return int(1 - p.from())
	case onStale:
		return int(p.need)
	}
	return -1
}

func (m *model) exec(s *state, i int) *exec {
	p := &s.proc[i]
	x := p.from()
	return &exec{model: m, s: s, p: p, i: i, x: x, y: 1 - x, h: &s.side[x], t: &s.side[1-x]}
}

// step runs a process's statement, and gives each of its outcomes.
func (m *model) step(s *state, i int, out emit) {
	after := *s
	at := s.proc[i].at
	next, failed := m.run(&after, i)
	if next == waits {
		return
	}
	v := event{who: processNames[i], what: steps[at].text}
	if failed {
		v.how = ": in vain"
	}
	reached := after
	m.goOn(&reached, i, next)
	out(&reached, v)
	switch {
	case at == cPass && failed:
		n := *s
		m.goOn(&n, i, cAsk)
		out(&n, event{who: v.who, what: v.what, how: ", and its session has ended when COMMIT is sent"})
	case at == cPass && s.faults > 0:
		m.loseAnswer(s, i, ", and its session is lost before the commit", out)
		m.loseAnswer(&after, i, ", and the answer is lost", out)
	case at == gRead && s.faults > 0 && after.proc[i].conn[after.proc[i].holder] != connNone:
		m.loseAnswer(&after, i, ", and the answer is lost", out)
	}
}

// run executes the statement itself.
func (m *model) run(s *state, i int) (next pc, failed bool) {
	e := m.exec(s, i)
	st := &steps[e.p.at]
	x := e.p.side(st.on)
	switch {
	case st.on == mine && e.p.at == uAskPause && m.has(noQuestion):
	case st.on == mine:
		switch ok, others := e.askMine(); {
		case others:
			return e.takenOver(), true
		case !ok:
			return st.fail(e), true
		}
	case x >= 0 && e.p.conn[x] == connNone:
		return st.fail(e), true
	}
	return st.do(e), false
}

// loseAnswer takes the session away in which the pass, or the guardian's raising
// of the attempt, has been sent.
func (m *model) loseAnswer(s *state, i int, how string, out emit) {
	n := *s
	n.faults--
	n.bad = 0
	p := &n.proc[i]
	v := event{kind: fault, who: processNames[i], what: steps[s.proc[i].at].text, how: how}
	p.conn[p.holder] = connNone
	p.passed = false
	switch {
	case i == guard && s.proc[i].at == gRead:
		p.known[p.holder] = p.known[p.holder] && !m.has(raiseLost)
		m.goOn(&n, i, unfinished)
	case m.has(undoUnknown):
		m.goOn(&n, i, aborts(uTaker)(m.exec(&n, i)))
	default:
		m.goOn(&n, i, cAsk)
	}
	out(&n, v)
}

// goOn lets a process go to its next statement, or ends it.
func (m *model) goOn(s *state, i int, next pc) {
	p := &s.proc[i]
	p.at = next
	if next != finished && next != unfinished {
		return
	}
	if p.life == killed {
		*p = process{}
		return
	}
	if i == guard && next == unfinished {
		// takeOver goes on trying, with the same ward.
		*p = process{life: runs, at: gSeizeHolder, holder: p.holder, task: guarding, gen: p.gen, known: p.known, missed: p.missed}
		return
	}
	g := &s.proc[guard]
	guarded := i == command && g.life != absent
	if guarded && next == finished && g.life == runs && g.at == gWatch {
		*g = process{} // Guard.End(true)
	}
	if next == unfinished && !guarded {
		s.unattended = true
	}
	*p = process{}
}

// operator runs commands from elsewhere, at any time.
func (m *model) operator(s *state, out emit) {
	switch p := &s.proc[elsewhere]; {
	case p.life == runs && p.at == cLockTarget && s.owner(target) >= 0:
		n := *s
		m.goOn(&n, elsewhere, finished)
		out(&n, event{who: processNames[elsewhere], what: "refuses: another pgbaton is at work"})
		return
	case p.life != absent:
		return
	}
	for holder, command := range []string{"switchover", "rollback"} {
		if holder == target && !m.rollback {
			continue
		}
		n := *s
		n.proc[elsewhere] = process{life: runs, at: cStale, holder: uint8(holder)}
		if s.side[0].up && s.side[1].up {
			if !m.byForce {
				// No side is stale. To wait for a lock is to come later.
				if s.owner(source) >= 0 {
					return
				}
				n.proc[elsewhere].at, n.proc[elsewhere].conn[source] = cLockTarget, connLock
			}
			out(&n, event{kind: offer, what: "somebody runs " + command + " from elsewhere"})
		} else if m.byForce && s.faults > 0 && !s.forced && !s.side[holder].up && s.side[1-holder].up {
			n.faults--
			n.proc[elsewhere].force = true
			out(&n, event{kind: fault, what: "somebody runs " + command + " --holder-lost"})
		}
	}
}

// world is what happens by itself and is no fault.
func (m *model) world(s *state, out emit) {
	for x := range s.side {
		d, o := &s.side[x], &s.side[1-x]
		if !d.up {
			n := *s
			n.side[x].up, n.side[x].sessions = true, !d.fenced
			out(&n, event{who: sideNames[x], what: "is up again"})
			continue
		}
		if d.writable() && !d.excused && !s.forced && count(s.acked) < m.writes {
			n := *s
			n.commit(uint8(x))
			out(&n, event{kind: offer, what: "an application commits on ", where: sideNames[x]})
		}
		if d.slot && d.pending != 0 && o.up && (o.sub == subEnabled || o.sub == subEnding) {
			n := *s
			n.apply(uint8(x))
			out(&n, event{what: "the next commit is applied on ", where: sideNames[1-x]})
		}
		if o.sub == subEnding {
			n := *s
			n.side[1-x].sub = subDisabled
			out(&n, event{what: "the worker ends on ", where: sideNames[1-x]})
		}
	}
}

// commit is an application's, and it is told of it.
func (s *state) commit(x uint8) {
	d := &s.side[x]
	w := uint8(1) << count(s.acked)
	s.acked |= w
	d.rows |= w
	d.seq = count(s.acked)
	s.flush(x)
	if d.slot {
		d.pending |= w
	}
}

// apply lets the worker of the stream from a side apply one commit, which is not
// durable on the subscriber by that.
func (s *state) apply(publisher uint8) {
	d, o := &s.side[publisher], &s.side[1-publisher]
	w := d.pending & -d.pending
	d.pending &^= w
	d.sent |= w
	if o.rows&w != 0 {
		s.bad |= doubled
	}
	o.rows |= w
	if o.slot {
		o.pending |= w
	}
}

// faults are bounded in number.
func (m *model) faults(s *state, out emit) {
	unguarded := s.proc[guard].life == absent
	for i := range s.proc {
		p := &s.proc[i]
		if p.life != runs {
			continue
		}
		n := *s
		n.proc[i].life = killed
		n.unattended = n.unattended || i != command || unguarded
		if i == command && p.at <= cNotePause && s.proc[guard].at == gWatch {
			n.proc[guard] = process{} // nobody waits yet
		}
		out(&n, event{who: processNames[i], what: "is killed"})
		for x := range s.side {
			if p.conn[x] != connNone {
				n := *s
				n.proc[i].conn[x] = connNone
				out(&n, event{who: processNames[i], what: "loses its session on ", where: sideNames[x]})
			}
		}
	}
	if c, g := &s.proc[command], &s.proc[guard]; c.life == runs {
		n := *s
		n.proc[command].life = stopped
		n.unattended = n.unattended || unguarded
		out(&n, event{who: processNames[command], what: "is stopped"})
		if g.life == runs {
			n := *s
			n.proc[command].life, n.proc[guard].life = stopped, stopped
			out(&n, event{what: "the operator's host falls asleep, with command and guardian"})
		}
		if g.life == runs && g.at == gWatch && !g.later {
			n := *s
			n.proc[guard].at = gSeizeHolder
			out(&n, event{what: "the budget is over, and the command does not react: the guardian takes over"})
		}
		if c.at > cPause && c.at <= cPass {
			n := *s
			m.goOn(&n, command, budgetOver(m.exec(&n, command)))
			out(&n, event{what: "the budget is over: the command aborts"})
		}
	}
	for x := range s.side {
		if s.side[x].up {
			n := *s
			n.crash(uint8(x))
			out(&n, event{who: sideNames[x], what: "crashes"})
		}
	}
}

// budgetOver is where the abort begins when a phase is cut short.
func budgetOver(e *exec) pc {
	switch {
	case e.p.at >= cDisable:
		return aborts(uTaker)(e)
	case e.p.at >= cFence:
		return aborts(uLift)(e)
	}
	return aborts(uAskPause)(e)
}

// crash ends every session on a side and loses what is not durable.
func (s *state) crash(x uint8) {
	d, o := &s.side[x], &s.side[1-x]
	d.up, d.sessions = false, false
	d.rows, d.seq = d.durable, d.seqDurable
	d.pending &= d.rows
	o.pending |= o.sent // the other side's slot has kept it
	o.sent = 0
	for i := range s.proc {
		s.proc[i].conn[x] = connNone
	}
}

func (s *state) String() string {
	text := ""
	for x, d := range s.side {
		text += fmt.Sprintf("%s: gen %d took %t handed %t up %t fenced %t sessions %t sub %d slot %t rows %b/%b pending %b seq %d; ",
			sideNames[x], d.gen, d.took, d.handed, d.up, d.fenced, d.sessions, d.sub, d.slot, d.rows, d.durable, d.pending, d.seq)
	}
	return text + fmt.Sprintf("traffic to %s, held %t; acknowledged %b", sideNames[s.points], s.held, s.acked)
}
