package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// connectTimeout bounds a connection attempt whose string does not.
const connectTimeout = 10 * time.Second

// Server is one side's database: where it is and how to reach it. It holds no
// connection. Safe for concurrent use.
type Server struct {
	Side     Side
	conninfo Conninfo
	config   *pgconn.Config // parsed once: host, user and password as libpq resolves them

	mu      sync.Mutex
	version Version // 0 until the first connection
}

// NewServer parses a connection string. The error never repeats the string.
func NewServer(side Side, connString string) (*Server, error) {
	c, err := ParseConninfo(connString)
	if err != nil {
		return nil, err
	}
	// What libpq knows and pgconn does not would reach the server as a setting.
	forPgx := c.Without("hostaddr", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
		"tcp_user_timeout", "gssencmode", "gsslib", "gssdelegation", "sslcompression", "sslcrl", "sslcrldir",
		"ssl_min_protocol_version", "ssl_max_protocol_version", "requirepeer", "load_balance_hosts",
		"fallback_application_name", "replication", "client_encoding")
	if c["hostaddr"] != "" {
		forPgx["host"] = c["hostaddr"]
	}
	config, err := pgconn.ParseConfig(forPgx.String())
	if err != nil {
		var pe *pgconn.ParseConfigError
		if errors.As(err, &pe) && pe.Unwrap() != nil {
			err = pe.Unwrap()
		}
		return nil, fmt.Errorf("invalid connection string: %w", err)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	// A network that drops us silently is noticed within a minute, on our side too.
	dialer := &net.Dialer{Timeout: config.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}
	config.DialFunc = dialer.DialContext
	s := &Server{Side: side, conninfo: c, config: config}
	// Make explicit what was resolved, so that pg_dump and the other server
	// use the very same.
	s.conninfo["user"] = config.User
	if s.conninfo["dbname"] == "" {
		s.conninfo["dbname"] = config.User
	}
	config.Database = s.conninfo["dbname"]
	if s.conninfo["host"] == "" {
		s.conninfo["host"] = config.Host
	}
	if s.conninfo["port"] == "" {
		s.conninfo["port"] = strconv.Itoa(int(config.Port))
	}
	if config.Password != "" {
		s.conninfo["password"] = config.Password
	}
	return s, nil
}

// Database, User, Host and Port are as resolved from string, service file,
// environment and defaults.
func (s *Server) Database() string { return s.conninfo["dbname"] }

// User is the role that pgbaton connects as.
func (s *Server) User() string { return s.config.User }

// Host is the (first) host, or the directory of the socket.
func (s *Server) Host() string { return s.config.Host }

// Port is the (first) port.
func (s *Server) Port() int { return int(s.config.Port) }

// Conninfo is the resolved connection string, password included.
func (s *Server) Conninfo() Conninfo { return maps.Clone(s.conninfo) }

// Address names the database to people: never a secret.
func (s *Server) Address() string {
	return fmt.Sprintf("%s/%s", net.JoinHostPort(s.Host(), strconv.Itoa(s.Port())), s.Database())
}

// Version is that of the server, known once a connection has been made.
func (s *Server) Version() Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

// sessionSettings are sent at the start of every connection of ours: names are
// always qualified, no server or role timeout ends our work (rule 15), values
// are printed the same on both sides, and the read-only default of a fenced
// database is not for us.
func sessionSettings(v Version) map[string]string {
	m := map[string]string{
		"application_name":                    "pgbaton",
		"search_path":                         "",
		"default_transaction_read_only":       "off",
		"default_transaction_isolation":       "read committed",
		"statement_timeout":                   "0",
		"lock_timeout":                        "0",
		"idle_in_transaction_session_timeout": "0",
		"client_encoding":                     "UTF8",
		"client_min_messages":                 "warning",
		"DateStyle":                           "ISO, YMD",
		"IntervalStyle":                       "postgres",
		"TimeZone":                            "UTC",
		"extra_float_digits":                  "3",
		"bytea_output":                        "hex",
		"standard_conforming_strings":         "on",
		"row_security":                        "off", // an error instead of fewer rows
		"tcp_keepalives_idle":                 "30",
		"tcp_keepalives_interval":             "10",
		"tcp_keepalives_count":                "3",
	}
	if v.Major() >= 14 {
		m["idle_session_timeout"] = "0"
	}
	if v.Major() >= 17 {
		m["transaction_timeout"] = "0"
	}
	return m
}

// Connect opens a session on the side's database.
func (s *Server) Connect(ctx context.Context) (*pgx.Conn, error) {
	return s.ConnectDatabase(ctx, s.Database())
}

// ConnectDatabase opens a session on another database of the same server.
func (s *Server) ConnectDatabase(ctx context.Context, database string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig("")
	if err != nil {
		return nil, err
	}
	known := s.Version()
	config.Config = *s.configFor(database, known)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, s.connectError(database, err)
	}
	if known == 0 {
		if err := s.learnVersion(ctx, conn.PgConn()); err != nil {
			conn.Close(ctx)
			return nil, s.connectError(database, err)
		}
	}
	return conn, nil
}

