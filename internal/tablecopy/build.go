package tablecopy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/event"
	"pgbaton/internal/postgres"
)

// This file has the tasks on the target alone: indexes, keys, statistics.

// buildSQL builds an index. An earlier try may have done so.
func (l *loader) buildSQL(x Index) []string {
	create := strings.Replace(x.Definition, " INDEX ", " INDEX IF NOT EXISTS ", 1)
	if x.Tablespace == "" || !l.target.tablespaces[x.Tablespace] {
		return []string{create}
	}
	// Its place in the definition is before a WHERE.
	return []string{"SET default_tablespace TO " + postgres.QuoteIdent(x.Tablespace), create, "SET default_tablespace TO ''"}
}

// buildIndex builds one index, with the help of processes that nobody else needs.
func (l *loader) buildIndex(table *Table, x Index) *task {
	t := &task{class: building, what: "index", name: x.Ident.String(), cost: indexCost(table, x)}
	t.run = func(ctx context.Context, w *worker, _ int) error {
		sql := l.buildSQL(x)
		if l.target.parallel {
			helpers := min(2, l.schedule.idle())
			sql = append([]string{fmt.Sprintf("SET max_parallel_maintenance_workers TO %d", helpers)}, sql...)
		}
		if err := exec(ctx, w.target, strings.Join(sql, "; ")); err != nil {
			return l.explain(postgres.Target, fmt.Sprintf("building index %s of", postgres.QuoteIdent(x.Name)), table.Ident, err)
		}
		l.meter.indexes.Add(1)
		return nil
	}
	return t
}

// keySQL makes the constraint of an index that is there, or makes both.
func keySQL(table postgres.Ident, x Index) string {
	sql := fmt.Sprintf("ALTER TABLE ONLY %s ADD CONSTRAINT %s ", table, postgres.QuoteIdent(x.Constraint))
	if x.whole() {
		return sql + x.ConstraintDefinition
	}
	return sql + strings.TrimSpace(x.Key+" USING INDEX "+postgres.QuoteIdent(x.Name)+" "+x.Deferral)
}

// buildKey makes a constraint that brings its index.
func (l *loader) buildKey(table *Table, x Index) *task {
	t := &task{class: building, what: "key", name: x.Ident.String(), cost: indexCost(table, x)}
	t.run = func(ctx context.Context, w *worker, try int) error {
		have, err := w.constraints(ctx, try > 1, table)
		if err == nil && !have[x.Constraint] {
			err = exec(ctx, w.target, keySQL(table.Ident, x))
		}
		if err != nil {
			return l.explain(postgres.Target, fmt.Sprintf("adding constraint %s to", postgres.QuoteIdent(x.Constraint)), table.Ident, err)
		}
		l.meter.indexes.Add(1)
		return nil
	}
	return t
}

// constraints lists those that a table has by now, if an earlier try may have
// made some.
func (w *worker) constraints(ctx context.Context, ask bool, tables ...*Table) (map[string]bool, error) {
	have := map[string]bool{}
	if !ask {
		return have, nil
	}
	for _, t := range tables {
		results, err := w.target.Exec(ctx, `SELECT conname FROM pg_catalog.pg_constraint WHERE conrelid = `+
			postgres.QuoteLiteral(t.Ident.String())+`::pg_catalog.regclass`).ReadAll()
		if err != nil {
			return nil, err
		}
		for _, row := range results[0].Rows {
			have[string(row[0])] = true
		}
	}
	return have, nil
}

// finishSQL is what a table needs when its indexes are built.
func finishSQL(t *Table, have map[string]bool) (sql []string) {
	for _, x := range t.Indexes {
		if x.Constraint != "" && !x.whole() && !have[x.Constraint] {
			sql = append(sql, keySQL(t.Ident, x))
		}
		sql = append(sql, x.Settings...)
	}
	if !t.Analyzed && !t.AnalyzeLater {
		sql = append(sql, "ANALYZE "+t.Ident.String())
	}
	return sql
}

// finishTable makes keys of a table's indexes, and gathers its statistics. These only
// help: what an index's expression calls may fail in ANALYZE.
func (l *loader) finishTable(table *Table) *task {
	t := &task{class: building, what: "statistics", name: table.Ident.String(), cost: analyzeCost(table)}
	t.run = func(ctx context.Context, w *worker, try int) error {
		have, err := w.constraints(ctx, try > 1, table)
		if err == nil {
			err = l.finish(ctx, w, table, have)
		}
		return l.explain(postgres.Target, "adding keys and gathering statistics of", table.Ident, err)
	}
	return t
}

