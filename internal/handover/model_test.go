package handover_test

// A model of the handover, small enough to look at every state that it can get
// into. docs/model.md says what is modelled and what is not. The files:
//
//	model_test.go          the state: two sides, three processes, traffic
//	model_begin_test.go    a command begins
//	model_steps_test.go    the command up to the pass, statement by statement
//	model_undo_test.go     undoing, and the way forward behind the pass
//	model_guardian_test.go the guardian
//	model_world_test.go    what nobody orders: applications, workers, faults
//	model_search_test.go   the search
//	model_check_test.go    the tests: no violation, and one for every defect

// The two sides. Side 0 has the baton at first. A stream is known by its
// publisher: the slot is there, the subscription is on the other side.
const (
	source = 0
	target = 1
)

// What a subscription is.
const (
	subNone = iota
	subDisabled
	subEnabled
	subEnding // disabled, and its worker has not noticed yet
)

// side is one database. The bits of rows, durable, pending and sent are the
// applications' commits, in their order.
type side struct {
	up       bool
	fenced   bool // CONNECT revoked, read-only by default (fence.Raise)
	sessions bool // applications have sessions, or may open some

	gen          uint8 // of the record (journal.Record)
	took, handed bool

	rows, durable   uint8 // what is committed here; what of it survives a crash
	seq, seqDurable uint8 // the sequence: how many values were given out

	slot    bool  // on this publisher
	pending uint8 // what the slot has still to send
	sent    uint8 // sent and applied, but not known to be durable over there
	sub     uint8 // of this subscriber, to the other side's slot

	paused bool // journal: traffic is, or is about to be, held back (keyPaused)
	moving bool // journal: traffic has not been moved here yet (keyTraffic)

	// Lost without a fence when the other side was given the baton by force: it
	// is writable when it comes back, until the first command sees it.
	excused bool
}

// writable says whether an application could commit here.
func (d *side) writable() bool { return d.up && d.sessions }

// flush is what a synchronous commit does: all that came before it is durable,
// and the other side's slot may forget what it has sent.
func (s *state) flush(x uint8) {
	d := &s.side[x]
	d.durable, d.seqDurable = d.rows, d.seq
	s.side[1-x].sent = 0
}

// The processes: a command on the operator's host, its guardian, and commands
// from another host, one after the other, which nobody guards.
const (
	command = iota
	guard
	elsewhere
	processes
)

type life uint8

const (
	absent life = iota // not begun, or ended with all its sessions
	runs
	stopped // SIGSTOP, or its host sleeps: it may be woken at any time
	killed  // dead, but the servers have not noticed: one statement may still run
)

// What a session is, seen from its server.
const (
	connNone = iota // none; a process may not know that it has ended
	connOpen        // without the operator's lock
	connLock        // with it
)

// What the undoing is for.
type task uint8

const (
	handing    task = iota // nothing is undone
	beginning              // Run.begin, of what a dead handover of this direction left
	beginOther             // Run.begin, of the other direction
	preparing              // prepareBack makes anew what an earlier attempt left
	aborting               // run.abort
	guarding               // TakeOver
)

// process is a command or a guardian: what it remembers, and where it is.
type process struct {
	life   life
	at     pc
	holder uint8 // of the handover that it makes
	task   task
	gen    uint8 // that the holder took, as it believes

	// Its attempt is the side's latest. Attempts only grow, and are only ever
	// compared for equality: once outdated, for ever outdated.
	known [2]bool
	conn  [2]uint8

	need uint8 // the marker stands behind these rows; FenceStale: the side
	seq  uint8 // as read from the holder

	passed  bool // it found, or made, the baton passed
	lost    bool // something could not be undone
	held    bool // traffic could not be moved
	ordered bool // it has ordered the pause
	asked   bool // it has asked whether it may let traffic go
	force   bool // --holder-lost
	missed  bool // the guardian: the holder was out of reach
	later   bool // the guardian: the budget is no reason any more
}

