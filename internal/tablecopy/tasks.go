package tablecopy

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// This file makes the tasks of a load from its tables. What each takes is an
// estimate in bytes of a COPY stream; only the order and the time that is said to
// be left depend on it.

const (
	// smallTable is the size up to which tables are loaded in batches: what they
	// cost is round trips and commits, not bytes.
	smallTable = 1 << 20
	// A batch holds at most so many tables and bytes. Each table takes some locks,
	// and a crash or a kill takes a whole batch back.
	batchTables = 50
	batchBytes  = 8 << 20
)

// onePass is what it costs, for each byte, to read a heap from end to end.
const onePass = 0.04

// rows is the planner's estimate, or a guess.
func (t *Table) rows() float64 {
	if t.Rows > 0 {
		return float64(t.Rows)
	}
	return float64(t.Bytes)/200 + 1
}

// indexCost is what building an index costs: it reads the heap, sorts rows and
// writes pages. Keys of serial numbers come in order.
func indexCost(t *Table, x Index) float64 {
	rows := float64(x.Rows)
	if rows == 0 {
		rows = float64(x.Bytes) / 30 // not known
	}
	comparing := 0.9
	switch {
	case x.Slow:
		comparing = 3.5
	case x.Key == "PRIMARY KEY":
		comparing = 0.25
	}
	return comparing*rows*math.Log2(rows+1) + 0.25*float64(x.Bytes) + onePass*float64(t.HeapBytes)
}

// checkCost is what looking at a foreign key's rows costs: each is looked up, unless
// two indexes are read in order.
func checkCost(t *Table, ordered bool) float64 {
	switch {
	case t == nil: // finished before: not known
		return smallTable
	case ordered:
		return 4 * t.rows()
	}
	return 20 * t.rows()
}

// analyzeCost is what statistics cost: of a large table 30,000 rows are looked at, on
// as many pages, and of a value no more than a kilobyte.
func analyzeCost(t *Table) float64 {
	if t.Analyzed || t.AnalyzeLater {
		return 0
	}
	const sample, page = 30_000, 8 << 10
	return min(t.rows(), sample)*min(350, 1.7*float64(t.Bytes)/t.rows()) + onePass*min(float64(t.HeapBytes), sample*page)
}

// tasks returns all tasks, those that come first before those that wait for them.
func (l *loader) tasks(splits map[uint32][]string) (all []*task) {
	add := func(t *task, others ...*task) *task {
		t.after(others...)
		all = append(all, t)
		return t
	}
	tables := make([]*Table, len(l.job.Tables))
	for i := range l.job.Tables {
		tables[i] = &l.job.Tables[i]
	}
	slices.SortStableFunc(tables, func(a, b *Table) int { return cmp.Compare(b.Bytes, a.Bytes) })

	finished := map[uint32]*task{} // by table
	begun := map[uint32][]*task{}  // by table: what follows its rows
	loaded := map[uint32]*task{}   // by table: after which its rows are there, unless they are
	var copies []*task
	var small []*Table
	type rest struct {
		table *Table
		rows  *task // after which its rows are there; nil: they are
	}
	var large []rest
	for _, t := range tables {
		switch parts := splits[t.OID]; {
		case t.Bytes <= smallTable && !t.runsUserCode():
			small = append(small, t)
		case t.Snapshot == "":
			large = append(large, rest{t, nil})
		case len(parts) > 0:
			last := add(l.splitDone(t))
			empty := add(l.splitBegin(t))
			for i, condition := range parts {
				part := add(l.copyPart(t, condition, i, len(parts)), empty)
				last.after(part)
				copies = append(copies, part)
			}
			large = append(large, rest{t, last})
			copies = append(copies, last)
		default:
			rows := add(l.copyTable(t))
			large = append(large, rest{t, rows})
			copies = append(copies, rows)
		}
	}
	for _, batch := range l.batches(small) {
		task := add(l.loadBatch(batch))
		copies = append(copies, task)
		for _, t := range batch {
			finished[t.OID] = task
		}
	}
	// An expression that calls what the user wrote may read any table.
	var everything *task
	for _, r := range large {
		if r.table.runsUserCode() {
			everything = add(&task{class: building, what: "rows", name: "of all tables", run: nothing}, copies...)
			break
		}
	}
	for _, r := range large {
		t := r.table
		var plain, keys []*task
		for _, x := range t.Indexes {
			if x.Built || x.whole() {
				continue
			}
			build := add(l.buildIndex(t, x), r.rows)
			if x.UserCode {
				build.after(everything)
			}
			plain = append(plain, build)
		}
		last := plain
		for _, x := range t.Indexes {
			if !x.Built && x.whole() { // takes a lock that nobody else may have
				key := add(l.buildKey(t, x), append(slices.Clone(last), r.rows)...)
				if x.UserCode {
					key.after(everything)
				}
				keys, last = append(keys, key), []*task{key}
			}
		}
		finished[t.OID] = add(l.finishTable(t), append(append(plain, keys...), r.rows)...)
		begun[t.OID], loaded[t.OID] = append(append(plain, keys...), finished[t.OID]), r.rows
	}
	l.foreignKeyTasks(add, splits, loaded, begun, finished)
	return all
}

