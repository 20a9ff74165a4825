package schema

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// This file has the rows that extensions keep for the user in tables of their own:
// jobs, partition sets, reference systems. CREATE EXTENSION makes the table, and
// rows of its own in it; the user's, as the extension declares them, are copied.
// They are few, and belong to no publication: each handover sets them again.

// Config is a table of the user's rows on both sides.
type Config struct {
	From, To catalog.ConfigTable
}

// ReadConfigs lists those tables that can be copied from one side to another, and
// says of others why not.
func ReadConfigs(ctx context.Context, from, to catalog.Querier) (all []Config, left []string, err error) {
	have, err := catalog.ConfigTables(ctx, from)
	if err != nil || len(have) == 0 {
		return nil, nil, err
	}
	there, err := catalog.ConfigTables(ctx, to)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range have {
		i := slices.IndexFunc(there, func(t catalog.ConfigTable) bool { return t.Ident == f.Ident })
		why := ""
		switch {
		case i < 0:
			why = "the other side's version of the extension has no such table"
		case !f.Readable:
			why = "our role may not read it"
		case !there[i].Writable:
			why = "our role on the other side may not write it, or not set session_replication_role"
		default:
			for _, c := range f.Columns {
				if !slices.Contains(there[i].Columns, c) {
					why = fmt.Sprintf("the other side's version of the extension has no column %s in it", postgres.QuoteIdent(c))
				}
			}
		}
		if why != "" {
			left = append(left, fmt.Sprintf("rows of %s of extension %s are left behind: %s", f.Ident, postgres.QuoteIdent(f.Extension), why))
			continue
		}
		all = append(all, Config{f, there[i]})
	}
	return all, left, nil
}

func (c Config) columns() string {
	names := make([]string, len(c.From.Columns))
	for i, n := range c.From.Columns {
		names[i] = postgres.QuoteIdent(n)
	}
	return strings.Join(names, ", ")
}

// ReadSQL is the statement with which the user's rows are read.
func (c Config) ReadSQL() string {
	return fmt.Sprintf("COPY (SELECT %s FROM %s %s) TO STDOUT", c.columns(), c.From.Ident, c.From.Condition)
}

// ClearSQL removes the user's rows on the side that receives.
func (c Config) ClearSQL() string {
	return strings.TrimSpace(fmt.Sprintf("DELETE FROM %s %s", c.To.Ident, c.To.Condition))
}

// Read returns the user's rows.
func (c Config) Read(ctx context.Context, conn *postgres.Session) ([]byte, error) {
	var rows bytes.Buffer
	_, err := conn.PgConn().CopyTo(ctx, &rows, c.ReadSQL())
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", c.From.Ident, err)
	}
	return rows.Bytes(), nil
}

// HeedSQL are the statements with which the extension on the side that receives hears
// of it: they fire the triggers of its own that fire once for a statement, and touch no
// row. pg_cron reads its jobs again when such a trigger has fired, and not before.
func (c Config) HeedSQL() []string {
	if len(c.To.Heeds) == 0 {
		return nil
	}
	all := []string{"SET LOCAL session_replication_role = origin"}
	for _, event := range c.To.Heeds {
		switch event {
		case "DELETE":
			all = append(all, fmt.Sprintf("DELETE FROM %s WHERE false", c.To.Ident))
		case "INSERT":
			all = append(all, fmt.Sprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s WHERE false", c.To.Ident, c.columns(), c.columns(), c.To.Ident))
		case "UPDATE": // of all columns: a trigger may be for one
			set := make([]string, len(c.To.Columns))
			for i, n := range c.To.Columns {
				set[i] = postgres.QuoteIdent(n) + " = DEFAULT"
			}
			all = append(all, fmt.Sprintf("UPDATE %s SET %s WHERE false", c.To.Ident, strings.Join(set, ", ")))
		}
	}
	return all
}

// Unheard says what Write has returned, and UnheardRemedy what then helps.
func (c Config) Unheard(why error) string {
	return fmt.Sprintf("extension %s may not know yet that rows of its table %s have changed: %s", postgres.QuoteIdent(c.To.Extension), c.To.Ident, postgres.Describe(why))
}

// UnheardRemedy belongs to Unheard.
const UnheardRemedy = "once the side is open, change a row there in the way of the extension, or restart what runs of it"

// Write puts the rows in place of those that the side that receives has. What refers
// to them stays, and no trigger fires for a row: what these did arrives by itself. Where
// only some rows are the user's, one that the extension has made there itself stays.
// The session must be one of which ReadConfigs has said that it may. unheard is why the
// extension was not told that its rows have changed; they are written all the same.
func (c Config) Write(ctx context.Context, conn *postgres.Session, rows []byte) (unheard, err error) {
	into := c.To.Ident.String()
	before := []string{c.ClearSQL()}
	var after []string
	if c.To.Condition != "" {
		into = "pg_temp.pgbaton_config"
		before = append(before, fmt.Sprintf("CREATE TEMP TABLE pgbaton_config ON COMMIT DROP AS SELECT %s FROM %s WITH NO DATA", c.columns(), c.To.Ident))
		after = append(after, fmt.Sprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM pg_temp.pgbaton_config ON CONFLICT DO NOTHING",
			c.To.Ident, c.columns(), c.columns()))
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := execEach(ctx, tx, before); err != nil {
			return err
		}
		if _, err := conn.PgConn().CopyFrom(ctx, bytes.NewReader(rows), fmt.Sprintf("COPY %s (%s) FROM STDIN", into, c.columns())); err != nil {
			return err
		}
		if err := execEach(ctx, tx, after); err != nil {
			return err
		}
		if len(c.To.Deaf) > 0 {
			unheard = fmt.Errorf("what makes its trigger %s fire would make one of yours fire too, or a rule; or our role lacks the right", postgres.QuoteIdent(c.To.Deaf[0]))
		}
		if len(c.To.Heeds) == 0 {
			return nil
		}
		err := pgx.BeginFunc(ctx, tx, func(part pgx.Tx) error { return execEach(ctx, part, c.HeedSQL()) })
		if postgres.Refused(err) {
			unheard, err = err, nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", c.To.Ident, err)
	}
	return unheard, nil
}

// WithoutConfigs takes the rows of such tables out of the list of an archive with rows.
func WithoutConfigs(entries []Entry, tables []catalog.ConfigTable) []Entry {
	return slices.DeleteFunc(entries, func(e Entry) bool {
		return strings.Contains(e.Line, " TABLE DATA ") && slices.ContainsFunc(tables, func(t catalog.ConfigTable) bool { return e.Object == Object{OID: t.OID} })
	})
}

func execEach(ctx context.Context, tx pgx.Tx, statements []string) error {
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}
