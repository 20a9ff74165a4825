package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// This file populates the materialized views of the side that takes over, as the
// holder's are populated. What is due stands in the journal until it is done: a
// view that cannot be refreshed keeps nothing else from going on.

// Due is a materialized view that is still to be refreshed on a side.
type Due struct {
	View    postgres.Ident `json:"view"`
	Empty   bool           `json:"empty,omitempty"`   // the holder's is WITH NO DATA
	Error   string         `json:"error,omitempty"`   // of the last try, in the server's words
	Code    string         `json:"code,omitempty"`    // its SQLSTATE
	Stale   bool           `json:"stale,omitempty"`   // at the last try it held rows, of an earlier time
	Missing bool           `json:"missing,omitempty"` // at the last try there was no such view
}

// dueEntries are those of a side.
var dueEntries = journal.Many[Due](journal.ViewDue)

// RefreshSQL refreshes a materialized view; concurrently is possible only when
// it holds data already and has a unique index.
func RefreshSQL(v catalog.MatView, concurrently bool) string {
	option := ""
	if concurrently {
		option = "CONCURRENTLY "
	}
	return fmt.Sprintf("REFRESH MATERIALIZED VIEW %s%s", option, v.Ident)
}

// Enlist notes what it takes for a side's views to be populated as the holder's
// are, in place of what was noted so far.
func Enlist(ctx context.Context, tx postgres.DB, holder []catalog.MatView) error {
	here, err := catalog.MatViews(ctx, tx, catalog.Selection{})
	if err != nil {
		return err
	}
	populated := map[postgres.Ident]bool{}
	for _, v := range here {
		populated[v.Ident] = v.Populated
	}
	if err := Unlist(ctx, tx); err != nil {
		return err
	}
	for _, v := range holder {
		if !v.Populated && !populated[v.Ident] {
			continue
		}
		if err := dueEntries.Put(ctx, tx, v.Ident.String(), Due{View: v.Ident, Empty: !v.Populated}); err != nil {
			return err
		}
	}
	return nil
}

// Unlist forgets what is due on a side: the baton has gone to the other.
func Unlist(ctx context.Context, db postgres.DB) error {
	return journal.Clear(ctx, db, journal.ViewDue)
}

// Refresh does what is due on a side: each view after those it reads, as a session
// of its owner would do it, concurrently where the view allows it. It returns those
// that cannot be refreshed now; they stay due.
func Refresh(ctx context.Context, server *postgres.Server, conn *postgres.Session) (failed []Due, err error) {
	due, err := dueEntries.List(ctx, conn)
	if err != nil || len(due) == 0 {
		return nil, err
	}
	views, err := catalog.MatViews(ctx, conn, catalog.Selection{})
	if err != nil {
		return nil, err
	}
	r := refresher{server: server, conn: conn}
	defer r.close()
	// A view may read another by a function, which no catalog shows: it waits for
	// the others as long as these can be populated.
	for again := true; again; {
		progress, waiting := false, map[string]Due{}
		for _, v := range views {
			key := v.Ident.String()
			d, ok := due[key]
			if !ok {
				continue
			}
			if err := r.refresh(ctx, v, &d); err != nil {
				return nil, err
			}
			progress = progress || d.Error == ""
			if d.Code == notPopulated {
				waiting[key] = d
			}
		}
		due, again = waiting, progress && len(waiting) > 0
	}
	return r.left(ctx, views)
}

// notPopulated is the SQLSTATE with which a view WITH NO DATA is read.
const notPopulated = "55000"

// left lists what is still due. A view that is not on this side is to be created,
// unless it was there at an earlier try: then it was dropped, and nobody misses it.
func (r *refresher) left(ctx context.Context, views []catalog.MatView) (failed []Due, err error) {
	there := map[string]bool{}
	for _, v := range views {
		there[v.Ident.String()] = true
	}
	left, err := dueEntries.List(ctx, r.conn)
	if err != nil {
		return nil, err
	}
	for key, d := range left {
		switch {
		case there[key]:
		case d.Empty || d.Error != "" && !d.Missing:
			if err := dueEntries.Delete(ctx, r.conn, key); err != nil {
				return nil, err
			}
			continue
		default:
			d.Missing, d.Error = true, "there is no such view here"
			if err := dueEntries.Put(ctx, r.conn, key, d); err != nil {
				return nil, err
			}
		}
		failed = append(failed, d)
	}
	sortDue(failed)
	return failed, nil
}

