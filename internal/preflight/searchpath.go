package preflight

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

//go:embed searchpath.sql
var expressionsSQL string

// expression is one that the server evaluates by itself while rows are moved.
type expression struct {
	what      string
	rel       uint32
	sql       string
	functions []uint32 // of the user's, that it names
}

// function is a function of the user's.
type function struct {
	signature, schema, source string
	owner                     string
	extension, settled        bool // of an extension; with a search_path of its own
}

func (f function) setSQL(path []string) string {
	quoted := make([]string, len(path))
	for i, name := range path {
		quoted[i] = postgres.QuoteIdent(name)
	}
	return fmt.Sprintf("ALTER FUNCTION %s SET search_path = %s", f.signature, strings.Join(quoted, ", "))
}

// nameErrors are the SQLSTATEs of a name that is not found: function or operator,
// table, type or other object, schema, column of what was found instead.
var nameErrors = []string{"42883", postgres.UndefinedTable, postgres.UndefinedObject, postgres.InvalidSchema}

// checkSearchPath evaluates the expressions that the server will evaluate when rows
// are copied, applied, indexed and analyzed, as it will: with an empty search_path.
// (COPY by pgbaton and pg_restore, an apply worker, and from 17 on CREATE INDEX and
// ANALYZE by anybody have one that finds only pg_catalog.) A function that finds
// what it calls by a plain name fails there. Some rows of the table are tried; of an
// empty one, a row of plain values.
func checkSearchPath(ctx context.Context, s *survey, e *end) error {
	expressions, err := readExpressions(ctx, e)
	if err != nil || len(expressions) == 0 {
		return err
	}
	p, err := readPaths(ctx, e)
	if err != nil {
		return err
	}
	var objects, foreign []string
	remedies := map[uint32][]string{} // by function: its search_path; empty: none was found that helps
	for _, x := range expressions {
		failure, err := p.try(ctx, e, x, nil)
		if err != nil {
			return err
		}
		if failure == nil {
			continue
		}
		var mine []uint32
		for _, f := range x.functions {
			if !p.functions[f].extension {
				mine = append(mine, f)
			}
		}
		shown := fmt.Sprintf("%s: %s", x.what, postgres.Describe(failure))
		if len(mine) == 0 {
			foreign = append(foreign, shown)
			continue
		}
		objects = append(objects, shown)
		path, err := p.helps(ctx, e, x, mine)
		if err != nil {
			return err
		}
		for _, f := range mine {
			remedies[f] = path
		}
	}
	if len(objects) > 0 {
		e.add(Finding{Code: "search-path", Severity: Blocker, Side: e.Side, Objects: objects,
			Text: fmt.Sprintf("%s with functions that find what they use by a search_path: rows are copied and applied, and indexes built, with an empty one, so these would fail",
				plural(len(objects), "expression")),
			Remedy: p.remedy(remedies)})
	}
	if len(foreign) > 0 {
		e.add(Finding{Code: "search-path-extension", Severity: Warning, Side: e.Side, Objects: foreign,
			Text:   fmt.Sprintf("%s with functions of extensions that find what they use by a search_path: they fail on the target unless its version of the extension does better", plural(len(foreign), "expression")),
			Remedy: "wrap the function in one of your own with SET search_path, and use that; or drop what uses it until after the move"})
	}
	p.suspects(e, expressions, remedies)
	return nil
}

func readExpressions(ctx context.Context, e *end) ([]expression, error) {
	generated, statistics := "false", ""
	if e.Version().Major() >= 12 {
		generated = "a.attgenerated = 's'"
	}
	if e.Version().Major() >= 14 {
		statistics = `UNION ALL
	SELECT pg_catalog.format('statistics %s.%I', s.stxnamespace::pg_catalog.regnamespace, s.stxname), s.stxrelid, x, c.function
	FROM calls c JOIN pg_catalog.pg_statistic_ext s ON c.class = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass AND c.obj = s.oid
	CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_get_statisticsobjdef_expressions(s.oid)) AS x
	WHERE s.stxexprs IS NOT NULL`
	}
	rows, err := e.conn.Query(ctx, fmt.Sprintf(expressionsSQL, generated, statistics), e.relationsOut)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (x expression, err error) {
		err = row.Scan(&x.what, &x.rel, &x.sql, &x.functions)
		return x, err
	})
}

// paths is what there is to find, and where sessions of applications look for it.
type paths struct {
	functions map[uint32]function
	builtin   map[string]bool // the names of the server's own functions
	schemas   []string
	settings  [][2]string // role ("" for all) and search_path
}

