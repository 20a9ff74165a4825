package preflight

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// needs are the source's tables whose replica identity is more than a setting, by
// what is wrong with it, and the keys that put an end to that.
type needs struct {
	impossible []keyless // columns that cannot be compared
	generated  []keyless // generated columns in the identity
	back       []keyless // the same, but only once a target of 18 publishes the table
	coarse     []keyless // FULL, and equal rows need not be the same
	unlogged   []keyless // any of these, if it were logged

	computed map[uint32]string // the generated columns in the identity
	columns  map[uint32]coarse // the columns with a coarse equality
	keys     *keyPlan
}

// readNeeds looks at every table as it will be published. Unlogged ones never are:
// but they will be, when they have been set logged.
func readNeeds(ctx context.Context, s *survey, e *end) (*needs, error) {
	n := &needs{computed: map[uint32]string{}}
	strict := e.Version().Major() >= 18
	generated, err := generatedIn(ctx, e)
	if err != nil {
		return nil, err
	}
	var full []uint32
	for i := range e.tables {
		if t := &e.tables[i]; settled(t) == catalog.IdentityFull && !t.PrimaryKey && t.UniqueIndex == "" {
			full = append(full, t.OID)
		}
	}
	if n.columns, err = readCoarse(ctx, e.conn, full); err != nil {
		return nil, err
	}
	var all []keyless
	for i := range e.tables {
		t := &e.tables[i]
		k := keyless{Table: t}
		var found []*[]keyless
		identity := settled(t)
		if identity == catalog.IdentityFull && len(t.WithoutEquality()) > 0 {
			found = append(found, &n.impossible)
		} else if _, ok := n.columns[t.OID]; ok {
			found = append(found, &n.coarse)
		}
		if columns, ok := generated[t.OID]; ok {
			n.computed[t.OID] = columns
			switch {
			case identity != catalog.IdentityFull || strict:
				k.unusable = true
				found = append(found, &n.generated)
			case s.Target.Version().Major() >= 18:
				k.unusable = true
				found = append(found, &n.back)
			}
		}
		if len(found) == 0 {
			continue
		}
		if t.Unlogged {
			found = []*[]keyless{&n.unlogged}
		}
		for _, list := range found {
			*list = append(*list, k)
		}
		all = append(all, k)
	}
	n.keys, err = planKeys(ctx, e.conn, all)
	return n, err
}

// settled is the replica identity with which a table will be published.
func settled(t *catalog.Table) catalog.Identity {
	if c, ok := replication.SettleIdentity(t); ok {
		return c.New
	}
	return t.Identity
}

// checkIdentity tells what happens to tables without a usable replica identity
// (rule 11), and finds those for which nothing works.
func checkIdentity(ctx context.Context, s *survey, e *end) error {
	n, err := readNeeds(ctx, s, e)
	if err != nil {
		return err
	}
	e.needs = n
	if len(n.impossible) > 0 {
		f := Finding{Code: "identity-impossible", Severity: Blocker, Side: e.Side, Remedy: statements(n.keys.give("identity-impossible", n.impossible)...),
			Text: fmt.Sprintf("%s without a key, and with columns that cannot be compared: UPDATE and DELETE cannot be replicated", plural(len(n.impossible), "table"))}
		for _, t := range n.impossible {
			f.Objects = append(f.Objects, fmt.Sprintf("%s: %s", t.Ident, list(t.WithoutEquality())))
		}
		e.add(f)
	}
	if len(n.generated) > 0 {
		f := Finding{Code: "generated-identity", Severity: Blocker, Side: e.Side, Objects: n.computedIn(n.generated), Remedy: statements(n.keys.give("generated-identity", n.generated)...),
			Text: fmt.Sprintf("%s with a generated column in the replica identity: UPDATE and DELETE cannot be replicated", plural(len(n.generated), "table"))}
		if e.Version().Major() >= 18 {
			f.Text += ", and the server would refuse them once the table is published"
		}
		e.add(f)
	}
	if err := checkEqualRows(ctx, e, n); err != nil {
		return err
	}
	checkSettled(s, e)
	return nil
}

