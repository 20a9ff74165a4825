package postgres

import (
	"maps"
	"slices"
	"strings"
)

// Reach is how another server connects to a server, for a subscription: to the
// very one of our own sessions, as we do, unless the operator has said otherwise.
type Reach struct {
	server *Server
	given  Conninfo
}

// ReachBy is how another server reaches this one. What is given wins, as it
// stands; what it leaves open is as for us: who, which database, and by which TLS.
func (s *Server) ReachBy(given Conninfo) Reach { return Reach{s, given} }

// User is the role as which the other server connects.
func (r Reach) User() string { return r.all()["user"] }

// Given is what the operator gave, password included; nil when nothing.
func (r Reach) Given() Conninfo { return maps.Clone(r.given) }

// For is the connection string for a subscriber of a version, password included: its
// libpq may not know every keyword.
func (r Reach) For(subscriber Version) Conninfo {
	c := r.all()
	r.follow(c, subscriber)
	for k := range c {
		if !c.known(k, subscriber.Major()) {
			delete(c, k)
		}
	}
	if c["options"] != "" {
		// The server copies tables in such a session too: no timeout ends that (rule 15).
		settings := sessionSettings(r.server.known())
		for _, name := range slices.Sorted(maps.Keys(settings)) {
			if strings.HasSuffix(name, "_timeout") {
				c["options"] += " -c " + name + "=" + settings[name]
			}
		}
	}
	// Nor does a login event trigger run in it, or refuse it. (Subscribers of some
	// minor versions from 15 on leave options out.)
	if value, may := r.server.known().quiet["event_triggers"]; may && c["user"] == r.server.User() {
		c["options"] = strings.TrimSpace(c["options"] + " -c event_triggers=" + value)
	}
	return c
}

// follow lets a subscription go on where a standby of ours is promoted, when our own
// connection string says that of several hosts the primary is meant. Not as read-write,
// which is all that a libpq before 14 knows: a fenced database is read-only.
func (r Reach) follow(c Conninfo, subscriber Version) {
	attrs := r.server.given["target_session_attrs"]
	if len(r.server.members) < 2 || attrs != "read-write" && attrs != "primary" || subscriber.Major() < 14 ||
		r.given["host"] != "" || r.given["hostaddr"] != "" {
		return
	}
	for _, k := range []string{"host", "hostaddr", "port"} {
		delete(c, k)
		if v := r.server.given[k]; v != "" {
			c[k] = v
		}
	}
	c["target_session_attrs"] = "primary"
}

// LeftOut names the keywords that a subscriber of a version does not know: it
// connects without them. What asks for nothing is not named.
func (r Reach) LeftOut(subscriber Version) (names []string) {
	c := r.all()
	for _, k := range slices.Sorted(maps.Keys(c)) {
		if !c.known(k, subscriber.Major()) && c[k] != defaults[k] {
			names = append(names, k)
		}
	}
	return names
}

// defaults are the values by which a keyword asks for what happens without it.
var defaults = map[string]string{
	"channel_binding": "prefer", "ssl_min_protocol_version": "TLSv1.2", "sslsni": "1", "sslcertmode": "allow",
	"load_balance_hosts": "disable", "gssencmode": "prefer", "gssdelegation": "0", "sslnegotiation": "postgres",
	"min_protocol_version": "3.0", "max_protocol_version": "3.0",
}

func (r Reach) all() Conninfo { return r.server.Conninfo().ForServer().Overlay(r.given) }

// since are libpq's keywords, each with the major version that brought it
// (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS;
// 10 stands for any).
var since = map[string]int{
	"host": 10, "hostaddr": 10, "port": 10, "dbname": 10, "user": 10, "password": 10, "passfile": 10,
	"connect_timeout": 10, "client_encoding": 10, "options": 10, "application_name": 10, "fallback_application_name": 10,
	"keepalives": 10, "keepalives_idle": 10, "keepalives_interval": 10, "keepalives_count": 10,
	"sslmode": 10, "sslcompression": 10, "sslcert": 10, "sslkey": 10, "sslrootcert": 10, "sslcrl": 10, "requirepeer": 10,
	"krbsrvname": 10, "gsslib": 10, "target_session_attrs": 10,
	"gssencmode": 12, "tcp_user_timeout": 12,
	"channel_binding": 13, "sslpassword": 13, "ssl_min_protocol_version": 13, "ssl_max_protocol_version": 13,
	"sslcrldir": 14, "sslsni": 14,
	"require_auth": 16, "sslcertmode": 16, "load_balance_hosts": 16,
	"gssdelegation": 17, "sslnegotiation": 17,
	"min_protocol_version": 18, "max_protocol_version": 18, "sslkeylogfile": 18, "scram_client_key": 18, "scram_server_key": 18,
	"oauth_issuer": 18, "oauth_client_id": 18, "oauth_client_secret": 18, "oauth_scope": 18,
}

// known says whether the libpq of a major version takes a keyword with its value.
func (c Conninfo) known(key string, of int) bool {
	major, ok := since[key]
	if key == "target_session_attrs" && c[key] != "any" && c[key] != "read-write" {
		major = 14
	}
	return ok && of >= major
}
