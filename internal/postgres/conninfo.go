package postgres

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgservicefile"
)

// Conninfo is a libpq connection string taken apart: keyword to value
// (https://www.postgresql.org/docs/current/libpq-connect.html).
type Conninfo map[string]string

// libpqEnv are the environment variables that libpq reads and whose values a
// connection made by somebody else (pg_dump, the other server) must have too.
var libpqEnv = map[string]string{
	"PGHOST": "host", "PGHOSTADDR": "hostaddr", "PGPORT": "port", "PGDATABASE": "dbname", "PGUSER": "user",
	"PGPASSWORD": "password", "PGPASSFILE": "passfile", "PGSERVICE": "service", "PGSERVICEFILE": "servicefile",
	"PGSSLMODE": "sslmode", "PGSSLCERT": "sslcert", "PGSSLKEY": "sslkey", "PGSSLROOTCERT": "sslrootcert",
	"PGSSLCRL": "sslcrl", "PGSSLCERTMODE": "sslcertmode", "PGSSLNEGOTIATION": "sslnegotiation", "PGSSLSNI": "sslsni",
	"PGCHANNELBINDING": "channel_binding", "PGREQUIREAUTH": "require_auth", "PGGSSENCMODE": "gssencmode",
	"PGKRBSRVNAME": "krbsrvname", "PGCONNECT_TIMEOUT": "connect_timeout", "PGOPTIONS": "options",
	"PGTARGETSESSIONATTRS": "target_session_attrs",
}

// ParseConninfo reads a URI or a keyword/value string and fills what it leaves
// open from the service file and the environment, in libpq's order. No error
// it returns repeats the string: it may hold a password.
func ParseConninfo(s string) (Conninfo, error) {
	c, err := ParseGiven(s)
	if err != nil {
		return nil, err
	}
	env := Conninfo{}
	for name, key := range libpqEnv {
		if v, ok := os.LookupEnv(name); ok && v != "" {
			env[key] = v
		}
	}
	service, err := c.service(env)
	if err != nil {
		return nil, err
	}
	for _, lower := range []Conninfo{service, env} {
		for k, v := range lower {
			if _, set := c[k]; !set {
				c[k] = v
			}
		}
	}
	delete(c, "service")
	delete(c, "servicefile")
	return c, nil
}

// service reads the named service's section, if a service is named.
func (c Conninfo) service(env Conninfo) (Conninfo, error) {
	get := func(k string) string {
		if v := c[k]; v != "" {
			return v
		}
		return env[k]
	}
	name := get("service")
	if name == "" {
		return nil, nil
	}
	file := get("servicefile")
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("finding the service file: %w", err)
		}
		file = filepath.Join(home, ".pg_service.conf")
	}
	parsed, err := pgservicefile.ReadServicefile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the service file: %w", err)
	}
	svc, err := parsed.GetService(name)
	if err != nil {
		return nil, fmt.Errorf("service %q is not in %s", name, file)
	}
	return svc.Settings, nil
}

func parseURI(s string) (Conninfo, error) {
	c := Conninfo{}
	_, rest, _ := strings.Cut(s, "://")
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		user, password, hasPassword := strings.Cut(authority[:i], ":")
		authority = authority[i+1:]
		if err := c.setDecoded("user", user); err != nil {
			return nil, err
		}
		if hasPassword {
			if err := c.setDecoded("password", password); err != nil {
				return nil, err
			}
		}
	}
	var hosts, ports []string
	for _, hp := range strings.Split(authority, ",") {
		host, port := splitHostPort(hp)
		hosts, ports = append(hosts, host), append(ports, port)
	}
	if err := c.setDecoded("host", strings.Join(hosts, ",")); err != nil {
		return nil, err
	}
	if p := strings.Join(ports, ","); strings.Trim(p, ",") != "" {
		c["port"] = p
	}
	if err := c.setDecoded("dbname", path); err != nil {
		return nil, err
	}
	for _, pair := range strings.Split(query, "&") {
		if pair == "" {
			continue
		}
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, errors.New("a parameter of the connection URI has no value")
		}
		key, err := url.PathUnescape(k)
		if err != nil || !isKeyword(key) {
			return nil, errNoKeyword
		}
		if err := c.setDecoded(key, v); err != nil {
			return nil, err
		}
	}
	return c, c.normalize()
}

var errNoKeyword = errors.New("the connection string has a parameter whose name is not made of letters, digits and underscores; in the password of a URI ?, & and @ are written %3F, %26 and %40")

// isKeyword says whether a name can be a keyword of libpq, or a setting of the session.
// Any other could not be printed so that it is read as the same again.
func isKeyword(name string) bool {
	return name != "" && strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '.'
	}) < 0
}

func splitHostPort(s string) (host, port string) {
	if strings.HasPrefix(s, "[") {
		if i := strings.Index(s, "]"); i >= 0 {
			return s[1:i], strings.TrimPrefix(s[i+1:], ":")
		}
	}
	host, port, _ = strings.Cut(s, ":")
	return host, port
}

