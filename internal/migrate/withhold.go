package migrate

import (
	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// This file decides which foreign keys the target does not get before a handover.

func withheldKey(f catalog.ForeignKey) replication.WithheldKey {
	k := replication.WithheldKey{Table: f.Table, Name: f.Name, Add: f.AddSQL(), Comment: f.CommentSQL()}
	if f.Valid {
		k.Validate = f.ValidateSQL()
	}
	return k
}

// withheld are the foreign keys between groups. gone are those that the restore leaves
// out, comments included: these, and those to rows that are not moved.
func withheld(w world, in map[postgres.Ident]*group) (keys []replication.WithheldKey, gone []schema.Constraint) {
	for _, c := range w.lost {
		gone = append(gone, c)
	}
	withhold := func(f catalog.ForeignKey, more ...replication.WithheldKey) {
		gone = append(gone, schema.Constraint{OID: f.OID, Table: f.Table, Name: f.Name})
		keys = append(keys, more...)
	}
	moved := map[uint32]bool{}
	for _, t := range w.tables {
		moved[t.OID] = true
	}
	for _, f := range w.foreignKeys {
		if _, lost := w.lost[f.OID]; !lost && moved[f.TableOID] && in[f.Table] != in[f.References] {
			withhold(f, withheldKey(f))
		}
	}
	for _, k := range w.partitioned {
		if _, lost := w.lost[k.OID]; lost || !apart(w.tables, k.Tables, in) {
			continue
		}
		leaves, whole := k.Withheld()
		if whole != "" {
			withhold(k.ForeignKey, replication.WithheldKey{Table: k.Table, Name: k.Name, Whole: whole, Comment: k.CommentSQL()})
		} else {
			withhold(k.ForeignKey)
		}
		for _, f := range leaves {
			keys = append(keys, withheldKey(f))
		}
	}
	return keys, gone
}
