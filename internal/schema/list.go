package schema

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// Object is an object of a database by catalog and OID.
type Object struct{ Class, OID uint32 }

// Catalogs of objects that an archive's entries name.
const (
	ClassRelation   = 1259 // pg_class: tables, indexes, sequences, views
	ClassConstraint = 2606 // pg_constraint

	classPolicy      = 3256 // pg_policy
	classUserMapping = 1418 // pg_user_mapping
)

// Entry is a line of an archive's list. Those that make no object of their own,
// such as comments and grants, have the zero Object.
type Entry struct {
	Object
	Line string
}

// entryLine matches "3456; 2606 16412 CONSTRAINT public t_pkey owner".
var entryLine = regexp.MustCompile(`^\d+; (\d+) (\d+) `)

// Entries lists what a section of an archive holds.
func Entries(ctx context.Context, tools Tools, archive, section string) ([]Entry, error) {
	args := []string{"--list", archive}
	if section != Everything {
		args = append(args, "--section="+section)
	}
	out, err := exec.CommandContext(ctx, filepath.Join(tools.Dir, "pg_restore"), args...).Output()
	if err != nil {
		return nil, fmt.Errorf("pg_restore --list: %w", err)
	}
	return parseList(string(out))
}

// parseList takes a list as pg_restore prints it apart. Its comments begin with a
// semicolon.
func parseList(list string) (entries []Entry, err error) {
	for line := range strings.Lines(list) {
		m := entryLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		class, err := strconv.ParseUint(m[1], 10, 32)
		oid, oidErr := strconv.ParseUint(m[2], 10, 32)
		if err := errors.Join(err, oidErr); err != nil {
			return nil, fmt.Errorf("pg_restore --list: %q: %w", strings.TrimSpace(line), err)
		}
		entries = append(entries, Entry{Object{uint32(class), uint32(oid)}, line})
	}
	return entries, nil
}

// statisticsEntry is how the line of a relation's statistics goes on behind its number.
const statisticsEntry = "; 0 0 STATISTICS DATA "

// Statistics is the name of the relation whose statistics the entry holds, as
// StatisticsName spells it; "" for any other entry.
func (e Entry) Statistics() string {
	_, name, _ := strings.Cut(e.Line, statisticsEntry)
	return strings.TrimSuffix(strings.TrimRight(name, "\n"), " ") // no owner follows
}

// StatisticsName spells a table as an archive's list does. Two tables can be spelt
// alike, as names are not quoted there; a line break in them becomes a space.
func StatisticsName(t postgres.Ident) string {
	return strings.NewReplacer("\n", " ", "\r", " ").Replace(t.Schema + " " + t.Name)
}

// Constraint is a constraint that a restore leaves out.
type Constraint struct {
	OID   uint32
	Table postgres.Ident
	Name  string
}

// Without takes constraints out of a list, each with the comment on it.
func Without(entries []Entry, constraints []Constraint) []Entry {
	return slices.DeleteFunc(entries, func(e Entry) bool {
		return slices.ContainsFunc(constraints, func(c Constraint) bool {
			return e.Object == Object{ClassConstraint, c.OID} || e.commentsOn(c)
		})
	})
}

// refreshLine matches "3890; 0 16520 MATERIALIZED VIEW DATA app sales owner".
var refreshLine = regexp.MustCompile(`^\d+; \d+ \d+ MATERIALIZED VIEW DATA `)

// WithoutRefreshes takes the refreshes of materialized views out of a list of an
// archive with rows.
func WithoutRefreshes(entries []Entry) []Entry {
	return slices.DeleteFunc(entries, func(e Entry) bool { return refreshLine.MatchString(e.Line) })
}

// commentsOn says whether the entry is the comment on a constraint: it names no
// object, but has its names, in quotes where they need some.
func (e Entry) commentsOn(c Constraint) bool {
	if e.OID != 0 || !strings.Contains(e.Line, " COMMENT ") {
		return false
	}
	for _, name := range []string{c.Name, postgres.QuoteIdent(c.Name)} {
		for _, table := range []string{c.Table.Name, postgres.QuoteIdent(c.Table.Name)} {
			if strings.Contains(e.Line, " COMMENT "+c.Table.Schema+" CONSTRAINT "+name+" ON "+table+" ") {
				return true
			}
		}
	}
	return false
}

// WriteList writes a list for RestoreOptions.List.
func WriteList(file string, entries []Entry) error {
	var b strings.Builder
	for _, e := range entries {
		b.WriteString(e.Line)
	}
	return os.WriteFile(file, []byte(b.String()), 0o600)
}

// identitiesSQL spells objects in a way that does not depend on OIDs.
const identitiesSQL = `
SELECT o.class, o.oid, i.type || ' ' || i.identity
FROM ROWS FROM (pg_catalog.unnest($1::oid[]), pg_catalog.unnest($2::oid[])) AS o (class, oid)
CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.class, o.oid, 0) AS i
WHERE i.identity IS NOT NULL`

// thereSQL spells everything on the target that comes after the rows. The OIDs are
// those of the catalogs.
const thereSQL = `
SELECT i.type || ' ' || i.identity
FROM (
	SELECT 2620::oid, oid FROM pg_catalog.pg_trigger WHERE NOT tgisinternal
	UNION ALL SELECT 2618, oid FROM pg_catalog.pg_rewrite WHERE rulename <> '_RETURN' AND ev_class >= 16384
	UNION ALL SELECT 3256, oid FROM pg_catalog.pg_policy
	UNION ALL SELECT 2606, oid FROM pg_catalog.pg_constraint WHERE oid >= 16384
	UNION ALL SELECT 3381, oid FROM pg_catalog.pg_statistic_ext
	UNION ALL SELECT 3466, oid FROM pg_catalog.pg_event_trigger
	UNION ALL SELECT 1259, oid FROM pg_catalog.pg_class WHERE relkind IN ('i', 'I') AND oid >= 16384
) AS o (class, oid)
CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.class, o.oid, 0) AS i`

// Missing takes those entries out whose object the target has already, from a
// restore that was interrupted. Entries without an object are kept: comments,
// grants and the like can be given again.
func Missing(ctx context.Context, source, target catalog.Querier, entries []Entry) ([]Entry, error) {
	rows, err := target.Query(ctx, thereSQL)
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, n := range names {
		there[n] = true
	}
	var classes, oids []uint32
	for _, e := range entries {
		if e.OID != 0 {
			classes, oids = append(classes, e.Class), append(oids, e.OID)
		}
	}
	if rows, err = source.Query(ctx, identitiesSQL, classes, oids); err != nil {
		return nil, err
	}
	done := map[Object]bool{}
	var o Object
	var name string
	if _, err := pgx.ForEachRow(rows, []any{&o.Class, &o.OID, &name}, func() error {
		// A row security entry names its table, which is there anyway.
		done[o] = there[name]
		return nil
	}); err != nil {
		return nil, err
	}
	var missing []Entry
	for _, e := range entries {
		if e.OID == 0 || !done[e.Object] {
			missing = append(missing, e)
		}
	}
	return missing, nil
}

// HasExtension says whether a database has an extension.
func HasExtension(ctx context.Context, q catalog.Querier, name string) (has bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = $1)`, name).Scan(&has)
	return has, err
}
