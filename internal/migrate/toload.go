package migrate

import (
	"fmt"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
	"pgbaton/internal/tablecopy"
)

// This file decides what is still to be loaded, and under which snapshot.

// thereState is what the target has of a load.
type thereState struct {
	copied      map[string]copiedTable
	built       map[string]bool
	indexes     map[postgres.Ident]string // the name of the constraint that each serves, "" for none
	foreignKeys map[string]bool           // by table and name: whether valid
	later       map[postgres.Ident]bool
	analyzed    map[postgres.Ident]bool // the source's statistics are there
}

// load is what is still to be loaded.
type load struct {
	tables      []tablecopy.Table
	foreignKeys []tablecopy.ForeignKey
	before      event.Progress // what earlier runs have done
}

// toLoad compares what the source has with what the target has. A table's rows are
// there only if they belong to the group that the table is in by now. A foreign key that
// is in the way of rows is dropped (inTheWay), and so is one that is still to be made.
func toLoad(w world, in map[postgres.Ident]*group, there thereState) (load load, err error) {
	indexes := map[uint32][]catalog.Index{}
	for _, x := range w.indexes {
		indexes[x.Table] = append(indexes[x.Table], x)
	}
	moved := map[uint32]bool{}
	for _, t := range w.tables {
		moved[t.OID] = true
		copied, isCopied := there.copied[t.Ident.String()]
		table := tablecopy.Table{Table: t, Analyzed: there.analyzed[t.Ident], AnalyzeLater: there.later[t.Ident]}
		g := in[t.Ident]
		switch {
		case isCopied && (g == nil || copied.Group == g.Name()):
			load.before.TablesCopied++
			load.before.TablesTotal++
			load.before.BytesCopied += copied.Bytes
			load.before.BytesTotal += copied.Bytes
		case g != nil && g.slot != nil:
			table.Snapshot = g.slot.Snapshot
		case g == nil: // a plan
			table.Snapshot = "<the slot's snapshot>"
		default:
			return load, fmt.Errorf("table %s belongs to a closed group and has no rows", t.Ident)
		}
		for _, x := range indexes[t.OID] {
			constraint, built := there.indexes[x.Ident]
			if built {
				load.before.IndexesTotal++
				load.before.IndexesBuilt++
			}
			if built && (x.Constraint == "" || constraint == x.Constraint) && there.built[t.Ident.String()] {
				continue
			}
			if built && constraint == x.Constraint { // its settings may not be there
				x.Constraint = ""
			}
			table.Indexes = append(table.Indexes, tablecopy.Index{Index: x, Built: built})
		}
		if table.Snapshot == "" && len(table.Indexes) == 0 && there.built[t.Ident.String()] {
			continue
		}
		load.tables = append(load.tables, table)
	}
	again := loadedAgain(load.tables)
	for _, f := range w.foreignKeys {
		if _, lost := w.lost[f.OID]; lost || !moved[f.TableOID] || in[f.Table] != in[f.References] {
			continue
		}
		valid, added := there.foreignKeys[f.Table.String()+" "+f.Name]
		added = added && !again[f.Table] && !again[f.References]
		if !added || f.Valid && !valid {
			load.foreignKeys = append(load.foreignKeys, tablecopy.ForeignKey{ForeignKey: f, Added: added})
		}
	}
	return load, nil
}

// inTheWay are the foreign keys, of those that the target has, from or to a table that is
// emptied and loaded again.
func inTheWay(keys []catalog.ForeignKey, tables []tablecopy.Table) (gone []catalog.ForeignKey) {
	again := loadedAgain(tables)
	for _, f := range keys {
		if again[f.Table] || again[f.References] {
			gone = append(gone, f)
		}
	}
	return gone
}

// loadedAgain are the tables whose rows are loaded; what there is of them goes.
func loadedAgain(tables []tablecopy.Table) map[postgres.Ident]bool {
	again := map[postgres.Ident]bool{}
	for _, t := range tables {
		again[t.Ident] = t.Snapshot != ""
	}
	return again
}
