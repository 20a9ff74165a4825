package preflight

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// ownershipSQL lists the tables and sequences, without those left out ($1), whose owner's rights the role
// does not have: neither can it publish them nor change a replica identity.
const ownershipSQL = `
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), pg_catalog.pg_get_userbyid(c.relowner)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
	AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')
	AND c.oid <> ALL ($1) AND %s AND %s
ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`

// schemaUsageSQL lists the schemas, without those left out ($1), into which the
// role cannot look.
const schemaUsageSQL = `
SELECT n.nspname
FROM pg_catalog.pg_namespace n
WHERE NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND n.nspname::text <> ALL ($1) AND %s
ORDER BY n.nspname::text COLLATE "C"`

// readableSQL lists tables and sequences, without those left out ($1), that the
// role cannot read, although it has the owner's rights: those of the owner can be revoked too. A sequence is
// read for its value, and set on the way back.
const readableSQL = `
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), c.relkind = 'S'
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'S') AND c.relpersistence <> 't'
	AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
	-- CASE keeps each function to the kind of object that it accepts.
	AND CASE c.relkind
		WHEN 'S' THEN NOT (pg_catalog.has_sequence_privilege(c.oid, 'SELECT') AND pg_catalog.has_sequence_privilege(c.oid, 'UPDATE'))
		ELSE NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')
	END
	AND c.oid <> ALL ($1) AND %s AND %s
ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`

// checkOwnership looks for what the role cannot publish or read on the source.
func checkOwnership(ctx context.Context, s *survey, e *end) error {
	if e.role.super {
		return nil
	}
	members := notExtension("c.oid", "pg_class")
	rows, err := e.conn.Query(ctx, fmt.Sprintf(ownershipSQL, userSchema, members), e.relationsOut)
	if err != nil {
		return err
	}
	var name, owner string
	var foreign, owners []string
	granted := map[string]bool{}
	_, err = pgx.ForEachRow(rows, []any{&name, &owner}, func() error {
		foreign = append(foreign, name)
		if !granted[owner] {
			granted[owner] = true
			owners = append(owners, owner)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(foreign) > 0 {
		e.add(Finding{Code: "privilege-owner", Severity: Blocker, Side: e.Side, Objects: foreign, Remedy: e.grantRoles(owners...),
			Text: fmt.Sprintf("role %s does not have the rights of the owner of %s: it cannot publish them", e.user(), plural(len(foreign), "relation"))})
	}

	schemas, err := texts(ctx, e.conn, fmt.Sprintf(schemaUsageSQL, userSchema), e.schemasOut)
	if err != nil {
		return err
	}
	if len(schemas) > 0 {
		var sql, objects []string
		for _, name := range schemas {
			objects = append(objects, postgres.QuoteIdent(name))
			sql = append(sql, fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s", postgres.QuoteIdent(name), e.user()))
		}
		e.add(Finding{Code: "privilege-usage", Severity: Blocker, Side: e.Side, Objects: objects, Remedy: statements(sql...),
			Text: fmt.Sprintf("role %s may not use %s", e.user(), plural(len(schemas), "schema"))})
	}

	rows, err = e.conn.Query(ctx, fmt.Sprintf(readableSQL, userSchema, members), e.relationsOut)
	if err != nil {
		return err
	}
	var isSequence bool
	var unreadable, sql []string
	_, err = pgx.ForEachRow(rows, []any{&name, &isSequence}, func() error {
		unreadable = append(unreadable, name)
		grant := fmt.Sprintf("GRANT SELECT ON TABLE %s TO %s", name, e.user())
		if isSequence {
			grant = fmt.Sprintf("GRANT SELECT, UPDATE ON SEQUENCE %s TO %s", name, e.user())
		}
		sql = append(sql, grant)
		return nil
	})
	if err != nil {
		return err
	}
	if len(unreadable) > 0 {
		e.add(Finding{Code: "privilege-select", Severity: Blocker, Side: e.Side, Objects: unreadable, Remedy: statements(sql...),
			Text: fmt.Sprintf("role %s may not read %s", e.user(), plural(len(unreadable), "relation"))})
	}
	return nil
}
