package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Connect opens a session on the side's database.
func (s *Server) Connect(ctx context.Context) (*Session, error) {
	return s.ConnectDatabase(ctx, s.Database())
}

// connectTries is how often ConnectAgain opens a session that is ended while it begins.
const connectTries = 3

// ConnectAgain is Connect for whoever may come while others raise a fence: that ends
// the sessions that began before it, also one that has only just begun, and no later one.
func (s *Server) ConnectAgain(ctx context.Context) (conn *Session, err error) {
	for range connectTries {
		if conn, err = s.Connect(ctx); !Ended(err) || NotLetIn(err) {
			break
		}
	}
	return conn, err
}

// ConnectDatabase opens a session on another database of the same server.
func (s *Server) ConnectDatabase(ctx context.Context, database string) (*Session, error) {
	return s.connectPgx(ctx, database, func(map[string]string) {})
}

// connectPgx opens a session with our settings, adapted.
func (s *Server) connectPgx(ctx context.Context, database string, adapt func(map[string]string)) (*Session, error) {
	var conn *pgx.Conn
	whole, err := pgx.ParseConfig("")
	if err != nil {
		return nil, err
	}
	if s.notice != nil {
		whole.Tracer = &tracer{server: s, notice: s.notice}
	}
	_, err = s.connect(ctx, database, adapt, func(config *pgconn.Config) (*pgconn.PgConn, error) {
		whole.Config = *config
		if conn, err = pgx.ConnectConfig(ctx, whole); err != nil {
			return nil, err
		}
		return conn.PgConn(), nil
	})
	if err != nil {
		return nil, err
	}
	return &Session{conn, s}, nil
}

// ConnectRaw opens a session for COPY and other work on the protocol itself,
// with extra session settings.
func (s *Server) ConnectRaw(ctx context.Context, extra map[string]string) (*pgconn.PgConn, error) {
	adapt := func(settings map[string]string) { maps.Copy(settings, extra) }
	return s.connect(ctx, s.Database(), adapt, func(config *pgconn.Config) (*pgconn.PgConn, error) {
		return pgconn.ConnectConfig(ctx, config)
	})
}

// ConnectReplication opens a walsender on the database
// (https://www.postgresql.org/docs/current/protocol-replication.html).
func (s *Server) ConnectReplication(ctx context.Context) (*pgconn.PgConn, error) {
	conn, err := s.ConnectRaw(ctx, map[string]string{"replication": "database"})
	var refused *Error
	if errors.As(err, &refused) && NotLetIn(err) {
		// The code is that of who may not connect at all.
		if ordinary, connectErr := s.Connect(ctx); connectErr == nil {
			refused.Hint = fmt.Sprintf("ALTER ROLE %s REPLICATION", QuoteIdent(s.User()))
			_ = ordinary.Close(ctx)
		}
	}
	return conn, err
}

// opener opens a session: pgx or pgconn does.
type opener func(*pgconn.Config) (*pgconn.PgConn, error)

// connect opens a session where the first one was opened; the first itself where
// it is admitted first, in the order of the connection string.
func (s *Server) connect(ctx context.Context, database string, adapt func(settings map[string]string), open opener) (*pgconn.PgConn, error) {
	tried := []*member{s.reached()}
	if tried[0] == nil {
		s.first.Lock()
		defer s.first.Unlock()
		if tried[0] = s.reached(); tried[0] == nil {
			tried = s.members
		}
	}
	var errs []error
	for _, m := range tried {
		conn, err := s.connectTo(ctx, m, database, adapt, open)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil || slices.Contains(finalCodes, Code(err)) {
			break
		}
	}
	return nil, s.connectError(database, errs)
}

// refusedSetting matches what the server says of a setting in the start-up packet.
var refusedSetting = regexp.MustCompile(`permission denied to set parameter "([^"]+)"`)

// finalCodes are refusals by which libpq does not go on to the next host either.
var finalCodes = []string{InvalidPassword, InvalidAuthorization, UndefinedDatabase, InsufficientPrivilege}

// connectTo opens a session on one member, and makes sure that it is what we need.
// The first is opened when the server has told, in a session that does not stay,
// what it may ask for. What is refused later is asked about once more: a right may
// have been taken away.
func (s *Server) connectTo(ctx context.Context, m *member, database string, adapt func(map[string]string), open opener) (conn *pgconn.PgConn, err error) {
	l := s.known()
	for again := l.version != 0; ; again = false {
		fresh := l.version == 0
		if fresh {
			if l, err = s.ask(ctx, m, database); err != nil {
				return nil, err
			}
		}
		settings := sessionSettings(l)
		adapt(settings)
		config, answers := m.session(database)
		maps.Copy(config.RuntimeParams, settings)
		conn, err = open(config)
		if again && (Code(err) == InsufficientPrivilege || Code(err) == UndefinedObject) {
			l = learned{}
			continue
		}
		if err != nil {
			return nil, err
		}
		if fresh && parseServerVersion(conn.ParameterStatus("server_version")) != l.version {
			_ = conn.Close(ctx) // what was wrong before counts
			return nil, errOtherServer
		}
		if err := s.accept(ctx, m, conn, settings, l, *answers); err != nil {
			return nil, err
		}
		return conn, nil
	}
}

