package migrate

import (
	"fmt"
	"slices"

	"pgregory.net/rapid"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
	"pgbaton/internal/tablecopy"
)

// This file has two simulated databases and a start of method stream between them, for
// TestInterruptedRuns: what the methods of start do, in their order, with the decisions of
// pgbaton itself. The process may die before each of its writes.

// simulated is two databases, and what only an observer can know of them.
type simulated struct {
	t *rapid.T

	// The source: tables, foreign keys by OID, publications of OIDs, slots, the journal.
	tables       map[postgres.Ident]catalog.Table
	keys         map[uint32]catalog.ForeignKey
	publications map[string]map[uint32]bool
	slots        map[string]simulatedSlot
	points       map[string]string

	// The target.
	defined   bool
	onTarget  map[postgres.Ident]catalog.Table
	keysThere map[string]catalog.ForeignKey
	copied    map[string]copiedTable
	built     map[string]bool

	// The truth: whose rows the target has, and which tables a slot has not had all
	// changes of since it was made.
	rows   map[postgres.Ident]origin
	missed map[origin]bool

	lives int // writes until the process dies
	next  uint32
}

// origin is a table and the point of a slot: rows of the one as of the other.
type origin struct {
	oid   uint32
	point string
}

type simulatedSlot struct {
	point string
	lost  bool
	moved bool // read, moved, or made again by somebody else
}

// died is what a process that dies panics with.
type died struct{}

func newSimulated(t *rapid.T) *simulated {
	s := &simulated{t: t, tables: map[postgres.Ident]catalog.Table{}, keys: map[uint32]catalog.ForeignKey{}, publications: map[string]map[uint32]bool{},
		slots: map[string]simulatedSlot{}, points: map[string]string{}, missed: map[origin]bool{}}
	s.emptyTarget()
	return s
}

func (s *simulated) emptyTarget() {
	s.defined, s.onTarget, s.keysThere = false, map[postgres.Ident]catalog.Table{}, map[string]catalog.ForeignKey{}
	s.copied, s.built, s.rows = map[string]copiedTable{}, map[string]bool{}, map[postgres.Ident]origin{}
}

func (s *simulated) number() uint32 { s.next++; return s.next }

// write is asked before each write of the process.
func (s *simulated) write() {
	if s.lives--; s.lives < 0 {
		panic(died{})
	}
}

func (s *simulated) draw(label string, below int) int {
	return rapid.IntRange(0, below-1).Draw(s.t, label)
}

func (s *simulated) list() []catalog.Table {
	var tables []catalog.Table
	for _, t := range s.tables {
		tables = append(tables, t)
	}
	slices.SortFunc(tables, func(a, b catalog.Table) int { return a.Compare(b.Ident) })
	return tables
}

func (s *simulated) keyList(of func(catalog.ForeignKey) bool) (keys []catalog.ForeignKey) {
	for _, k := range s.keys {
		if of(k) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b catalog.ForeignKey) int { return int(a.OID) - int(b.OID) })
	return keys
}

// published is what the catalog says of a publication: its tables by their names of now.
func (s *simulated) published(g replication.Group) []postgres.Ident {
	if s.publications[g.Name()] == nil {
		return nil
	}
	names := []postgres.Ident{g.MarkerTable()}
	for _, t := range s.tables {
		if s.publications[g.Name()][t.OID] {
			names = append(names, t.Ident)
		}
	}
	slices.SortFunc(names, postgres.Ident.Compare)
	return names
}

// unpublish takes a table out of a publication: from now on the slot misses changes.
func (s *simulated) unpublish(name string, oid uint32) {
	if s.publications[name][oid] {
		delete(s.publications[name], oid)
		s.missed[origin{oid, s.slots[name].point}] = true
	}
}

