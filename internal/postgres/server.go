package postgres

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
)

// Server is one side's database: where it is and how to reach it. It holds no
// connection. Safe for concurrent use.
//
// A connection string may lead to several servers: by a list of hosts, or by a
// name with several addresses. The first session decides which of them it is, and
// every later one goes there too.
type Server struct {
	Side    Side
	given   Conninfo  // as libpq resolves it; host, hostaddr and port may be lists
	members []*member // at least one

	notice func(Stall) // see Watch; nil: nobody wants to know

	first sync.Mutex // held while the first session is opened

	mu       sync.Mutex // of what the first session finds out
	at       *member    // nil until then
	learned  learned    // zero until then
	identity string     // the system identifier; "" while it is not known, or the role may not ask for it
}

// NewServer parses a connection string. The error never repeats the string.
func NewServer(side Side, connString string) (*Server, error) {
	c, err := ParseConninfo(connString)
	if err != nil {
		return nil, err
	}
	members, err := c.members()
	if err != nil {
		return nil, fmt.Errorf("invalid connection string: %w", err)
	}
	// Make explicit what was resolved, so that pg_dump and the other server
	// use the very same.
	c["user"] = members[0].config.User
	if c["dbname"] == "" {
		c["dbname"] = c["user"]
	}
	s := &Server{Side: side, given: c, members: members}
	if len(members) == 1 {
		s.given = members[0].in(c)
	}
	return s, nil
}

// InDatabase is another database of the server.
func (s *Server) InDatabase(name string) *Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	given := maps.Clone(s.given)
	given["dbname"] = name
	return &Server{Side: s.Side, given: given, members: s.members, at: s.at, learned: s.learned, identity: s.identity}
}

// Database, User, Host and Port are as resolved from string, service file,
// environment and defaults.
func (s *Server) Database() string { return s.given["dbname"] }

// User is the role that pgbaton connects as.
func (s *Server) User() string { return s.given["user"] }

// Host is the host of the sessions that we have, or the directory of their socket:
// its name, or its address where the name has several. Before the first session it
// is the first that the connection string names.
func (s *Server) Host() string { return s.place().name() }

// Port is the port of the sessions that we have.
func (s *Server) Port() int { return int(s.place().config.Port) }

// Conninfo is the resolved connection string, password included. Once there was a
// session it leads to the very server of that session.
func (s *Server) Conninfo() Conninfo {
	if m := s.reached(); m != nil {
		return m.in(s.given)
	}
	return maps.Clone(s.given)
}

// Address names the database to people: never a secret.
func (s *Server) Address() string { return s.where() + "/" + s.Database() }

// where names the server to people: all that it may be, until it is known.
func (s *Server) where() string {
	if m := s.reached(); m != nil {
		return m.String()
	}
	all := make([]string, len(s.members))
	for i, m := range s.members {
		all[i] = m.String()
	}
	return strings.Join(all, ",")
}

// reached is the member that the first session has reached, nil before.
func (s *Server) reached() *member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

// place is where the server is, as far as that is known.
func (s *Server) place() *member {
	if m := s.reached(); m != nil {
		return m
	}
	return s.members[0]
}

// Version is that of the server, known once a connection has been made.
func (s *Server) Version() Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.learned.version
}

// Wrap names the side and the action of an error; nil stays nil.
func (s *Server) Wrap(doing string, err error) error { return Wrap(s.Side, doing, err) }

// WrapHint is Wrap with a remedy.
func (s *Server) WrapHint(doing string, err error, hint string) error {
	return WrapHint(s.Side, doing, err, hint)
}

// WrapRights is Wrap with a remedy for want of rights: whatever else fails it does not help.
func (s *Server) WrapRights(doing string, err error, hint string) error {
	return WrapRights(s.Side, doing, err, hint)
}

// sessionSettings are sent at the start of every connection of ours: names are
// always qualified, no server or role timeout ends our work (rule 15), values
// are printed and SQL is read the same on both sides, whatever settings the
// database and the role have, the read-only default of a fenced database is not
// for us, and nothing of the user's runs (learned.quiet).
func sessionSettings(l learned) map[string]string {
	m := map[string]string{
		"application_name":                    "pgbaton",
		"role":                                "none", // ALTER ROLE ... SET role would change it
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
		"transform_null_equals":               "off",
		"xmloption":                           "content",
		"default_tablespace":                  "",
		"row_security":                        "off", // an error instead of fewer rows
		"tcp_keepalives_idle":                 "30",
		"tcp_keepalives_interval":             "10",
		"tcp_keepalives_count":                "3",
	}
	if l.version.Major() >= 14 {
		m["idle_session_timeout"] = "0"
	}
	if l.version.Major() >= 17 {
		m["transaction_timeout"] = "0"
	}
	maps.Copy(m, l.quiet)
	return m
}

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
	c := s.Conninfo()
	if p := c["password"]; p != "" {
		env = append(env, "PGPASSWORD="+p)
	}
	options := c["options"]
	settings := sessionSettings(s.known())
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		switch name {
		case "application_name", "client_encoding", "search_path": // the programs set them
		default:
			options += " -c " + name + "=" + strings.NewReplacer(`\`, `\\`, " ", `\ `).Replace(settings[name])
		}
	}
	for _, setting := range extra {
		options += " -c " + setting
	}
	return append(env, "PGOPTIONS="+options)
}

// ClientConninfo is what a pg_dump of a major version (0: of any) gets as --dbname:
// everything that its libpq knows but secrets.
func (s *Server) ClientConninfo(major int) string {
	c := s.Conninfo().Without(append([]string{"options", "fallback_application_name"}, secretKeys...)...)
	for k := range c {
		if major > 0 && !c.known(k, major) {
			delete(c, k)
		}
	}
	return c.String()
}