// ConnectRaw opens a session for COPY and other work on the protocol itself,
// with extra session settings.
func (s *Server) ConnectRaw(ctx context.Context, settings map[string]string) (*pgconn.PgConn, error) {
	config := s.configFor(s.Database(), s.Version())
	maps.Copy(config.RuntimeParams, settings)
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, s.connectError(s.Database(), err)
	}
	return conn, nil
}

// ConnectReplication opens a walsender on the database
// (https://www.postgresql.org/docs/current/protocol-replication.html).
func (s *Server) ConnectReplication(ctx context.Context) (*pgconn.PgConn, error) {
	return s.ConnectRaw(ctx, map[string]string{"replication": "database"})
}

func (s *Server) configFor(database string, v Version) *pgconn.Config {
	config := s.config.Copy()
	config.Database = database
	if config.RuntimeParams == nil {
		config.RuntimeParams = map[string]string{}
	}
	maps.Copy(config.RuntimeParams, sessionSettings(v))
	return config
}

// learnVersion remembers the server's version, and gives this first session the
// settings that only newer servers know.
func (s *Server) learnVersion(ctx context.Context, conn *pgconn.PgConn) error {
	v := parseServerVersion(conn.ParameterStatus("server_version"))
	for _, name := range []string{"idle_session_timeout", "transaction_timeout"} {
		if _, ok := sessionSettings(v)[name]; ok {
			if err := conn.Exec(ctx, "SET "+name+" = 0").Close(); err != nil {
				return err
			}
		}
	}
	s.mu.Lock()
	s.version = v
	s.mu.Unlock()
	return nil
}

func (s *Server) connectError(database string, err error) error {
	where := net.JoinHostPort(s.Host(), strconv.Itoa(s.Port()))
	hint := fmt.Sprintf("check that the server runs and that %s is reachable from this machine", where)
	var dns *net.DNSError
	switch Code(err) {
	case InvalidPassword, InvalidAuthorization:
		hint = fmt.Sprintf("check user %q, its password (also PGPASSWORD and the password file) and pg_hba.conf on %s", s.User(), where)
	case UndefinedDatabase:
		hint = fmt.Sprintf("check the database name in --%s", s.Side)
	case InsufficientPrivilege:
		hint = fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s", QuoteIdent(database), QuoteIdent(s.User()))
	case TooManyConnections:
		hint = "raise max_connections or use fewer --jobs"
	default:
		if errors.As(err, &dns) {
			hint = fmt.Sprintf("check the host name in --%s", s.Side)
		}
	}
	return &Error{Side: s.Side, Doing: fmt.Sprintf("connecting to %s/%s as %s", where, database, s.User()), Err: &attempts{err}, Hint: hint}
}

// attempts prints a connection error on one line: pgconn tells every attempt, on
// lines of their own, and who and where once more.
type attempts struct{ err error }

// Error implements error. An attempt with TLS that the server does not offer is
// no news when one without was made.
func (a *attempts) Error() string {
	lines := strings.Split(a.err.Error(), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	if len(lines) > 1 {
		lines = lines[1:] // the heading
	} else if _, told, ok := strings.Cut(lines[0], "`: "); ok {
		lines[0] = told
	}
	tried := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return strings.Contains(l, "server refused TLS connection") })
	if len(tried) == 0 {
		tried = lines
	}
	return strings.Join(slices.Compact(tried), "; ")
}

// Unwrap implements errors.Unwrap.
func (a *attempts) Unwrap() error { return a.err }

// ClientEnv is the environment in which a client program reaches this server,
// under an application name: the password and session settings never stand on a command line,
// where the process list would show them.
func (s *Server) ClientEnv(application string, extra ...string) []string {
	var env []string
	for _, kv := range os.Environ() {
		// Only what the connection string does not already carry.
		if name, _, _ := strings.Cut(kv, "="); libpqEnv[name] == "" {
			env = append(env, kv)
		}
	}
	env = append(env, "LC_ALL=C", "PGAPPNAME="+application)
	if p := s.conninfo["password"]; p != "" {
		env = append(env, "PGPASSWORD="+p)
	}
	options := s.conninfo["options"]
	settings := sessionSettings(s.Version())
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		switch name {
		case "default_transaction_read_only", "statement_timeout", "lock_timeout",
			"idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout":
			options += " -c " + name + "=" + settings[name]
		}
	}
	for _, setting := range extra {
		options += " -c " + setting
	}
	return append(env, "PGOPTIONS="+options)
}

// ClientConninfo is what pg_dump gets as --dbname: everything but secrets.
func (s *Server) ClientConninfo() string {
	return s.conninfo.Without(append([]string{"options", "fallback_application_name"}, secretKeys...)...).String()
}
