package preflight

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// This file evaluates expressions of the user's, and so runs functions of the user's.
// They must get no right of ours: they run as the owner of the table, as in ANALYZE and
// CREATE INDEX. SET ROLE alone would not do, as a function may RESET ROLE; inside a
// function that is SECURITY DEFINER the server refuses that
// (https://www.postgresql.org/docs/current/sql-set-role.html). So the owner gets one,
// among the temporary objects, in a transaction that is read-only from then on and
// always rolled back: nothing is left of it, and nothing deferred comes to run.

// nameErrors are the SQLSTATEs of a name that is not found: function or operator,
// table, type or other object, schema, column (of what was found instead, or a
// function written as one).
var nameErrors = []string{"42883", postgres.UndefinedTable, postgres.UndefinedObject, postgres.InvalidSchema, "42703"}

// sampleRows is how many rows of a table an expression is tried on.
const sampleRows = 1000

// try evaluates an expression with a search_path and returns the error if a name was
// not found. What else it may say of a row is not our business. refusal says why it
// could not be tried.
func try(ctx context.Context, e *end, x expression, path []string) (failure, refusal, err error) {
	var owner, from, plain string
	var may bool
	err = e.conn.QueryRow(ctx, sampleSQL, x.rel).Scan(&owner, &may, &from, &plain)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, nil // dropped meanwhile: nothing to try
	}
	if err != nil {
		return nil, nil, err
	}
	if !may {
		return nil, fmt.Errorf("role %s may not become the table's owner %s", e.user(), postgres.QuoteIdent(owner)), nil
	}
	rows, failure, refusal, err := evaluate(ctx, e.conn, owner, x.sql, from, path)
	if rows == 0 && refusal == nil && err == nil {
		_, failure, refusal, err = evaluate(ctx, e.conn, owner, x.sql, plain, path)
	}
	return failure, refusal, err
}

// evaluate evaluates an expression on rows, as a role.
func evaluate(ctx context.Context, conn *postgres.Session, role, expression, from string, path []string) (rows int64, failure, refusal, err error) {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadWrite})
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = tx.Rollback(ctx) }() // nothing was changed
	body := fmt.Sprintf("SELECT pg_catalog.count(*), pg_catalog.count(s.x) FROM (SELECT (%s) AS x FROM %s LIMIT %d) AS s", expression, from, sampleRows)
	_, err = tx.Exec(ctx, strings.Join([]string{
		"SET LOCAL statement_timeout = '2s'",
		"SET LOCAL check_function_bodies = off",
		"SET LOCAL ROLE " + postgres.QuoteIdent(role),
		"CREATE FUNCTION pg_temp.pgbaton_evaluate(OUT pg_catalog.int8, OUT pg_catalog.int8) LANGUAGE sql SECURITY DEFINER AS " + postgres.QuoteLiteral(body),
		"SET LOCAL ROLE NONE",
		"SET LOCAL search_path = " + cmp.Or(strings.Join(identifiers(path), ", "), "''"),
		"SET TRANSACTION READ ONLY",
	}, "; "))
	if postgres.Code(err) != "" {
		return 0, nil, err, nil
	}
	if err != nil {
		return 0, nil, nil, err
	}
	var values int64
	err = tx.QueryRow(ctx, "SELECT * FROM pg_temp.pgbaton_evaluate()", pgx.QueryExecModeSimpleProtocol).Scan(&rows, &values)
	switch code := postgres.Code(err); {
	case slices.Contains(nameErrors, code):
		return 1, err, nil, nil
	case code != "":
		return 1, nil, nil, nil
	}
	return rows, nil, nil, err
}

// sampleSQL gives what stands after FROM for the rows of a relation, and for a row
// of plain values; its owner, and whether our role may become that.
const sampleSQL = `
SELECT pg_catalog.pg_get_userbyid(c.relowner), pg_catalog.pg_has_role(c.relowner, 'MEMBER'),
	CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || c.oid::pg_catalog.regclass::text,
	pg_catalog.format('(SELECT %s) AS %I', pg_catalog.string_agg(pg_catalog.format('CAST(%s AS %s) AS %I',
		CASE b.typcategory
			WHEN 'N' THEN '''1''' WHEN 'S' THEN '''a''' WHEN 'B' THEN '''true''' WHEN 'D' THEN '''2000-01-01 12:00''' WHEN 'T' THEN '''1 day'''
			WHEN 'A' THEN '''{}''' WHEN 'I' THEN '''127.0.0.1''' WHEN 'R' THEN '''empty''' WHEN 'V' THEN '''1'''
			WHEN 'E' THEN (SELECT pg_catalog.quote_literal(l.enumlabel) FROM pg_catalog.pg_enum l WHERE l.enumtypid = b.oid ORDER BY l.enumsortorder LIMIT 1)
			ELSE CASE b.typname WHEN 'uuid' THEN '''00000000-0000-0000-0000-000000000000''' WHEN 'json' THEN '''{}''' WHEN 'jsonb' THEN '''{}'''
				WHEN 'bytea' THEN '''a''' WHEN 'xml' THEN '''<a/>''' WHEN 'tsvector' THEN '''a''' WHEN 'ltree' THEN '''a''' ELSE 'NULL' END END,
		pg_catalog.format_type(b.oid, NULL), a.attname), ', ' ORDER BY a.attnum), c.relname)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
CROSS JOIN LATERAL (
	WITH RECURSIVE base (oid) AS (
		SELECT a.atttypid
		UNION ALL
		SELECT t.typbasetype FROM base JOIN pg_catalog.pg_type t ON t.oid = base.oid WHERE t.typtype = 'd'
	)
	SELECT t.oid, t.typname, t.typcategory FROM base JOIN pg_catalog.pg_type t ON t.oid = base.oid WHERE t.typtype <> 'd'
) AS b
WHERE c.oid = $1
GROUP BY c.oid, c.relkind, c.relname, c.relowner`
