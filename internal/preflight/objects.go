package preflight

import (
	"context"
	"fmt"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// foreignReplicationSQL lists replication that is not this migration's: $1
// matches the names of what is.
const foreignReplicationSQL = `
SELECT pg_catalog.format('publication %I', pubname)
FROM pg_catalog.pg_publication
WHERE pubname NOT LIKE $1
UNION ALL
SELECT pg_catalog.format('subscription %I', subname)
FROM pg_catalog.pg_subscription
WHERE subname NOT LIKE $1
	AND subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
UNION ALL
SELECT pg_catalog.format('logical replication slot %I', slot_name)
FROM pg_catalog.pg_replication_slots
WHERE slot_name NOT LIKE $1 AND database = pg_catalog.current_database()
ORDER BY 1`

// checkSpecialObjects tells what becomes of objects that are neither plain
// tables nor moved like the rest.
func checkSpecialObjects(ctx context.Context, s *survey, e *end) error {
	e.add(Finding{Code: "ddl", Severity: Info, Side: e.Side,
		Text: "definitions are not replicated: what changes them between start and switchover (CREATE, ALTER, DROP) has to be done on both sides, and switchover refuses while tables differ"})

	if e.Version().Major() == 10 {
		e.add(Finding{Code: "truncate", Severity: Warning, Side: e.Side,
			Text: "PostgreSQL 10 does not replicate TRUNCATE: a table that is truncated while the migration runs is found by status and switchover, and has to be copied again"})
	}

	own, err := texts(ctx, e.conn, foreignReplicationSQL, s.mine())
	if err != nil {
		return err
	}
	if len(own) > 0 {
		f := Finding{Code: "own-publications", Severity: Warning, Side: e.Side, Objects: own,
			Text:   "replication of your own is not moved: its subscribers and consumers go on reading from the source",
			Remedy: "after the switchover set it up again on the target, and let consumers start over from there"}
		if lesser := e.lesserIdentities(); len(lesser) > 0 {
			f.Objects = append(f.Objects, lesser...)
			f.Text += fmt.Sprintf("; start sets another replica identity for %s with FULL, which no subscription can use, and finish puts it back: until then they get the key of an old row in place of the row",
				plural(len(lesser), "table"))
		}
		e.add(f)
	}

	views, err := catalog.MatViews(ctx, e.conn, s.Selection)
	if err != nil {
		return err
	}
	var populated []string
	for _, v := range views {
		if v.Populated {
			populated = append(populated, v.Ident.String())
		}
	}
	if len(populated) > 0 {
		e.add(Finding{Code: "materialized-views", Severity: Info, Side: e.Side, Objects: populated,
			Text: fmt.Sprintf("%s: refreshed on the target after the copy, and again after the switchover", plural(len(populated), "materialized view"))})
	}
	return s.checkNotValid(ctx, e)
}

// lesserIdentities are the tables with REPLICA IDENTITY FULL that start gives another:
// who has asked for whole old rows does not get them meanwhile.
func (e *end) lesserIdentities() (tables []string) {
	for i := range e.tables {
		t := &e.tables[i]
		c, needed := replication.SettleIdentity(t)
		if !needed || t.Unlogged || c.Old != catalog.IdentityFull || c.New == catalog.IdentityFull {
			continue
		}
		what := "DEFAULT"
		if c.New == catalog.IdentityIndex {
			what = "USING INDEX " + postgres.QuoteIdent(c.NewIndex)
		}
		tables = append(tables, fmt.Sprintf("%s has %s instead of FULL while it moves", t.Ident, what))
	}
	return tables
}

// checkNotValid: the servers' own copy checks rows against constraints that the
// source never checked them against.
func (s *survey) checkNotValid(ctx context.Context, e *end) error {
	if s.Method != Native {
		return nil
	}
	constraints, err := texts(ctx, e.conn, fmt.Sprintf(`
		SELECT pg_catalog.format('%%I on %%I.%%I', k.conname, n.nspname, c.relname)
		FROM pg_catalog.pg_constraint k
		JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE k.contype = 'c' AND NOT k.convalidated AND c.oid <> ALL ($1) AND %s
		ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C", k.conname::text COLLATE "C"`, userSchema), e.relationsOut)
	if err != nil || len(constraints) == 0 {
		return err
	}
	e.add(Finding{Code: "not-valid", Severity: Warning, Side: e.Side, Objects: constraints,
		Text:   fmt.Sprintf("%s NOT VALID: a row that violates one stops the copy of its table with method native", plural(len(constraints), "check constraint")),
		Remedy: "ALTER TABLE ... VALIDATE CONSTRAINT shows whether there are any; --method stream copies them as they are"})
	return nil
}