func (l *loader) finish(ctx context.Context, w *worker, table *Table, have map[string]bool) error {
	run := func(t *Table) error {
		return exec(ctx, w.target, strings.Join(append(finishSQL(t, have), l.record(Finished, Loaded{Table: t.Ident})), "; "))
	}
	err := run(table)
	if err == nil || table.Analyzed || table.AnalyzeLater || ctx.Err() != nil || Transient(err) || postgres.Code(err) == "" {
		return err
	}
	without := *table
	without.AnalyzeLater = true
	if run(&without) != nil { // it was not the statistics
		return err
	}
	l.observe(event.Warning{Side: postgres.Target, Text: fmt.Sprintf("gathering statistics of %s: %s", table.Ident, postgres.Describe(err)),
		Remedy: fmt.Sprintf("the planner guesses until they are there: remove the cause, then ANALYZE %s on the target", table.Ident)})
	return nil
}

// finishBatch builds all indexes and keys of small tables in one transaction.
func (w *worker) finishBatch(ctx context.Context, batch []*Table, try int) error {
	var sql []string
	if w.loader.target.parallel {
		sql = append(sql, "SET max_parallel_maintenance_workers TO 0")
	}
	indexes := int64(0)
	all := make([]Loaded, len(batch))
	for i, table := range batch {
		have, err := w.constraints(ctx, try > 1, table)
		if err != nil {
			return w.explain(postgres.Target, "reading the constraints of", table.Ident, err)
		}
		for _, x := range table.Indexes {
			switch {
			case x.Built:
				continue
			case !x.whole():
				sql = append(sql, w.buildSQL(x)...)
			case !have[x.Constraint]:
				sql = append(sql, keySQL(table.Ident, x))
			}
			indexes++
		}
		sql = append(sql, finishSQL(table, have)...)
		all[i] = Loaded{Table: table.Ident}
	}
	if note := w.record(Finished, all...); note != "" {
		sql = append(sql, note)
	}
	if err := exec(ctx, w.target, strings.Join(sql, "; ")); err != nil {
		guilty := among(batch, err)
		return blame(postgres.Target, err, postgres.WrapHint(postgres.Target, fmt.Sprintf("building the indexes and keys of %s", names(batch)), err,
			w.hintOr(postgres.Hint(err), postgres.Target, guilty[0], err)), guilty...)
	}
	w.meter.indexes.Add(indexes)
	return nil
}

// among is the table that the server names, or else all of them.
func among(batch []*Table, err error) (tables []postgres.Ident) {
	var e *pgconn.PgError
	errors.As(err, &e)
	for _, t := range batch {
		if e != nil && t.Ident == (postgres.Ident{Schema: e.SchemaName, Name: e.TableName}) {
			return []postgres.Ident{t.Ident}
		}
		tables = append(tables, t.Ident)
	}
	return tables
}

// explainKeys is explain for foreign keys: the rows of the tables that they refer to
// may be to blame as well, and are read under the same snapshot when they are copied
// again with them.
func (l *loader) explainKeys(doing string, keys []ForeignKey, err error) error {
	err = l.explain(postgres.Target, doing, keys[0].Table, err)
	var rows *RowsError
	if errors.As(err, &rows) {
		for _, f := range keys {
			rows.Tables = append(rows.Tables, f.References)
		}
	}
	return err
}

// addForeignKeys adds those of one table, without looking at its rows or, where
// that takes no time, validated.
func (l *loader) addForeignKeys(keys []ForeignKey, validate bool) *task {
	table := keys[0].Table
	t := &task{class: building, what: "foreign key", name: "of " + table.String()}
	t.run = func(ctx context.Context, w *worker, try int) error {
		asTable := &Table{}
		asTable.Ident = table
		have, err := w.constraints(ctx, try > 1, asTable)
		if err != nil {
			return l.explain(postgres.Target, "reading the constraints of", table, err)
		}
		var sql []string
		for _, f := range keys {
			if !f.Added && !have[f.Name] {
				sql = append(sql, f.AddSQL())
			}
			if validate && f.Valid {
				sql = append(sql, f.ValidateSQL())
			}
		}
		return l.explainKeys("adding the foreign keys of", keys, exec(ctx, w.target, strings.Join(sql, "; ")))
	}
	return t
}

// validate looks whether the rows satisfy a foreign key. The server would look up each
// row in a hash table; where both indexes are there in the same order, reading them side
// by side is several times faster, unless it would have to visit the rows.
func (l *loader) validate(f ForeignKey, ordered bool) *task {
	t := &task{class: building, what: "foreign key", name: fmt.Sprintf("%s of %s", postgres.QuoteIdent(f.Name), f.Table)}
	sql := f.ValidateSQL()
	if ordered {
		sql = fmt.Sprintf(`SELECT pg_catalog.set_config('enable_hashjoin', 'off', true)
			FROM pg_catalog.pg_class WHERE oid = %s::pg_catalog.regclass AND relallvisible >= 0.9 * relpages; %s`,
			postgres.QuoteLiteral(f.Table.String()), sql)
	}
	t.run = func(ctx context.Context, w *worker, _ int) error {
		return l.explainKeys(fmt.Sprintf("validating foreign key %s of", postgres.QuoteIdent(f.Name)), []ForeignKey{f},
			exec(ctx, w.target, sql))
	}
	return t
}