// accept makes sure that a session is what we need, and remembers where it is and
// what its server has told; a session that is not is closed.
func (s *Server) accept(ctx context.Context, m *member, conn *pgconn.PgConn, settings map[string]string, l learned, answers []string) error {
	walsender := settings["replication"] != "" // it went where the others went
	if !walsender {
		if err := s.admit(ctx, conn, settings); err != nil {
			_ = conn.Close(ctx) // what was wrong before counts
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = m.found(answers, conn.Conn().RemoteAddr())
	}
	if !walsender {
		s.learned = l
	}
	return nil
}

func (s *Server) connectError(database string, errs []error) error {
	where := s.where()
	err := errs[len(errs)-1] // the first refusal that counts ended the list
	hint := fmt.Sprintf("check that the server runs and that %s is reachable from this machine", where)
	if len(s.members) > 1 && s.reached() != nil {
		hint = fmt.Sprintf("%s was the one of several hosts that answered when this command began, and a command does not change its server; when it is settled which one counts, run the same command again", where)
	}
	var dns *net.DNSError
	var pooler *PoolerError
	var answer *pgconn.PgError
	doing := fmt.Sprintf("connecting to %s/%s as %s", where, database, s.User())
	switch Code(err) {
	case InvalidPassword, InvalidAuthorization:
		hint = fmt.Sprintf("check user %q, its password (also PGPASSWORD and the password file) and pg_hba.conf on %s", s.User(), where)
	case UndefinedDatabase:
		hint = fmt.Sprintf("check the database name in --%s", s.Side)
	case InsufficientPrivilege:
		hint = fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s", QuoteIdent(database), QuoteIdent(s.User()))
		if m := refusedSetting.FindStringSubmatch(err.Error()); m != nil { // the code is the same
			hint = fmt.Sprintf("take %s out of the options in --%s, or connect as a role that may set it (from 15 on: GRANT SET ON PARAMETER %[1]s TO %[3]s)", m[1], s.Side, QuoteIdent(s.User()))
		}
	case TooManyConnections:
		hint = "raise the limit that the server names (max_connections, max_wal_senders, or the CONNECTION LIMIT of the database or the role), or use fewer --jobs"
	case ProtocolViolation: // no PostgreSQL server answers a well-formed start-up packet so
		errors.As(err, &answer)
		errs = []error{&PoolerError{Evidence: "it answers: " + answer.Message}}
	default:
		switch {
		case errors.As(err, &dns):
			hint = fmt.Sprintf("check the host name in --%s", s.Side)
		case errors.As(err, &answer) && !strings.HasPrefix(answer.Code, "57"): // it runs, and is not starting or stopping
			hint = fmt.Sprintf("remove the reason that the server gives, there or in --%s", s.Side)
		}
	}
	if errors.Is(err, errOtherServer) {
		hint = fmt.Sprintf("give --%s an address that leads to one server", s.Side)
	}
	if errors.As(errors.Join(errs...), &pooler) {
		hint = fmt.Sprintf("give --%s the server's own host and port: pgbaton needs sessions that keep their settings, locks and snapshots", s.Side)
	}
	var atLogin *refusedAtLogin
	if errors.As(err, &atLogin) {
		doing += ", where a login event trigger may have refused it"
		hint = SilenceSQL(loginTriggers, s.User())
	}
	return &Error{Side: s.Side, Doing: doing, Err: &attempts{errors.Join(errs...)}, Hint: hint}
}

// attempts prints a connection error on one line: pgconn tells every attempt, on
// lines of their own, and who and where once more.
type attempts struct{ err error }

// Error implements error. An attempt with TLS that the server does not offer is
// no news when one without was made.
func (a *attempts) Error() string {
	var told, tried []string
	for line := range strings.Lines(a.err.Error()) {
		if _, rest, ok := strings.Cut(line, "`:"); ok { // the heading
			line = rest
		}
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		told = append(told, line)
		if !strings.Contains(line, "server refused TLS connection") {
			tried = append(tried, line)
		}
	}
	if len(tried) == 0 {
		tried = told
	}
	return strings.Join(slices.Compact(tried), "; ")
}

// Unwrap implements errors.Unwrap.
func (a *attempts) Unwrap() error { return a.err }
