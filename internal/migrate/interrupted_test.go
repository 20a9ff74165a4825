package migrate

import (
	"flag"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/tablecopy"
)

// A hundred cases, which is rapid's default, are few for what takes a rare combination.
func init() {
	if err := flag.Set("rapid.checks", "3000"); err != nil {
		panic(err)
	}
}

// TestInterruptedRuns: however often start dies, and whatever happens to the source in
// between, the run that comes to an end leaves each table in exactly one group, with rows
// that were copied under the slot of that very group, which has had every change since.
func TestInterruptedRuns(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := newSimulated(t)
		for range 1 + s.draw("tables", 6) {
			s.create(s.ident())
		}
		for range s.draw("foreign keys", 5) {
			s.refer()
		}
		for range 1 + s.draw("runs", 5) {
			if s.start(s.draw("writes", 60)) {
				return
			}
			for range s.draw("changes", 4) {
				s.change()
			}
		}
		for tries := 0; !s.start(1000); tries++ { // rows to repair
			if tries == 50 {
				t.Fatal("it never comes to an end")
			}
		}
	})
}

func (s *simulated) ident() postgres.Ident {
	return postgres.Ident{Schema: "s", Name: fmt.Sprint("t", s.draw("name", 8))}
}

// create makes a table, unless there is one of the name.
func (s *simulated) create(name postgres.Ident) {
	if _, exists := s.tables[name]; !exists {
		s.tables[name] = catalog.Table{Ident: name, OID: s.number(), Bytes: int64(s.draw("bytes", 300)), Unlogged: s.draw("unlogged", 8) == 0,
			Columns: []catalog.Column{{Name: "id", Type: "integer"}}}
	}
}

// refer adds a foreign key.
func (s *simulated) refer() {
	a, b := s.tables[s.ident()], s.tables[s.ident()]
	if a.OID != 0 && b.OID != 0 {
		oid := s.number()
		s.keys[oid] = catalog.ForeignKey{Name: fmt.Sprint("k", oid), OID: oid, Table: a.Ident, References: b.Ident, TableOID: a.OID, ReferencesOID: b.OID, Valid: true}
	}
}

// drop drops a table, with the foreign keys from and to it.
func (s *simulated) drop(name postgres.Ident) {
	t := s.tables[name]
	delete(s.tables, name)
	for n := range s.publications {
		s.unpublish(n, t.OID)
	}
	for oid, k := range s.keys {
		if k.TableOID == t.OID || k.ReferencesOID == t.OID {
			delete(s.keys, oid)
		}
	}
}

// define is what somebody does to the source while start runs: tables that come and go.
func (s *simulated) define() {
	name := s.ident()
	if _, exists := s.tables[name]; !exists {
		s.create(name)
	} else if s.copied[name.String()].Group == "" {
		s.drop(name)
	}
}

// change is what somebody does to the source between two runs.
func (s *simulated) change() {
	name, group := s.ident(), forwardOf(1+s.draw("group", 4)).Name()
	table, exists := s.tables[name]
	slot, slotExists := s.slots[group]
	switch what := s.draw("what", 12); {
	case what == 0:
		s.create(name)
	case what == 1 && exists:
		s.drop(name)
	case what == 2 && exists: // another of the same shape
		s.drop(name)
		s.create(name)
	case what == 3 && exists: // another shape
		table.Columns = append(table.Columns[:1:1], catalog.Column{Name: fmt.Sprint("c", s.number()), Type: "text"})
		s.tables[name] = table
	case what == 4 && exists: // two tables change their names
		if other, ok := s.tables[s.ident()]; ok && other.OID != table.OID {
			table.Ident, other.Ident = other.Ident, table.Ident
			s.tables[table.Ident], s.tables[other.Ident] = table, other
			for oid, k := range s.keys {
				k.Table, k.References = s.nameOf(k.TableOID), s.nameOf(k.ReferencesOID)
				s.keys[oid] = k
			}
		}
	case what == 5 && exists && table.Unlogged: // what was written to it until now is in no slot
		table.Unlogged = false
		s.tables[name] = table
		for _, slot := range s.slots {
			s.missed[origin{table.OID, slot.point}] = true
		}
	case what == 6:
		for oid := range s.publications[group] {
			s.unpublish(group, oid)
		}
		delete(s.publications, group)
	case what == 7 && exists:
		s.unpublish(group, table.OID)
	case what == 8 && slotExists:
		slot.lost = true
		s.slots[group] = slot
	case what == 9 && slotExists:
		delete(s.slots, group)
	case what == 10 && slotExists: // dropped and made again, or read by somebody
		s.slots[group] = simulatedSlot{point: postgres.LSN(s.number()).String(), moved: true}
	case what == 11:
		s.refer()
	}
}

func (s *simulated) nameOf(oid uint32) postgres.Ident {
	for name, t := range s.tables {
		if t.OID == oid {
			return name
		}
	}
	return postgres.Ident{}
}

// divides: a foreign key is made with the rows or withheld: the one within a group, the
// other between groups.
func (s *simulated) divides(w world, in map[postgres.Ident]*group, loaded []tablecopy.ForeignKey) {
	keys, _ := withheld(w, in)
	held := map[string]bool{}
	for _, k := range keys {
		held[k.Table.String()+" "+k.Name] = true
	}
	for _, k := range loaded {
		if held[k.Table.String()+" "+k.Name] {
			s.t.Fatalf("foreign key %s is loaded and withheld", k.Name)
		}
	}
	for _, k := range w.foreignKeys {
		if between := in[k.Table] != in[k.References]; between != held[k.Table.String()+" "+k.Name] {
			s.t.Fatalf("foreign key %s between groups: %t", k.Name, between)
		}
	}
}

// check is asked when start is done.
func (s *simulated) check(groups []*group) {
	var in = map[uint32]*group{}
	count := 0
	for _, g := range groups {
		for _, name := range g.members {
			in[s.tables[name].OID] = g
			count++
		}
	}
	if count != len(s.tables) || len(in) != len(s.tables) || len(s.onTarget) != len(s.tables) {
		s.t.Fatalf("%d tables are %d members of groups, and %d are on the target", len(s.tables), count, len(s.onTarget))
	}
	for name, t := range s.tables {
		g := in[t.OID]
		slot, exists := s.slots[g.Name()]
		there := s.onTarget[name]
		o := origin{t.OID, slot.point}
		switch {
		case !exists || slot.lost || slot.moved:
			s.t.Fatalf("%s rests on slot %+v", t, slot)
		case there.Shape() != t.Shape():
			s.t.Fatalf("%s has another shape on the target", t)
		case s.rows[name] != o:
			s.t.Fatalf("%s has the rows of %v, and its group's are %v", t, s.rows[name], o)
		case s.missed[o]:
			s.t.Fatalf("%s has rows whose changes its slot does not have", t)
		case !t.Unlogged && !s.publications[g.Name()][t.OID]:
			s.t.Fatalf("%s is not published in its group", t)
		}
		for _, other := range groups {
			if other != g && s.publications[other.Name()][t.OID] {
				s.t.Fatalf("%s is published in groups %d and %d", t, g.Number, other.Number)
			}
		}
	}
	for _, k := range s.keys {
		_, there := s.keysThere[k.Table.String()+" "+k.Name]
		if within := in[k.TableOID] == in[k.ReferencesOID]; there != within {
			s.t.Fatalf("foreign key %s within a group: %t, on the target: %t", k.Name, within, there)
		}
	}
}