// start runs until it is done (true) or its process dies.
func (s *simulated) start(lives int) (done bool) {
	s.lives = lives
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(died); !ok {
				panic(r)
			}
		}
	}()
	var groups []*group
	for attempt := 1; ; attempt++ {
		tables := s.list()
		groups = s.openGroups(s.closeGroups(tables), tables)
		if attempt < slotAttempts && s.draw("somebody meanwhile", 4) == 3 {
			s.define()
		}
		if s.makeSlots(groups) {
			break
		}
		if attempt == slotAttempts {
			s.t.Fatal("the publications never are of all tables, although nobody creates any")
		}
	}
	s.write()
	if !s.defined {
		s.defined = true
		for _, t := range s.tables {
			s.onTarget[t.Ident] = t
		}
	}
	for again := range startTries {
		if s.load(groups, again+1 < startTries) {
			break
		}
	}
	s.check(groups)
	return true
}

func (s *simulated) closeGroups(tables []catalog.Table) (closed []*group) {
	if s.defined {
		left := leftovers{copied: s.copied, groups: map[string]leftGroup{}}
		for _, t := range s.onTarget {
			left.onTarget = append(left.onTarget, t)
		}
		for n := 1; n < 100; n++ {
			name := forwardOf(n).Name()
			point, ok := s.points[name]
			if !ok {
				continue
			}
			g := leftGroup{point: point, published: map[postgres.Ident]bool{}}
			slot, exists := s.slots[name]
			g.slot = exists && !slot.lost
			if slot.moved {
				g.gap = "moved"
			}
			for _, t := range s.published(forwardOf(n)) {
				g.published[t] = true
			}
			left.groups[name] = g
		}
		kept, _ := keepable(left, tables)
		for name, members := range kept {
			for _, t := range members {
				o := origin{t.OID, s.slots[name].point}
				if s.rows[t.Ident] != o || s.missed[o] {
					s.t.Fatalf("%s is kept, and was not complete", t)
				}
			}
		}
		if len(kept) > 0 {
			c := closingOf(s.groupsLeft(), kept, len(tables))
			for _, g := range c.drop {
				s.dropGroup(g)
			}
			for _, k := range c.keep {
				g := &group{Group: k.Group, closed: true}
				for _, t := range k.members {
					g.members = append(g.members, t.Ident)
				}
				s.write()
				s.setTables(g)
				closed = append(closed, g)
			}
			return closed
		}
	}
	for _, g := range s.groupsLeft() {
		s.dropGroup(g)
	}
	s.write()
	s.emptyTarget()
	return nil
}

func forwardOf(n int) replication.Group {
	return replication.Group{Label: "m", Direction: replication.Forward, Number: n}
}

func (s *simulated) groupsLeft() (groups []replication.Group) {
	for n := 1; n < 100; n++ {
		name := forwardOf(n).Name()
		if _, slot := s.slots[name]; slot || s.publications[name] != nil {
			groups = append(groups, forwardOf(n))
		}
	}
	return groups
}

// setTables makes a publication one of exactly a group's tables.
func (s *simulated) setTables(g *group) {
	want := map[uint32]bool{}
	for _, name := range g.members {
		if t := s.tables[name]; !t.Unlogged {
			want[t.OID] = true
		}
	}
	for oid := range s.publications[g.Name()] {
		if !want[oid] {
			s.unpublish(g.Name(), oid)
		}
	}
	s.publications[g.Name()] = want
}

func (s *simulated) dropGroup(g replication.Group) {
	s.dropSlot(g.Name())
	s.write()
	delete(s.publications, g.Name())
}

func (s *simulated) dropSlot(name string) {
	s.write()
	for table, c := range s.copied {
		if c.Group == name {
			delete(s.copied, table)
		}
	}
	s.write()
	delete(s.points, name)
	s.write()
	delete(s.slots, name)
}

func (s *simulated) openGroups(groups []*group, tables []catalog.Table) []*group {
	rest, number := toOpen(groups, tables)
	if len(groups) > 0 && len(rest) == 0 {
		return groups
	}
	divided := [][]catalog.Table{rest}
	if n := 1 + s.draw("groups", 3); len(groups) == 0 && n > 1 {
		divided = pack(rest, ties(s.keyList(func(catalog.ForeignKey) bool { return true }), nil), nil, n)
	}
	for i, members := range divided {
		g := &group{Group: forwardOf(number + i)}
		s.dropSlot(g.Name())
		for _, t := range members {
			g.members = append(g.members, t.Ident)
		}
		s.write()
		delete(s.publications, g.Name())
		s.setTables(g)
		groups = append(groups, g)
	}
	return groups
}