func readPaths(ctx context.Context, e *end) (*paths, error) {
	p := &paths{functions: map[uint32]function{}, builtin: map[string]bool{}}
	builtin, err := texts(ctx, e.conn, `SELECT DISTINCT proname FROM pg_catalog.pg_proc WHERE pronamespace = 'pg_catalog'::pg_catalog.regnamespace`)
	if err != nil {
		return nil, err
	}
	for _, name := range builtin {
		p.builtin[name] = true
	}
	rows, err := e.conn.Query(ctx, fmt.Sprintf(`
		SELECT p.oid, p.oid::pg_catalog.regprocedure::text, n.nspname,
			CASE WHEN l.lanname IN ('sql', 'plpgsql') THEN p.prosrc ELSE '' END, pg_catalog.pg_get_userbyid(p.proowner), NOT %s,
			EXISTS (SELECT FROM pg_catalog.unnest(p.proconfig) AS s WHERE s LIKE 'search\_path=%%')
		FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
		JOIN pg_catalog.pg_language l ON l.oid = p.prolang WHERE %s`, notExtension("p.oid", "pg_proc"), userSchema))
	if err != nil {
		return nil, err
	}
	var oid uint32
	var f function
	if _, err := pgx.ForEachRow(rows, []any{&oid, &f.signature, &f.schema, &f.source, &f.owner, &f.extension, &f.settled}, func() error {
		p.functions[oid] = f
		return nil
	}); err != nil {
		return nil, err
	}
	if p.schemas, err = texts(ctx, e.conn, `SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE `+userSchema+` ORDER BY n.nspname <> 'public', n.nspname::text COLLATE "C"`); err != nil {
		return nil, err
	}
	rows, err = e.conn.Query(ctx, `
		SELECT coalesce(r.rolname, ''), pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1)
		FROM pg_catalog.pg_db_role_setting s CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS c
		LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
		WHERE c LIKE 'search_path=%' AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
		ORDER BY s.setrole, s.setdatabase DESC`)
	if err != nil {
		return nil, err
	}
	p.settings, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (s [2]string, err error) {
		err = row.Scan(&s[0], &s[1])
		return s, err
	})
	return p, err
}

// sampleRows is how many rows of a table an expression is tried on.
const sampleRows = 1000

// try evaluates an expression with a search_path, read-only, and returns the error
// if a name was not found. What else it may say of a row is not our business.
func (p *paths) try(ctx context.Context, e *end, x expression, path []string) (failure, err error) {
	quoted := []string{"''"}
	for i, name := range path {
		if i == 0 {
			quoted = nil
		}
		quoted = append(quoted, postgres.QuoteIdent(name))
	}
	evaluate := func(from string) (rows int64, failure, err error) {
		tx, err := e.conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
		if err != nil {
			return 0, nil, err
		}
		defer func() { _ = tx.Rollback(ctx) }() // nothing was changed
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = '2s'"); err != nil {
			return 0, nil, err
		}
		if _, err := tx.Exec(ctx, "SET LOCAL search_path = "+strings.Join(quoted, ", ")); err != nil {
			return 0, nil, err
		}
		var values int64
		sql := fmt.Sprintf("SELECT pg_catalog.count(*), pg_catalog.count(s.x) FROM (SELECT (%s) AS x FROM %s LIMIT %d) AS s", x.sql, from, sampleRows)
		failed := tx.QueryRow(ctx, sql, pgx.QueryExecModeSimpleProtocol).Scan(&rows, &values)
		switch {
		case failed == nil:
			return rows, nil, nil
		case slices.Contains(nameErrors, postgres.Code(failed)):
			return 1, failed, nil
		case postgres.Code(failed) != "":
			return 1, nil, nil
		}
		return 0, nil, failed
	}
	var from, plain string
	if err := e.conn.QueryRow(ctx, sampleSQL, x.rel).Scan(&from, &plain); err != nil {
		return nil, err
	}
	rows, failure, err := evaluate(from)
	if rows == 0 && err == nil {
		_, failure, err = evaluate(plain)
	}
	return failure, err
}

// sampleSQL gives what stands after FROM for the rows of a relation, and for a row
// of plain values.
const sampleSQL = `
SELECT CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || c.oid::pg_catalog.regclass::text,
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
GROUP BY c.oid, c.relkind, c.relname`

// helps finds the search_path with which an expression's functions find what they
// use: first those that applications have, then all schemas.
func (p *paths) helps(ctx context.Context, e *end, x expression, functions []uint32) ([]string, error) {
	for _, path := range p.candidates(functions) {
		failure, err := p.try(ctx, e, x, path)
		if err != nil || failure == nil {
			return path, err
		}
	}
	return nil, nil
}

// candidates are the paths that an application's sessions may have, without schemas
// that there are not.
func (p *paths) candidates(functions []uint32) [][]string {
	var candidates [][]string
	add := func(path ...string) {
		var exist []string
		for _, name := range path {
			if slices.Contains(p.schemas, name) && !slices.Contains(exist, name) {
				exist = append(exist, name)
			}
		}
		if len(exist) > 0 {
			candidates = append(candidates, exist)
		}
	}
	for _, s := range p.settings {
		add(splitPath(s[1], s[0])...)
	}
	for _, f := range functions {
		add(splitPath(`"$user", public`, p.functions[f].owner)...)
	}
	for _, f := range functions {
		add(p.functions[f].schema, "public")
	}
	add(p.schemas...)
	return candidates
}

// splitPath splits a search_path as the catalogs store it; user stands for "$user".
func splitPath(path, user string) (names []string) {
	for len(path) > 0 {
		path = strings.TrimLeft(path, " ,\t")
		var name string
		if strings.HasPrefix(path, `"`) {
			end := 1
			for end < len(path) && (path[end] != '"' || strings.HasPrefix(path[end:], `""`)) {
				if path[end] == '"' {
					end++
				}
				end++
			}
			name = strings.ReplaceAll(path[1:min(end, len(path))], `""`, `"`)
			path = path[min(end+1, len(path)):]
		} else {
			name, path, _ = strings.Cut(path, ",")
			name = strings.ToLower(strings.TrimSpace(name))
		}
		if name == "$user" {
			name = user
		}
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// remedy sets the search_path of functions; those that nothing helps are comments.
func (p *paths) remedy(found map[uint32][]string) string {
	var sql []string
	for f, path := range found {
		if len(path) > 0 {
			sql = append(sql, p.functions[f].setSQL(path))
		} else {
			sql = append(sql, fmt.Sprintf("-- %s uses something that is in no schema of the database: mend it", p.functions[f].signature))
		}
	}
	slices.Sort(sql)
	return statements(sql...)
}
