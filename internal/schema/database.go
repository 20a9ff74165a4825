package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// Database is what a database is made of before anything is in it.
type Database struct {
	Name       string
	Owner      string
	Encoding   string
	Collate    string
	Ctype      string
	Provider   string // pg_database.datlocprovider: c, i (15+) or b (17+)
	Locale     string // of providers i and b
	ConnLimit  int
	Comment    string
	Settings   []Setting
	IsTemplate bool
}

// ReadDatabase describes the database that the session is connected to.
func ReadDatabase(ctx context.Context, q catalog.Querier) (Database, error) {
	v := postgres.VersionOf(q)
	provider, locale := "'c'", "''"
	switch {
	case v.Major() >= 17:
		provider, locale = "datlocprovider::text", "coalesce(datlocale, '')"
	case v.Major() >= 15:
		provider, locale = "datlocprovider::text", "coalesce(daticulocale, '')"
	}
	var d Database
	err := q.QueryRow(ctx, fmt.Sprintf(`
		SELECT datname, pg_catalog.pg_get_userbyid(datdba), pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype,
			%s, %s, datconnlimit, datistemplate, coalesce(pg_catalog.shobj_description(oid, 'pg_database'), '')
		FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()`, provider, locale)).
		Scan(&d.Name, &d.Owner, &d.Encoding, &d.Collate, &d.Ctype, &d.Provider, &d.Locale, &d.ConnLimit, &d.IsTemplate, &d.Comment)
	if err != nil {
		return d, err
	}
	rows, err := q.Query(ctx, `
		SELECT coalesce(r.rolname, ''), pg_catalog.split_part(c, '=', 1), pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1)
		FROM pg_catalog.pg_db_role_setting s
		LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole,
		pg_catalog.unnest(s.setconfig) AS c
		WHERE s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`)
	if err != nil {
		return d, err
	}
	d.Settings, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Setting])
	return d, err
}

// CreateSQL makes the database with this encoding and locale; likeTarget leaves
// the locale to the target's own default.
func (d Database) CreateSQL(name string, target postgres.Version, likeTarget bool) string {
	sql := fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 ENCODING %s", postgres.QuoteIdent(name), postgres.QuoteLiteral(d.Encoding))
	if likeTarget {
		return sql
	}
	sql += fmt.Sprintf(" LC_COLLATE %s LC_CTYPE %s", postgres.QuoteLiteral(d.Collate), postgres.QuoteLiteral(d.Ctype))
	switch {
	case d.Provider == "i" && target.Major() >= 15:
		sql += " LOCALE_PROVIDER icu ICU_LOCALE " + postgres.QuoteLiteral(d.Locale)
	case d.Provider == "b" && target.Major() >= 17:
		sql += " LOCALE_PROVIDER builtin BUILTIN_LOCALE " + postgres.QuoteLiteral(d.Locale)
	case target.Major() >= 15:
		sql += " LOCALE_PROVIDER libc" // template0 may have another provider
	}
	return sql
}

// followSQL are the properties that come after the creation. An owner that does not
// exist on the target is left out.
func (d Database) followSQL(name string, exists func(role string) bool) []string {
	db := postgres.QuoteIdent(name)
	var sql []string
	if exists(d.Owner) {
		sql = append(sql, fmt.Sprintf("ALTER DATABASE %s OWNER TO %s", db, postgres.QuoteIdent(d.Owner)))
	}
	if d.ConnLimit != -1 {
		sql = append(sql, fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", db, d.ConnLimit))
	}
	if d.Comment != "" {
		sql = append(sql, fmt.Sprintf("COMMENT ON DATABASE %s IS %s", db, postgres.QuoteLiteral(d.Comment)))
	}
	return sql
}

// settings are the database's, but for those of roles that do not exist on the target
// and for the read-only default: that one is the fence's.
func (d Database) settings(name string, exists func(role string) bool) (all []assignment) {
	for _, s := range d.Settings {
		switch {
		case s.Role == "" && strings.EqualFold(s.Name, "default_transaction_read_only"):
		case s.Role == "":
			all = append(all, assignment{s, "DATABASE " + postgres.QuoteIdent(name)})
		case exists(s.Role):
			all = append(all, assignment{s, fmt.Sprintf("ROLE %s IN DATABASE %s", postgres.QuoteIdent(s.Role), postgres.QuoteIdent(name))})
		}
	}
	return all
}

// FollowSQL are the statements that come after the creation, for `pgbaton plan`. Of
// the settings, those that the target refuses are left out when it is asked.
func (d Database) FollowSQL(name string, exists func(role string) bool) []string {
	sql := d.followSQL(name, exists)
	for _, a := range d.settings(name, exists) {
		sql = append(sql, a.statements(a.whose)...)
	}
	return sql
}

// ConnectMaintenance opens a session on a database that every cluster has, for
// what cannot be done from inside the database itself.
func ConnectMaintenance(ctx context.Context, s *postgres.Server) (*postgres.Session, error) {
	var errs []error
	for _, name := range []string{"postgres", "template1"} {
		conn, err := s.ConnectDatabase(ctx, name)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errs[0]
}

// Roles lists the names of a cluster's roles.
func Roles(ctx context.Context, q catalog.Querier) (map[string]bool, error) {
	rows, err := q.Query(ctx, `SELECT rolname FROM pg_catalog.pg_roles`)
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[n] = true
	}
	return set, err
}

// CreateDatabase makes the target database like the source's, from a
// maintenance session on the target. Where the target lacks the locale it takes
// its own default and returns a sentence that says so.
func CreateDatabase(ctx context.Context, conn *postgres.Session, d Database, name string) (note string, err error) {
	v := postgres.VersionOf(conn)
	_, err = conn.Exec(ctx, d.CreateSQL(name, v, false))
	switch postgres.Code(err) {
	case "42809", "22023": // wrong_object_type, invalid_parameter_value: no such locale here
		first := err
		if _, err = conn.Exec(ctx, d.CreateSQL(name, v, true)); err != nil {
			return "", errors.Join(first, err)
		}
		note = fmt.Sprintf("the target has no locale %s/%s: the database has the target's default; text may sort differently",
			d.Collate, d.Ctype)
	}
	return note, err
}

// DressDatabase gives a database that CreateDatabase made the source's owner, comment
// and settings, from any session on the target. It may be repeated. It returns the
// settings that the target does not take.
func DressDatabase(ctx context.Context, server *postgres.Server, conn *postgres.Session, d Database, name string) (refused []RefusedSetting, err error) {
	exists, err := Roles(ctx, conn)
	if err != nil {
		return nil, err
	}
	known := func(r string) bool { return exists[r] }
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range d.followSQL(name, known) {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		refused, err = assign(ctx, server, tx, d.settings(name, known))
		return err
	})
	return refused, err
}

// DropDatabase removes a database from a maintenance session, ending whoever is
// connected to it. The subscriptions in it must have been dropped. A worker of autovacuum,
// which belongs to no role and which not every role may end, makes way for DROP DATABASE.
func DropDatabase(ctx context.Context, conn *postgres.Session, name string) error {
	_, err := conn.Exec(ctx, `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
		WHERE datname = $1 AND usesysid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()`, name)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "DROP DATABASE IF EXISTS "+postgres.QuoteIdent(name))
	return err
}
