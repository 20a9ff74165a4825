package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
)

// IdentityChange is a replica identity that must differ from what the table has
// for as long as it is published (rule 11).
type IdentityChange struct {
	Table    postgres.Ident   `json:"table"`
	OID      uint32           `json:"oid,omitempty"` // of the table on the side that remembers it; 0: not known
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
	c = IdentityChange{Table: t.Ident, OID: t.OID, Old: t.Identity, OldIndex: t.IdentityIndex, New: catalog.IdentityFull}
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

// identityEntries are the changes that a side keeps.
var identityEntries = journal.Many[IdentityChange](journal.Identity)

// Remember notes a change on the source before it is made.
func (c IdentityChange) Remember(ctx context.Context, source postgres.DB) error {
	return identityEntries.PutNew(ctx, source, c.Table.String(), c)
}

// RememberAhead notes a change on the target, whose table comes with the schema, as
// changed.
func (c IdentityChange) RememberAhead(ctx context.Context, target postgres.DB) error {
	c.OID = 0
	return identityEntries.PutNew(ctx, target, c.Table.String(), c)
}

// LocateIdentities adds to what a target remembers which tables they are, by now that
// they are there: their names may change.
func LocateIdentities(ctx context.Context, target postgres.DB) error {
	changes, err := Identities(ctx, target)
	if err != nil || len(changes) == 0 {
		return err
	}
	rows, err := target.Query(ctx, `SELECT key, pg_catalog.to_regclass(key)::oid FROM pg_catalog.unnest($1::text[]) key WHERE pg_catalog.to_regclass(key) IS NOT NULL`,
		slices.Collect(maps.Keys(changes)))
	if err != nil {
		return err
	}
	located := map[string]IdentityChange{}
	var key string
	var oid uint32
	_, err = pgx.ForEachRow(rows, []any{&key, &oid}, func() error {
		c := changes[key]
		c.OID = oid
		located[key] = c
		return nil
	})
	if err != nil || len(located) == 0 {
		return err
	}
	sql, err := identityEntries.PutSQL(located)
	if err == nil {
		_, err = target.Exec(ctx, sql)
	}
	return err
}

// Identities lists what a side remembers.
func Identities(ctx context.Context, db postgres.DB) (map[string]IdentityChange, error) {
	return identityEntries.List(ctx, db)
}

// nowSQL is what has become of a table: its name, its identity, and whether its index
// named $4 could be one.
const nowSQL = `
SELECT n.nspname, c.relname, c.relreplident::text, EXISTS (
	SELECT FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
	WHERE x.indrelid = c.oid AND i.relname = $4 AND x.indisunique AND x.indisvalid AND x.indimmediate AND x.indpred IS NULL)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND CASE WHEN $1::oid <> 0 THEN c.oid = $1 ELSE n.nspname = $2 AND c.relname = $3 END`

// RestoreIdentities puts replica identities back as a side remembers them, each by
// itself, and forgets them. A table that is gone, or that somebody has given another
// identity since, needs nothing. left is what cannot be put back.
func RestoreIdentities(ctx context.Context, db postgres.DB) (restored int, left []refusal.Reason, err error) {
	changes, err := Identities(ctx, db)
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(changes)) {
		c := changes[key]
		note, did, err := c.restore(ctx, db)
		if err == nil {
			err = identityEntries.Delete(ctx, db, key)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("replica identity of %s: %w", c.Table, err))
		}
		if note != nil {
			left = append(left, *note)
		}
		if did {
			restored++
		}
	}
	return restored, left, errors.Join(append(errs, err)...)
}

func (c IdentityChange) restore(ctx context.Context, db postgres.DB) (note *refusal.Reason, did bool, err error) {
	var now catalog.Identity
	var hasIndex bool
	err = db.QueryRow(ctx, nowSQL, c.OID, c.Table.Schema, c.Table.Name, c.OldIndex).Scan(&c.Table.Schema, &c.Table.Name, &now, &hasIndex)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, false, nil
	case err != nil || now != c.New:
		return nil, false, err
	}
	if c.Old == catalog.IdentityIndex && !hasIndex {
		// Without its index the identity was that of no column, and a dump of it DEFAULT.
		what := "an index that was gone already"
		if c.OldIndex != "" {
			what = "index " + postgres.QuoteIdent(c.OldIndex) + ", which is gone"
		}
		note = &refusal.Reason{Why: fmt.Sprintf("replica identity of %s was USING INDEX with %s: it is DEFAULT now", c.Table, what),
			Remedy: fmt.Sprintf("nothing, unless another is wanted: ALTER TABLE ONLY %s REPLICA IDENTITY USING INDEX ...", c.Table)}
		c.Old = catalog.IdentityDefault
	}
	_, err = db.Exec(ctx, c.RestoreSQL())
	if postgres.Refused(err) {
		return &refusal.Reason{Why: fmt.Sprintf("replica identity of %s is still %s: %s", c.Table, words[c.New], postgres.Describe(err)), Remedy: c.RestoreSQL()}, false, nil
	}
	return note, err == nil, err
}

// words are the kinds of identities as ALTER TABLE spells them.
var words = map[catalog.Identity]string{
	catalog.IdentityDefault: "DEFAULT", catalog.IdentityFull: "FULL", catalog.IdentityNothing: "NOTHING", catalog.IdentityIndex: "USING INDEX",
}

func identitySQL(t postgres.Ident, identity catalog.Identity, index string) string {
	what := words[identity]
	if identity == catalog.IdentityIndex {
		what += " " + postgres.QuoteIdent(index)
	}
	return fmt.Sprintf("ALTER TABLE ONLY %s REPLICA IDENTITY %s", t, what)
}

// FullIdentities lists the tables whose replica identity is FULL.
func FullIdentities(ctx context.Context, db postgres.DB) ([]postgres.Ident, error) {
	rows, err := db.Query(ctx, `
		SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relreplident = 'f' AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton')
		ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[postgres.Ident])
}
