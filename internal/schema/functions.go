package schema

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// This file brings the functions of a target that a start has defined already up to
// what the source has by now: a function that was mended there is the usual way out
// of a copy that it has stopped.

// FunctionChange is a function that the target lacks or has in another definition.
type FunctionChange struct {
	Signature  string
	Definition string // CREATE OR REPLACE FUNCTION, as the source prints it
	Owner      string // of the source's
	New        bool   // the target has none of the signature
}

// functionsSQL lists the functions and procedures of the user's with what makes two
// of them the same on any version, and the definition. %s is the body of a
// BEGIN ATOMIC function, which each major may print in its own way.
const functionsSQL = `
SELECT p.oid::pg_catalog.regprocedure::text, pg_catalog.pg_get_functiondef(p.oid), pg_catalog.pg_get_userbyid(p.proowner),
	pg_catalog.jsonb_build_array(p.prosrc, p.proconfig, p.provolatile, p.proisstrict, p.prosecdef, p.proparallel, l.lanname,
		pg_catalog.pg_get_function_result(p.oid), %s)::text
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE %s AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton') AND n.nspname <> ALL ($1)
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.deptype = 'e'
		AND x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND x.objid = p.oid)
ORDER BY p.oid`

type functionState struct{ signature, definition, owner, same string }

func readFunctions(ctx context.Context, q catalog.Querier, v postgres.Version, bodies bool, without []string) ([]functionState, error) {
	body, plain := "NULL", "NOT p.proisagg AND NOT p.proiswindow"
	if v.Major() >= 11 {
		plain = "p.prokind IN ('f', 'p')"
	}
	if bodies {
		body = "pg_catalog.pg_get_function_sqlbody(p.oid)"
	}
	rows, err := q.Query(ctx, fmt.Sprintf(functionsSQL, body, plain), without)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (f functionState, err error) {
		err = row.Scan(&f.signature, &f.definition, &f.owner, &f.same)
		return f, err
	})
}

// ChangedFunctions lists the functions of the source that the target has not, or not
// so; without those of the schemas that are left out. Functions that are on the
// target alone stay.
func ChangedFunctions(ctx context.Context, source, target catalog.Querier, from, to postgres.Version, exclude catalog.Exclusion) ([]FunctionChange, error) {
	without := exclude.Schemas
	if without == nil {
		without = []string{}
	}
	bodies := from.Major() == to.Major() && to.Major() >= 14
	want, err := readFunctions(ctx, source, from, bodies, without)
	if err != nil {
		return nil, postgres.Wrap(postgres.Source, "listing functions", err)
	}
	have, err := readFunctions(ctx, target, to, bodies, without)
	if err != nil {
		return nil, postgres.Wrap(postgres.Target, "listing functions", err)
	}
	there := map[string]string{}
	for _, f := range have {
		there[f.signature] = f.same
	}
	var changes []FunctionChange
	for _, f := range want {
		if same, exists := there[f.signature]; !exists || same != f.same {
			changes = append(changes, FunctionChange{Signature: f.signature, Definition: f.definition, Owner: f.owner, New: !exists})
		}
	}
	return changes, nil
}

// ApplyFunctions gives a target the definitions, each by itself: failed are those
// that it does not take, with the reason. They are made in the source's order, then
// those that failed once more: one may need another that comes later.
func ApplyFunctions(ctx context.Context, conn *pgx.Conn, changes []FunctionChange) (failed map[string]error, err error) {
	roles, err := Roles(ctx, conn)
	if err != nil {
		return nil, err
	}
	apply := func(f FunctionChange) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			// As pg_restore does: what a body names may not be there yet.
			if _, err := tx.Exec(ctx, "SET LOCAL check_function_bodies = off"); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, f.Definition); err != nil || !f.New || !roles[f.Owner] {
				return err
			}
			_, err := tx.Exec(ctx, fmt.Sprintf("ALTER ROUTINE %s OWNER TO %s", f.Signature, postgres.QuoteIdent(f.Owner)))
			return err
		})
	}
	for range 2 {
		failed = map[string]error{}
		changes = slices.DeleteFunc(changes, func(f FunctionChange) bool {
			err := apply(f)
			if err != nil {
				failed[f.Signature] = err
			}
			return err == nil
		})
		if len(changes) == 0 || ctx.Err() != nil || conn.IsClosed() {
			break
		}
	}
	for _, err := range failed {
		if postgres.Code(err) == "" { // not the server's answer
			return nil, err
		}
	}
	return failed, nil
}