// from is the side that the process treats as the holder just now: begin undoes
// an earlier handover of the other direction with the sides exchanged.
func (p *process) from() uint8 {
	if p.task == beginOther {
		return 1 - p.holder
	}
	return p.holder
}

// state is everything. It is comparable, and packed into 24 bytes.
type state struct {
	side [2]side
	proc [processes]process

	points uint8 // where traffic leads
	held   bool  // traffic is held back

	acked  uint8 // the commits that applications were told of
	faults uint8 // that may still happen

	late       bool // an order of traffic arrived when its process was outdated
	forced     bool // the baton was taken by force
	unattended bool // something died that nobody guards: the operator must act

	bad invariant // what the last step broke; not packed
}

// owner returns the process that has the lock of a side, -1 for none.
func (s *state) owner(x uint8) int {
	for i := range s.proc {
		if s.proc[i].conn[x] == connLock {
			return i
		}
	}
	return -1
}

// raise is journal.RaiseAttempt: everybody else is outdated on this side.
func (s *state) raise(p *process, x uint8) {
	for i := range s.proc {
		s.proc[i].known[x] = false
	}
	p.known[x] = true
}

// initial is a migration that streams, and a command that has both locks.
func initial(faults uint8) state {
	var s state
	s.faults = faults
	s.side[source] = side{up: true, sessions: true, took: true, slot: true}
	s.side[target] = side{up: true, fenced: true, sub: subEnabled}
	s.proc[command] = process{life: runs, at: cBegin, holder: source, conn: [2]uint8{connLock, connLock}}
	return s
}

// packed is a state as the search keeps it.
type packed [3]uint64

// coder walks over a state's fields, in one order for both ways.
type coder struct {
	word packed
	bit  uint
	read bool
}

func (c *coder) number(v *uint8, bits uint) {
	if c.bit%64+bits > 64 {
		c.bit += 64 - c.bit%64
	}
	w, shift := &c.word[c.bit/64], c.bit%64
	c.bit += bits
	if c.read {
		*v = uint8(*w >> shift & (1<<bits - 1))
		return
	}
	*w |= uint64(*v) << shift
}

func (c *coder) flags(flags ...*bool) {
	for _, f := range flags {
		var v uint8
		if *f {
			v = 1
		}
		c.number(&v, 1)
		*f = v == 1
	}
}

func (c *coder) walk(s *state) {
	for i := range s.side {
		d := &s.side[i]
		c.flags(&d.up, &d.fenced, &d.sessions, &d.took, &d.handed, &d.slot, &d.paused, &d.moving, &d.excused)
		c.number(&d.gen, 2)
		c.number(&d.seq, 2)
		c.number(&d.seqDurable, 2)
		c.number(&d.sub, 2)
		for _, set := range []*uint8{&d.rows, &d.durable, &d.pending, &d.sent} {
			c.number(set, maxWrites)
		}
	}
	for i := range s.proc {
		p := &s.proc[i]
		c.number((*uint8)(&p.life), 2)
		c.number((*uint8)(&p.at), 6)
		c.number((*uint8)(&p.task), 3)
		c.number(&p.holder, 1)
		c.number(&p.gen, 2)
		c.number(&p.need, maxWrites)
		c.number(&p.seq, 2)
		c.number(&p.conn[0], 2)
		c.number(&p.conn[1], 2)
		c.flags(&p.known[0], &p.known[1], &p.passed, &p.lost, &p.held, &p.ordered, &p.asked, &p.force, &p.missed, &p.later)
	}
	c.number(&s.points, 1)
	c.number(&s.acked, maxWrites)
	c.number(&s.faults, 2)
	c.flags(&s.held, &s.late, &s.forced, &s.unattended)
}

func (s *state) pack() packed {
	var c coder
	c.walk(s)
	return c.word
}

func (w packed) unpack() (s state) {
	c := coder{word: w, read: true}
	c.walk(&s)
	return s
}
