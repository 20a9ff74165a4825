package replication

import (
	"fmt"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// IdentityChange is a replica identity that must differ from what the table has
// for as long as it is published (rule 11).
type IdentityChange struct {
	Table    postgres.Ident   `json:"table"`
	Old      catalog.Identity `json:"old"`
	OldIndex string           `json:"old_index,omitempty"`
	New      catalog.Identity `json:"new"`
	NewIndex string           `json:"new_index,omitempty"`
}

// SettleIdentity says what has to change for a table's UPDATEs and DELETEs to
// be published; ok is false when nothing has to. A key is better than FULL; a
// table for which FULL cannot work either is preflight's to refuse.
func SettleIdentity(t *catalog.Table) (c IdentityChange, ok bool) {
	if t.UsableIdentity() {
		return c, false
	}
	c = IdentityChange{Table: t.Ident, Old: t.Identity, OldIndex: t.IdentityIndex, New: catalog.IdentityFull}
	switch {
	case t.PrimaryKey:
		c.New = catalog.IdentityDefault
	case t.UniqueIndex != "":
		c.New, c.NewIndex = catalog.IdentityIndex, t.UniqueIndex
	}
	return c, true
}

// ApplySQL sets the identity that replication needs.
func (c IdentityChange) ApplySQL() string { return identitySQL(c.Table, c.New, c.NewIndex) }

// RestoreSQL puts the old identity back, once nothing publishes the table.
func (c IdentityChange) RestoreSQL() string { return identitySQL(c.Table, c.Old, c.OldIndex) }

func identitySQL(t postgres.Ident, identity catalog.Identity, index string) string {
	what := map[catalog.Identity]string{
		catalog.IdentityDefault: "DEFAULT",
		catalog.IdentityFull:    "FULL",
		catalog.IdentityNothing: "NOTHING",
		catalog.IdentityIndex:   "USING INDEX " + postgres.QuoteIdent(index),
	}[identity]
	return fmt.Sprintf("ALTER TABLE ONLY %s REPLICA IDENTITY %s", t, what)
}