// refresher refreshes views of one side in a session that has their owners'
// settings.
type refresher struct {
	server *postgres.Server
	conn   *postgres.Session // ours, for the catalogs and the journal
	plain  *postgres.Session
}

func (r *refresher) close() {
	if r.plain != nil {
		r.plain.Close(context.Background())
	}
}

// refresh tries one view and notes in the journal, and in d, what came of it. Its
// error is one of the journal, or the end of ctx.
func (r *refresher) refresh(ctx context.Context, v catalog.MatView, d *Due) error {
	tried := r.try(ctx, v, d.Empty)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if tried == nil {
		d.Error, d.Code = "", ""
		return dueEntries.Delete(ctx, r.conn, v.Ident.String())
	}
	d.Error, d.Code, d.Stale, d.Missing = postgres.Describe(tried), postgres.Code(tried), v.Populated, false
	return dueEntries.Put(ctx, r.conn, v.Ident.String(), *d)
}

// ownerSettingsSQL lists the settings with which a session of role $1 begins in
// this database, without those that are not to be touched ($2) or cannot be set.
// What only the role of this session has set goes back to the server's default.
const ownerSettingsSQL = `
WITH given AS (
	SELECT s.setrole, s.setdatabase, pg_catalog.lower(pg_catalog.split_part(c, '=', 1)) AS name,
		pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1) AS value
	FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) AS c
	WHERE s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
), owners AS (
	SELECT DISTINCT ON (name) name, value FROM given
	WHERE setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1))
	ORDER BY name, setrole = 0, setdatabase = 0
)
SELECT w.name, w.value
FROM (
	SELECT name, value FROM owners
	UNION ALL
	SELECT DISTINCT g.name, s.boot_val FROM given g JOIN pg_catalog.pg_settings s ON pg_catalog.lower(s.name) = g.name
	WHERE g.setrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user)
		AND g.name NOT IN (SELECT name FROM owners) AND s.boot_val IS NOT NULL
) AS w LEFT JOIN pg_catalog.pg_settings s ON pg_catalog.lower(s.name) = w.name
WHERE w.name <> ALL (SELECT pg_catalog.lower(kept) FROM pg_catalog.unnest($2::text[]) AS kept)
	AND CASE s.context WHEN 'user' THEN true
		WHEN 'superuser' THEN pg_catalog.current_setting('is_superuser')::bool
		ELSE s.name IS NULL AND w.name LIKE '%.%' END
ORDER BY w.name`

// try refreshes a view in a transaction with its owner's settings. The server runs
// the query as the owner, but takes the session's settings; from 17 on it sets a
// search_path of its own
// (https://www.postgresql.org/docs/17/sql-refreshmaterializedview.html).
func (r *refresher) try(ctx context.Context, v catalog.MatView, empty bool) error {
	rows, err := r.conn.Query(ctx, ownerSettingsSQL, v.Owner, r.server.KeptSettings())
	if err != nil {
		return err
	}
	settings, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Setting, err error) {
		err = row.Scan(&s.Name, &s.Value)
		return s, err
	})
	if err != nil {
		return err
	}
	if r.plain == nil || r.plain.IsClosed() {
		if r.plain, err = r.server.ConnectPlain(ctx); err != nil {
			return err
		}
	}
	sql := RefreshSQL(v, v.Populated && v.Concurrently && !empty)
	if empty {
		sql += " WITH NO DATA"
	}
	return pgx.BeginFunc(ctx, r.plain, func(tx pgx.Tx) error {
		for _, s := range settings {
			if _, err := tx.Exec(ctx, `SELECT pg_catalog.set_config($1, $2, true)`, s.Name, s.Value); err != nil {
				return fmt.Errorf("setting %s as its owner has it: %w", s.Name, err)
			}
		}
		_, err := tx.Exec(ctx, sql)
		return err
	})
}
