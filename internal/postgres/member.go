package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// connectTimeout bounds a connection attempt whose string does not.
const connectTimeout = 10 * time.Second

// member is one of the hosts that a connection string names
// (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-MULTIPLE-HOSTS).
type member struct {
	host    string // name, address, or directory of the socket
	address string // where it is, when the string says so (hostaddr) or the name has several addresses
	config  *pgconn.Config
}

// forPgx is the connection string without what libpq knows and pgconn does not: that
// would reach the server as a setting.
func (c Conninfo) forPgx() Conninfo {
	return c.Without("hostaddr", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
		"tcp_user_timeout", "gssencmode", "gsslib", "gssdelegation", "sslcompression", "sslcrl", "sslcrldir",
		"ssl_min_protocol_version", "ssl_max_protocol_version", "requirepeer", "load_balance_hosts",
		"fallback_application_name", "replication", "client_encoding")
}

// members are the hosts of a connection string, in its order.
func (c Conninfo) members() ([]*member, error) {
	hosts, addresses, ports := strings.Split(c["host"], ","), strings.Split(c["hostaddr"], ","), strings.Split(c["port"], ",")
	switch {
	case c["hostaddr"] == "":
		addresses = make([]string, len(hosts))
	case c["host"] == "":
		hosts = make([]string, len(addresses))
	case len(hosts) != len(addresses):
		return nil, fmt.Errorf("it names %d hosts and %d addresses (hostaddr)", len(hosts), len(addresses))
	}
	if len(ports) != 1 && len(ports) != len(hosts) {
		return nil, fmt.Errorf("it names %d ports for %d hosts", len(ports), len(hosts))
	}
	members := make([]*member, len(hosts))
	for i, host := range hosts {
		if host == "" {
			host = addresses[i]
		}
		one := c.forPgx().With("host", host).With("port", ports[min(i, len(ports)-1)])
		if host == "" {
			delete(one, "host") // the default
		}
		if one["port"] == "" {
			delete(one, "port")
		}
		config, err := parseForPgx(one)
		if err != nil {
			return nil, err
		}
		members[i] = &member{host: config.Host, address: addresses[i], config: config}
	}
	return members, nil
}

func parseForPgx(c Conninfo) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(c.String())
	if err != nil {
		var pe *pgconn.ParseConfigError
		if errors.As(err, &pe) && pe.Unwrap() != nil {
			err = pe.Unwrap() // its own text shows the string
		}
		return nil, err
	}
	config.Database = c["dbname"]
	if config.Database == "" {
		config.Database = config.User
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	// A network that drops us silently is noticed within a minute, on our side too.
	dialer := &net.Dialer{Timeout: config.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}
	config.DialFunc = dialer.DialContext
	return config, nil
}

// session is the configuration of one session; answers will hold the addresses that
// the host's name has.
func (m *member) session(database string) (config *pgconn.Config, answers *[]string) {
	config, answers = m.config.Copy(), new([]string)
	config.Database = database
	if config.RuntimeParams == nil {
		config.RuntimeParams = map[string]string{}
	}
	look := config.LookupFunc
	config.LookupFunc = func(ctx context.Context, host string) (found []string, err error) {
		if m.address != "" {
			return []string{m.address}, nil
		}
		*answers, err = look(ctx, host)
		return *answers, err
	}
	return config, answers
}

// found is the member with the address that its session has reached, where its name
// alone does not say which server that is. A name with one address of each family
// does: it is one host's.
func (m *member) found(answers []string, reached net.Addr) *member {
	if filepath.IsAbs(m.host) || m.address != "" || !ambiguous(answers) {
		return m
	}
	host, _, err := net.SplitHostPort(reached.String())
	if err != nil {
		return m // no address of the network
	}
	return &member{host: m.host, address: host, config: m.config}
}

// ambiguous says whether a name has several addresses of one family.
func ambiguous(addresses []string) bool {
	families := map[bool]int{}
	for _, a := range addresses {
		if ip, err := netip.ParseAddr(a); err == nil {
			families[ip.Unmap().Is4()]++
		}
	}
	return families[true] > 1 || families[false] > 1
}

// name is what leads to the member and nowhere else.
func (m *member) name() string {
	if m.address != "" {
		return m.address
	}
	return m.host
}

// String is host and port.
func (m *member) String() string {
	return net.JoinHostPort(m.name(), strconv.Itoa(int(m.config.Port)))
}

// in is the connection string that leads to this member only. The password file may
// have a password for each.
func (m *member) in(c Conninfo) Conninfo {
	c = c.Without("hostaddr").With("host", m.host).With("port", strconv.Itoa(int(m.config.Port)))
	if m.address != "" && m.address != m.host {
		c["hostaddr"] = m.address
	}
	if m.config.Password != "" {
		c["password"] = m.config.Password
	}
	return c
}
