package postgres

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// This file finds out, once per server, what the sessions of ours may ask for, so
// that nothing of the user's runs in them: no trigger, no rule that writes, no
// event trigger. A setting that the server does not know, or that the role may
// not set, would keep us from connecting at all.

// learned is what the first session of a server has told.
type learned struct {
	version Version           // 0: nothing yet
	quiet   map[string]string // the settings that keep the user's code out, as far as the role may set them
}

// ProviderAdmins are the roles that managed services give instead of superuser.
var ProviderAdmins = []string{"rds_superuser", "cloudsqlsuperuser", "azure_pg_admin", "alloydbsuperuser"}

// silence are the settings that keep the user's code out of our sessions, with the
// major version that brought them. Under the replication role triggers, event
// triggers and rules of the ordinary kind do not fire; foreign keys that are added
// or validated are checked all the same, by a query
// (https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-SESSION-REPLICATION-ROLE).
var silence = []struct {
	name, value string
	since       int
}{
	{"session_replication_role", "replica", 0},
	{"event_triggers", "off", 17}, // those that are ENABLE ALWAYS too, and those at login
}

// Learn makes sure that the server's version, and what its sessions of ours may ask
// for, are known. Connecting does it too.
func (s *Server) Learn(ctx context.Context) error {
	if s.known().version != 0 {
		return nil
	}
	conn, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// known is what has been learned so far.
func (s *Server) known() learned {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.learned
}

// silences are the settings of that kind that a version has.
func silences(v Version) map[string]string {
	all := map[string]string{}
	for _, set := range silence {
		if v.Major() >= set.since {
			all[set.name] = set.value
		}
	}
	return all
}

// ask finds it out, in a session that is closed again. That one is read-only: a
// login event trigger (17 and newer), which fires until we know that we may keep it
// from firing, shall not leave anything behind.
func (s *Server) ask(ctx context.Context, m *member, database string) (l learned, err error) {
	conn, err := m.firstSession(ctx, database)
	if err != nil {
		return l, err
	}
	l = learned{version: parseServerVersion(conn.ParameterStatus("server_version"))}
	var tried bool
	l.quiet, tried, err = maySilence(ctx, conn, l.version)
	if closed := conn.Close(ctx); err == nil {
		err = closed
	}
	if err == nil && tried {
		l.quiet, err = m.begin(ctx, database, l.quiet)
	}
	return l, err
}

// begin returns the settings if a session may begin with them, or none. What a
// managed service lets its administrative role SET, by an extension that looks at
// statements, may be refused in the start-up packet, which is none.
func (m *member) begin(ctx context.Context, database string, quiet map[string]string) (map[string]string, error) {
	config, _ := m.session(database)
	maps.Copy(config.RuntimeParams, sessionSettings(learned{quiet: quiet}))
	config.ValidateConnect = nil // target_session_attrs: the session that stays is looked at
	conn, err := pgconn.ConnectConfig(ctx, config)
	if Code(err) == InsufficientPrivilege {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return quiet, conn.Close(ctx)
}

// firstSession opens the session to ask in. What a login event trigger may have
// refused is tried without such triggers.
func (m *member) firstSession(ctx context.Context, database string) (*pgconn.PgConn, error) {
	open := func(more map[string]string) (*pgconn.PgConn, error) {
		config, _ := m.session(database)
		maps.Copy(config.RuntimeParams, sessionSettings(learned{}))
		config.RuntimeParams["default_transaction_read_only"] = "on"
		maps.Copy(config.RuntimeParams, more)
		config.ValidateConnect = nil // target_session_attrs: it could not tell from such a session
		return pgconn.ConnectConfig(ctx, config)
	}
	conn, err := open(nil)
	final := []string{"", InvalidPassword, UndefinedDatabase, ProtocolViolation, TooManyConnections}
	if code := Code(err); err == nil || slices.Contains(final, code) || strings.HasPrefix(code, "57") {
		return conn, err
	}
	conn, quietErr := open(map[string]string{"event_triggers": "off"})
	var first, second *pgconn.PgError
	switch {
	case quietErr == nil:
		return conn, nil
	case errors.As(err, &first) && errors.As(quietErr, &second) && second.Code == InsufficientPrivilege && first.Message != second.Message:
		return nil, &refusedAtLogin{err}
	}
	return nil, err // an older server, which does not know the setting; or the same again
}

// refusedAtLogin is a session that was let in, but for a login event trigger, or
// for what one may have raised, by a role that may not switch these off.
type refusedAtLogin struct{ error }

// Unwrap implements errors.Unwrap.
func (e *refusedAtLogin) Unwrap() error { return e.error }

// maySilence returns those of the settings that the role may set. Since 15 that
// can be granted; before, a managed service's administrative role may be allowed
// to, which only trying tells: tried says that it has.
func maySilence(ctx context.Context, conn *pgconn.PgConn, v Version) (quiet map[string]string, tried bool, err error) {
	quiet = map[string]string{}
	for name, value := range silences(v) {
		sql := "SELECT pg_catalog.has_parameter_privilege(" + QuoteLiteral(name) + ", 'SET')"
		if v.Major() < 15 {
			sql = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
		}
		may, err := isTrue(ctx, conn, sql)
		if err == nil && !may {
			may, err = adminMay(ctx, conn, "BEGIN; SET LOCAL "+name+" = "+value)
			tried = tried || may
		}
		if err != nil {
			return nil, false, err
		}
		if may {
			quiet[name] = value
		}
	}
	return quiet, tried, nil
}

// adminMay tries statements that begin a transaction if the role has the rights of a managed service's
// administrative role: others are spared the error in the server's log.
func adminMay(ctx context.Context, conn *pgconn.PgConn, statements string) (bool, error) {
	names := slices.Clone(ProviderAdmins)
	for i, name := range names {
		names[i] = QuoteLiteral(name)
	}
	admin, err := isTrue(ctx, conn, "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname IN ("+
		strings.Join(names, ", ")+") AND pg_catalog.pg_has_role(oid, 'USAGE'))")
	if err != nil || !admin {
		return false, err
	}
	err = conn.Exec(ctx, statements).Close()
	if ended := conn.Exec(ctx, "ROLLBACK").Close(); err == nil {
		err = ended
	}
	if Code(err) == InsufficientPrivilege {
		return false, nil
	}
	return err == nil, err
}

// loginTriggers is the version that brought them.
const loginTriggers Version = 170000

// SilenceSQL is the statement that lets a role keep event triggers, triggers and
// rules from firing in its sessions: from 15 on, before it takes a superuser.
func SilenceSQL(v Version, role string) string {
	names := slices.Sorted(maps.Keys(silences(v)))
	slices.Reverse(names)
	return "GRANT SET ON PARAMETER " + strings.Join(names, ", ") + " TO " + QuoteIdent(role)
}

// isTrue asks a yes-or-no question.
func isTrue(ctx context.Context, conn *pgconn.PgConn, sql string) (bool, error) {
	r := conn.ExecParams(ctx, sql, nil, nil, nil, nil).Read()
	return r.Err == nil && len(r.Rows) == 1 && string(r.Rows[0][0]) == "t", r.Err
}