func (c Conninfo) setDecoded(key, value string) error {
	v, err := url.PathUnescape(value)
	if err != nil {
		return fmt.Errorf("the connection URI has a bad percent escape in its %s", key)
	}
	if v != "" {
		c[key] = v
	}
	return nil
}

func parseKeywords(s string) (Conninfo, error) {
	c := Conninfo{}
	rest := strings.TrimSpace(s)
	for rest != "" {
		i := strings.Index(rest, "=")
		if i < 0 {
			return nil, errors.New(`the connection string is neither a URI nor of the form "keyword=value ..."`)
		}
		key := strings.TrimSpace(rest[:i])
		if key == "" || strings.ContainsAny(key, " \t\r\n'\"") {
			return nil, errors.New("the connection string has a keyword without a value")
		}
		if !isKeyword(key) {
			return nil, errNoKeyword
		}
		var value strings.Builder
		rest = strings.TrimLeft(rest[i+1:], " \t\r\n")
		quoted := strings.HasPrefix(rest, "'")
		j := 0
		if quoted {
			j = 1
		}
		closed := !quoted
		for ; j < len(rest); j++ {
			ch := rest[j]
			if ch == '\\' && j+1 < len(rest) {
				j++
				value.WriteByte(rest[j])
				continue
			}
			if quoted && ch == '\'' {
				closed = true
				j++
				break
			}
			if !quoted && strings.IndexByte(" \t\r\n", ch) >= 0 {
				break
			}
			value.WriteByte(ch)
		}
		if !closed {
			return nil, errors.New("the connection string has an unterminated quote")
		}
		c[key] = value.String()
		rest = strings.TrimLeft(rest[j:], " \t\r\n")
	}
	return c, c.normalize()
}

// normalize accepts pgx's alias and refuses what could not be passed on.
func (c Conninfo) normalize() error {
	if v, ok := c["database"]; ok {
		c["dbname"] = v
		delete(c, "database")
	}
	for k, v := range c {
		if strings.ContainsRune(v, 0) {
			return fmt.Errorf("the connection string's %s contains a zero byte", k)
		}
	}
	return nil
}

// With returns a copy with one keyword set.
func (c Conninfo) With(key, value string) Conninfo {
	n := maps.Clone(c)
	n[key] = value
	return n
}

// Without returns a copy that lacks the keywords.
func (c Conninfo) Without(keys ...string) Conninfo {
	n := maps.Clone(c)
	for _, k := range keys {
		delete(n, k)
	}
	return n
}

// String prints the keyword/value form, keywords sorted, every value quoted.
// It holds the password if there is one: use Redacted for people.
func (c Conninfo) String() string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(c)) {
		if i > 0 {
			b.WriteByte(' ')
		}
		v := strings.ReplaceAll(c[k], `\`, `\\`)
		v = strings.ReplaceAll(v, `'`, `\'`)
		fmt.Fprintf(&b, "%s='%s'", k, v)
	}
	return b.String()
}

// secretKeys are the keywords whose values never reach a person.
var secretKeys = []string{"password", "sslpassword"}

// SecretVariables are the variables of the environment from which libpq takes a secret.
func SecretVariables() (names []string) {
	for name, key := range libpqEnv {
		if slices.Contains(secretKeys, key) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Redacted returns a copy whose secrets are hidden, for people.
func (c Conninfo) Redacted() Conninfo {
	n := maps.Clone(c)
	for _, k := range secretKeys {
		if _, ok := n[k]; ok {
			n[k] = "********"
		}
	}
	return n
}

// Split parts what may be known from who connects: the secrets, and the user.
func (c Conninfo) Split() (open, user Conninfo) {
	open, user = maps.Clone(c), Conninfo{}
	for _, k := range append([]string{"user"}, secretKeys...) {
		if v, ok := c[k]; ok {
			user[k] = v
			delete(open, k)
		}
	}
	return open, user
}

// ForServer keeps what makes sense when another server connects with it: where,
// who, and how (TLS and options included), not what only concerns this machine, or
// which of several hosts is meant.
func (c Conninfo) ForServer() Conninfo {
	return c.Without("application_name", "target_session_attrs", "load_balance_hosts", "passfile", "connect_timeout",
		"fallback_application_name", "replication", "client_encoding")
}

// ParseGiven reads a connection string as it stands, without environment and
// service file: those are this machine's, and the string is for another one.
func ParseGiven(s string) (Conninfo, error) {
	if strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://") {
		return parseURI(s)
	}
	return parseKeywords(s)
}

// Overlay returns a copy in which what is given wins. Another host brings its
// own port and address.
func (c Conninfo) Overlay(given Conninfo) Conninfo {
	n := maps.Clone(c)
	if given["host"] != "" || given["hostaddr"] != "" {
		n = n.Without("host", "hostaddr", "port")
	}
	maps.Copy(n, given)
	maps.DeleteFunc(n, func(_, v string) bool { return v == "" }) // password='' means: none
	return n
}