func (s *simulated) makeSlots(groups []*group) (same bool) {
	if !slices.ContainsFunc(groups, lacksSlot) {
		_, same := planned(groups, nil, s.list())
		return same
	}
	for _, g := range groups {
		if !lacksSlot(g) {
			continue
		}
		s.dropSlot(g.Name())
		s.write()
		n := s.number()
		point := postgres.LSN(n)
		s.slots[g.Name()] = simulatedSlot{point: point.String()}
		g.slot = &replication.Slot{Name: g.Name(), ConsistentPoint: point, Snapshot: fmt.Sprint("snapshot ", n)}
		s.write()
		s.points[g.Name()] = point.String()
		members, same := planned(groups, g, s.list())
		if !same || !slices.Equal(s.published(g.Group), replication.Publishable(members, g.Group)) {
			return false
		}
	}
	return true
}

// load loads what is still to be loaded, in some order. It may end early, with the same
// snapshots still alive, as when the target was started again.
func (s *simulated) load(groups []*group, again bool) (done bool) {
	w := world{tables: s.list()}
	w.foreignKeys = s.keyList(func(catalog.ForeignKey) bool { return true })
	in := membership(groups)
	there := thereState{copied: s.copied, built: s.built, foreignKeys: map[string]bool{}}
	for name := range s.keysThere {
		there.foreignKeys[name] = true
	}
	load, err := toLoad(w, in, there)
	if err != nil {
		s.t.Fatal(err)
	}
	s.divides(w, in, load.foreignKeys)
	var keysThere []catalog.ForeignKey
	for _, k := range s.keysThere {
		keysThere = append(keysThere, k)
	}
	for _, k := range inTheWay(keysThere, load.tables) {
		s.write()
		delete(s.keysThere, k.Table.String()+" "+k.Name)
	}
	ready := map[postgres.Ident]bool{}
	for _, t := range w.tables {
		ready[t.Ident] = !slices.ContainsFunc(load.tables, func(l tablecopy.Table) bool { return l.Ident == t.Ident && l.Snapshot != "" })
	}
	addKeys := func() {
		for _, k := range load.foreignKeys {
			if name := k.Table.String() + " " + k.Name; ready[k.Table] && ready[k.References] && s.keysThere[name].Name == "" {
				s.write()
				s.keysThere[name] = k.ForeignKey
			}
		}
	}
	addKeys()
	for len(load.tables) > 0 {
		i := s.draw("table", len(load.tables))
		t := load.tables[i]
		load.tables = slices.Delete(load.tables, i, i+1)
		s.write()
		if t.Snapshot != "" {
			for name, k := range s.keysThere {
				if k.Table == t.Ident || k.References == t.Ident {
					s.t.Fatalf("%s is emptied, and foreign key %s is there", t, name)
				}
			}
			// A snapshot shows what its slot begins with: the rows go with no other.
			i := slices.IndexFunc(groups, func(g *group) bool { return g.slot != nil && g.slot.Snapshot == t.Snapshot })
			g := groups[i]
			s.rows[t.Ident] = origin{t.OID, g.slot.ConsistentPoint.String()}
			s.copied[t.String()] = copiedTable{Group: in[t.Ident].Name(), Point: in[t.Ident].slot.ConsistentPoint.String(), OID: t.OID}
			ready[t.Ident] = true
		}
		s.built[t.String()] = true
		addKeys()
		switch trouble := s.draw("trouble", 12); {
		case trouble == 11 && again: // the target is started again
			return false
		case trouble == 10: // rows that have to be repaired on the source: its copy is not worth anything
			s.write()
			delete(s.copied, t.String())
			delete(s.built, t.String())
			s.rows[t.Ident] = origin{}
			panic(died{})
		}
	}
	return true
}