// foreignKeyTasks adds the keys of a table together, and validates each on its own.
// Adding takes a lock on both tables for a moment and must not wait for a validation
// that has one of them for long.
//
// Keys whose two indexes can be read side by side are validated when these are there:
// in a fifth of the time that it takes to look up each row. Others come before
// the table's indexes, which are many and can be built at the same time, where the tables
// that they refer to can be expected to be finished by then: else one process would be at
// it when all others are done.
func (l *loader) foreignKeyTasks(add func(*task, ...*task) *task, splits map[uint32][]string, loaded map[uint32]*task, begun map[uint32][]*task, finished map[uint32]*task) {
	byTable := map[uint32][]ForeignKey{}
	var order []uint32
	for _, f := range l.job.ForeignKeys {
		if byTable[f.TableOID] == nil {
			order = append(order, f.TableOID)
		}
		byTable[f.TableOID] = append(byTable[f.TableOID], f)
	}
	tables := map[uint32]*Table{}
	for i := range l.job.Tables {
		tables[l.job.Tables[i].OID] = &l.job.Tables[i]
	}
	for _, oid := range order {
		t := tables[oid] // nil: finished before
		keys := byTable[oid]
		locks := []uint32{oid}
		var before []*task
		ordered := t != nil && splits[oid] == nil && l.readsInOrder(keys)
		first := len(begun[oid]) > 0 && !ordered
		for _, f := range keys {
			locks, before = append(locks, f.ReferencesOID), append(before, finished[f.ReferencesOID])
			// Half as large, and so on: no two tables wait for each other.
			if r := tables[f.ReferencesOID]; r != nil && (f.ReferencesOID == oid || r.Bytes > t.size()/2) {
				first = false
			}
		}
		if first {
			before = append(before, loaded[oid])
		} else {
			before = append(before, finished[oid])
		}
		slices.Sort(locks)
		atOnce := t.size() <= smallTable // looking at its rows takes no time
		last := add(l.addForeignKeys(keys, atOnce), before...)
		last.locks = slices.Compact(locks)
		for _, f := range keys {
			if f.Valid && !atOnce { // two of one table would wait for each other
				check := l.validate(f, ordered)
				check.locks, check.cost = []uint32{oid}, checkCost(t, ordered)
				last = add(check, last)
			}
		}
		if first {
			for _, b := range begun[oid] {
				b.after(last)
			}
		}
	}
}

// readsInOrder says that a table's keys can be validated by their indexes alone: a
// COPY with FREEZE says of the pages that all rows are visible, from PostgreSQL 14 on.
func (l *loader) readsInOrder(keys []ForeignKey) bool {
	return l.job.Target.Version().Major() >= 14 &&
		!slices.ContainsFunc(keys, func(f ForeignKey) bool { return f.Valid && !f.Ordered })
}

func (t *Table) size() int64 {
	if t == nil {
		return smallTable + 1 // not known
	}
	return t.Bytes
}

// batches divides small tables, so that each worker gets some. Tables with rows
// to copy and those without do not mix, nor do snapshots.
func (l *loader) batches(small []*Table) (all [][]*Table) {
	bySnapshot := map[string][]*Table{}
	var snapshots []string
	for _, t := range small {
		if bySnapshot[t.Snapshot] == nil {
			snapshots = append(snapshots, t.Snapshot)
		}
		bySnapshot[t.Snapshot] = append(bySnapshot[t.Snapshot], t)
	}
	for _, s := range snapshots {
		tables := bySnapshot[s]
		most := min(batchTables, max(1, len(tables)/(4*l.job.Jobs)))
		var batch []*Table
		var bytes int64
		for _, t := range tables {
			if len(batch) > 0 && (len(batch) == most || bytes+t.Bytes > batchBytes) {
				all, batch, bytes = append(all, batch), nil, 0
			}
			batch, bytes = append(batch, t), bytes+t.Bytes
		}
		all = append(all, batch)
	}
	return all
}

func (t *Table) runsUserCode() bool {
	return slices.ContainsFunc(t.Indexes, func(x Index) bool { return x.UserCode })
}

// whole says that only ADD CONSTRAINT makes the index.
func (x Index) whole() bool { return x.Constraint != "" && x.Key == "" }

func names(tables []*Table) string {
	var b strings.Builder
	for i, t := range tables {
		if i == 3 {
			b.WriteString(" …")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(t.Ident.String())
	}
	return b.String()
}