// checkSettled tells of the replica identities that start sets.
func checkSettled(s *survey, e *end) {
	var changed []string
	full := false
	for i := range e.tables {
		t := &e.tables[i]
		change, needed := replication.SettleIdentity(t)
		switch {
		case t.Unlogged || !needed:
		case change.New == catalog.IdentityDefault:
			changed = append(changed, fmt.Sprintf("%s: DEFAULT, the primary key", t.Ident))
		case change.New == catalog.IdentityIndex:
			changed = append(changed, fmt.Sprintf("%s: USING INDEX %s", t.Ident, postgres.QuoteIdent(change.NewIndex)))
		case len(t.WithoutEquality()) == 0:
			full = true
			changed = append(changed, fmt.Sprintf("%s: FULL", t.Ident))
		}
	}
	if len(changed) == 0 {
		return
	}
	f := Finding{Code: "no-replica-identity", Severity: Warning, Side: e.Side, Objects: changed,
		Text: fmt.Sprintf("%s without a usable replica identity: start sets another replica identity, as listed, and finish puts the old one back", plural(len(changed), "table"))}
	if full {
		f.Text += "; with FULL each UPDATE and DELETE of a row makes the target search the table"
		if s.Target.Version().Major() >= 16 {
			f.Text += ", by an index if it has one that fits"
		}
		f.Remedy = "a primary key, or a unique index over NOT NULL columns, makes it fast"
	}
	e.add(f)
}

// generatedSQL lists the tables whose replica identity holds a generated
// column: FULL ($1 tables) holds all of them, an index ($2 tables, $3 indexes)
// and the primary key ($4 tables) those that are their key.
const generatedSQL = `
SELECT c.oid, pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''
WHERE c.oid = ANY ($1)
	OR EXISTS (
		SELECT FROM pg_catalog.pg_index i
		JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
		JOIN ROWS FROM (pg_catalog.unnest($2::oid[]), pg_catalog.unnest($3::text[])) AS used (tbl, idx) ON used.tbl = i.indrelid AND used.idx = x.relname
		WHERE i.indrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
	OR EXISTS (
		SELECT FROM pg_catalog.pg_index i
		WHERE i.indrelid = c.oid AND i.indisprimary AND c.oid = ANY ($4)
			AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
GROUP BY c.oid, n.nspname, c.relname
ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`

// generatedIn finds the tables that have a generated column in what will be their
// replica identity, with these columns. Such a column is not sent; in the key of the
// identity index the subscriber misses it. Since 18 the publisher itself refuses
// UPDATE and DELETE when the identity holds one, FULL included
// (src/backend/commands/publicationcmds.c, pub_contains_invalid_column): the
// application would fail. A source before 18 publishes FULL with one; a target of 18
// will not on the way back.
func generatedIn(ctx context.Context, source *end) (map[uint32]string, error) {
	found := map[uint32]string{}
	if source.Version().Major() < 12 {
		return found, nil
	}
	var indexes []string
	full, indexed, keyed := []uint32{}, []uint32{}, []uint32{}
	for i := range source.tables {
		t := &source.tables[i]
		index := t.IdentityIndex
		if c, ok := replication.SettleIdentity(t); ok {
			index = c.NewIndex
		}
		switch settled(t) {
		case catalog.IdentityFull:
			full = append(full, t.OID)
		case catalog.IdentityIndex:
			indexed, indexes = append(indexed, t.OID), append(indexes, index)
		default:
			keyed = append(keyed, t.OID)
		}
	}
	rows, err := source.conn.Query(ctx, generatedSQL, full, indexed, indexes, keyed)
	if err != nil {
		return nil, err
	}
	var oid uint32
	var names string
	_, err = pgx.ForEachRow(rows, []any{&oid, &names}, func() error {
		found[oid] = names
		return nil
	})
	return found, err
}

// computedIn names tables with the generated columns in their identity.
func (n *needs) computedIn(tables []keyless) (objects []string) {
	for _, t := range tables {
		objects = append(objects, fmt.Sprintf("%s: %s", t.Ident, n.computed[t.OID]))
	}
	return objects
}

// checkGeneratedOnTarget tells of the tables that the way back will lack: see
// generatedIn. Those that are blockers on the source already are not told again.
func checkGeneratedOnTarget(_ context.Context, s *survey, e *end) error {
	n := s.source.needs
	if n == nil || len(n.back) == 0 {
		return nil
	}
	e.add(Finding{Code: "generated-identity", Severity: Warning, Side: e.Side, Objects: n.computedIn(n.back),
		Text:   fmt.Sprintf("%s without a key and with a generated column: since 18 the server refuses UPDATE and DELETE of such a table once it is published, as it must be for a way back", plural(len(n.back), "table")),
		Remedy: statements(append([]string{"-- on the source, before the start:"}, n.keys.give("generated-identity", n.back)...)...)})
	return nil
}
