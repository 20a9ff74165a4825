package handover_test

import "slices"

// invariant is what must hold in every state; several are a set.
type invariant uint16

const (
	twoWritable  invariant = 1 << iota // two sides on which an application could commit
	withoutBaton                       // a side is writable whose record does not say that it has the baton
	lostWrite                          // a writable side lacks an acknowledged commit
	doubled                            // a commit arrives where it already is
	loops                              // a subscription is enabled on a side that has taken the baton
	sequenceBack                       // a writable side's sequence would give out a value again
	streamBroken                       // the side that has the baton writes what the other will never get
	outdated                           // a process that was taken over changes something
	outage                             // nobody is at work, and applications cannot work
	noWayOut                           // neither the guardian nor the command, run again, can end an outage
	everywhere   = noWayOut<<1 - 1
)

var invariantNames = map[invariant]string{
	twoWritable: "two writable sides", withoutBaton: "a side is writable that does not have the baton",
	lostWrite: "the writable side lacks an acknowledged write", doubled: "a write came back",
	loops: "a subscription is enabled on the side that has the baton", sequenceBack: "a sequence was set back",
	streamBroken: "the other side misses a write for ever", outdated: "an outdated process changed something",
	outage: "nobody is at work, and applications cannot work", noWayOut: "no way leads out of an outage",
}

// String names the first of a set.
func (v invariant) String() string { return invariantNames[v&-v] }

// broken says what does not hold in a state.
func (m *model) broken(s *state) invariant {
	bad := s.bad
	writable := 0
	for x := range s.side {
		d, o := &s.side[x], &s.side[1-x]
		if d.took && d.sub == subEnabled && !d.excused {
			bad |= loops
		}
		if !d.writable() || d.excused {
			continue
		}
		writable++
		if !d.took || o.took && o.gen > d.gen || o.handed && o.gen > d.gen {
			bad |= withoutBaton
		}
		if s.acked&^d.rows != 0 {
			bad |= lostWrite
		}
		if d.seq < count(s.acked) {
			bad |= sequenceBack
		}
		if !s.forced && (!d.slot || d.rows&^(o.rows|d.pending|d.sent) != 0) {
			bad |= streamBroken
		}
	}
	if writable > 1 {
		bad |= twoWritable
	}
	return bad
}

// serves says whether applications can work: one side is writable.
func (s *state) serves() bool {
	return (s.side[source].writable() && !s.side[source].excused) != s.side[target].writable()
}

// flows says whether traffic flows to a side that is writable.
func (s *state) flows() bool {
	return s.late || !s.held && s.side[s.points].writable()
}

// found is what a search has found.
type found struct {
	states, steps, depth int
	bad                  invariant
	trace                []string
}

// search is the states seen so far, in the order in which they were found, and
// from where.
type search struct {
	*model
	all   []packed
	from  []uint32
	table []uint32 // by hash: the state's number and one, 0 for none
	back  []edge   // the steps that are no faults, for the way out
}

// id returns a state's number.
func (f *search) id(w packed, from uint32) uint32 {
	if 2*len(f.all) >= len(f.table) {
		f.table = make([]uint32, max(1<<12, 2*len(f.table)))
		for id, w := range f.all {
			f.table[f.slot(w)] = uint32(id) + 1
		}
	}
	slot := f.slot(w)
	if f.table[slot] == 0 {
		f.all = append(f.all, w)
		f.from = append(f.from, from)
		f.table[slot] = uint32(len(f.all))
	}
	return f.table[slot] - 1
}

// slot is where a state is in the table, or belongs.
func (f *search) slot(w packed) uint64 {
	const odd = 0x9e3779b97f4a7c15
	h := ((w[0]*odd^w[1])*odd ^ w[2]) * odd
	mask := uint64(len(f.table) - 1)
	for i := (h ^ h>>29) & mask; ; i = (i + 1) & mask {
		if n := f.table[i]; n == 0 || f.all[n-1] == w {
			return i
		}
	}
}

// search looks at every state that the model can get into, the nearest first. It
// ends at the first that breaks one of the invariants wanted.
func (m *model) search(wanted invariant) (r found) {
	f := &search{model: m}
	first := initial(m.maxFaults)
	f.id(first.pack(), 0)
	for at, end := 0, 1; at < len(f.all) && r.bad == 0; at++ {
		if at == end {
			r.depth++
			end = len(f.all)
		}
		s := f.all[at].unpack()
		quiet := true
		m.next(&s, func(n *state, v event) {
			r.steps++
			if r.bad != 0 {
				return
			}
			id := f.id(n.pack(), uint32(at))
			if v.kind != fault && wanted&noWayOut != 0 {
				f.back = append(f.back, edge{id, uint32(at)})
			}
			quiet = quiet && (v.kind != work || id == uint32(at))
			if r.bad = m.broken(n) & wanted; r.bad != 0 {
				r.trace = append(f.trace(uint32(at)), v.String(), n.String())
			}
		})
		if r.bad == 0 && quiet && wanted&outage != 0 && !s.unattended && !s.forced && !(s.serves() && s.flows()) {
			r.bad, r.trace = outage, append(f.trace(uint32(at)), s.String())
		}
	}
	r.states = len(f.all)
	if r.bad == 0 && wanted&noWayOut != 0 {
		if at, ok := f.stuck(); ok {
			s := f.all[at].unpack()
			r.bad, r.trace = noWayOut, append(f.trace(at), s.String())
		}
	}
	return r
}

// edge leads from a state back to one before it.
type edge struct{ to, from uint32 }

// stuck looks for a state from which no way without a fault leads to one in which
// applications can work.
func (f *search) stuck() (uint32, bool) {
	start := make([]uint32, len(f.all)+1)
	for _, e := range f.back {
		start[e.to]++
	}
	for i, sum := 0, uint32(0); i < len(start); i++ {
		sum += start[i]
		start[i] = sum
	}
	before := make([]uint32, len(f.back))
	for _, e := range f.back {
		start[e.to]--
		before[start[e.to]] = e.from
	}
	f.back = nil
	good := make([]bool, len(f.all))
	var queue []uint32
	for i := range f.all {
		if s := f.all[i].unpack(); s.serves() {
			good[i] = true
			queue = append(queue, uint32(i))
		}
	}
	for len(queue) > 0 {
		at := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, b := range before[start[at]:start[at+1]] {
			if !good[b] {
				good[b] = true
				queue = append(queue, b)
			}
		}
	}
	i := slices.Index(good, false)
	return uint32(max(i, 0)), i >= 0
}

// trace tells the way to a state.
func (f *search) trace(at uint32) []string {
	if at == 0 {
		return nil
	}
	s := f.all[f.from[at]].unpack()
	step := ""
	f.next(&s, func(n *state, v event) {
		if step == "" && n.pack() == f.all[at] {
			step = v.String()
		}
	})
	return append(f.trace(f.from[at]), step)
}
