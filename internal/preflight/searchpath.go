package preflight

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"maps"
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
	return fmt.Sprintf("ALTER FUNCTION %s SET search_path = %s", f.signature, strings.Join(identifiers(path), ", "))
}

// checkSearchPath evaluates the expressions that the server will evaluate when rows
// are copied, applied, indexed and analyzed, as it will: with an empty search_path.
// (COPY by pgbaton and pg_restore, an apply worker, and from 17 on CREATE INDEX and
// ANALYZE by anybody have one that finds only pg_catalog.) A function that finds
// what it calls by a plain name fails there. Some rows of the table are tried; of an
// empty one, a row of plain values. What cannot be tried is only read.
func checkSearchPath(ctx context.Context, s *survey, e *end) error {
	expressions, err := readExpressions(ctx, e)
	if err != nil || len(expressions) == 0 {
		return err
	}
	p, err := readPaths(ctx, e)
	if err != nil {
		return err
	}
	var objects, foreign, untried []string
	remedies := map[uint32]proposal{} // by function
	for _, x := range expressions {
		failure, refusal, err := try(ctx, e, x, nil)
		switch {
		case err != nil:
			return err
		case refusal != nil:
			untried = append(untried, fmt.Sprintf("%s: %s", x.what, postgres.Describe(refusal)))
			continue
		case failure == nil:
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
		proposed, err := p.helps(ctx, e, x, mine)
		if err != nil {
			return err
		}
		for _, f := range mine {
			remedies[f] = proposed
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
	if len(untried) > 0 {
		e.add(Finding{Code: "search-path-untried", Severity: Info, Side: e.Side, Objects: untried,
			Text:   fmt.Sprintf("%s could not be tried with the empty search_path that rows are copied and applied with: that is done with the rights of the table's owner only. The functions were read for calls by plain names", plural(len(untried), "expression")),
			Remedy: "check once as a superuser, or as a role that may SET ROLE to the tables' owners, who may create temporary objects; functions with a search_path of their own need no trial"})
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

// proposal is a search_path for a function; empty: none was found that helps.
type proposal struct {
	path []string
	open []string // schemas of it in which others may create: it was not tried
}

// helps finds the search_path with which an expression's functions find what they
// use, among those that applications have. Schemas in which others may create are not
// tried: what they have put there would run with the rights of the table's owner.
func (p *paths) helps(ctx context.Context, e *end, x expression, functions []uint32) (found proposal, err error) {
	candidates := p.candidates(functions)
	var owners []string
	for _, f := range functions {
		owners = append(owners, p.functions[f].owner)
	}
	open, err := openSchemas(ctx, e, x.rel, owners, slices.Concat(candidates...))
	if err != nil {
		return found, err
	}
	isOpen := func(name string) bool { return slices.Contains(open, name) }
	for _, path := range candidates {
		if slices.ContainsFunc(path, isOpen) && found.path == nil {
			found = proposal{path: path, open: slices.DeleteFunc(slices.Clone(path), func(name string) bool { return !isOpen(name) })}
		}
		closed := slices.DeleteFunc(slices.Clone(path), isOpen)
		if len(closed) == 0 {
			continue
		}
		failure, refusal, err := try(ctx, e, x, closed)
		if err != nil {
			return found, err
		}
		if failure == nil && refusal == nil {
			return proposal{path: closed}, nil
		}
	}
	return found, nil
}

// openSchemas are those of the schemas named in which somebody may create who is not
// a superuser, nor may become the owner of the table or of a function.
func openSchemas(ctx context.Context, e *end, table uint32, owners, names []string) ([]string, error) {
	return texts(ctx, e.conn, `
		SELECT n.nspname FROM pg_catalog.pg_namespace n
		WHERE n.nspname = ANY ($3) AND EXISTS (
			SELECT FROM pg_catalog.pg_roles r
			WHERE r.rolcanlogin AND NOT r.rolsuper
				AND EXISTS (
					SELECT FROM (
						SELECT n.nspowner
						UNION ALL
						SELECT a.grantee FROM pg_catalog.aclexplode(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) AS a
						WHERE a.privilege_type = 'CREATE'
					) AS creator (oid)
					WHERE CASE creator.oid WHEN 0 THEN true ELSE pg_catalog.pg_has_role(r.oid, creator.oid, 'MEMBER') END)
				AND NOT EXISTS (
					SELECT FROM pg_catalog.pg_roles o
					WHERE (o.rolname = ANY ($2) OR o.oid = (SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid = $1))
						AND pg_catalog.pg_has_role(r.oid, o.oid, 'MEMBER')))`, table, owners, names)
}

// candidates are the paths that an application's sessions may have, without schemas
// that there are not.
func (p *paths) candidates(functions []uint32) [][]string {
	var candidates [][]string
	add := func(path []string) {
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
		add(splitPath(s[1], s[0]))
	}
	for _, f := range functions {
		add(splitPath(`"$user", public`, p.functions[f].owner))
	}
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
func (p *paths) remedy(found map[uint32]proposal) string {
	var sql []string
	for _, f := range slices.SortedFunc(maps.Keys(found), func(a, b uint32) int {
		return cmp.Compare(p.functions[a].signature, p.functions[b].signature)
	}) {
		switch x := found[f]; {
		case len(x.path) == 0:
			sql = append(sql, fmt.Sprintf("-- %s uses something that is in no search_path which applications have: mend it", p.functions[f].signature))
		case len(x.open) > 0:
			sql = append(sql, fmt.Sprintf("-- not tried, as others may create objects in %s:", list(identifiers(x.open))))
			fallthrough
		default:
			sql = append(sql, p.functions[f].setSQL(x.path))
		}
	}
	return statements(sql...)
}

// identifiers quotes names for SQL.
func identifiers(names []string) []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = postgres.QuoteIdent(name)
	}
	return all
}
