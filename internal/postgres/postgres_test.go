package postgres

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestClusterName(t *testing.T) {
	seen := map[string]string{}
	for _, migration := range []string{"default", "Default", "a b", "a_b", strings.Repeat("x", 100), strings.Repeat("x", 101), "ünï", `"; DROP`} {
		prefix := ClusterName(migration, "")
		for _, suffix := range []string{"forward_1", "reverse_1", "leak", "forward_9999"} {
			name := ClusterName(migration, suffix)
			if len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
				t.Errorf("%q is no slot name", name)
			}
			if !strings.HasPrefix(name, prefix) {
				t.Errorf("%q does not begin with %q", name, prefix)
			}
			if other, ok := seen[name]; ok {
				t.Errorf("%q and %q have the same name %q", migration, other, name)
			}
			seen[name] = migration
		}
	}
}

func TestConninfo(t *testing.T) {
	for _, v := range []string{"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSERVICE"} {
		t.Setenv(v, "")
	}
	for _, c := range []struct{ in, want string }{
		{"postgres://u:p%40ss@h:5/d?sslmode=require", `dbname='d' host='h' password='p@ss' port='5' sslmode='require' user='u'`},
		{"postgresql://u@[::1]:5433/d%20b", `dbname='d b' host='::1' port='5433' user='u'`},
		{"postgres:///d?host=/tmp", `dbname='d' host='/tmp'`},
		{"postgres://h1:1,h2:2/d", `dbname='d' host='h1,h2' port='1,2'`},
		{"host=h dbname = 'a \\'b\\\\' password=x\\ y", `dbname='a \'b\\' host='h' password='x y'`},
		{"", ``},
	} {
		got, err := ParseConninfo(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got.String() != c.want {
			t.Errorf("%s: %s, want %s", c.in, got, c.want)
		}
		again, err := ParseConninfo(got.String())
		if err != nil || again.String() != c.want {
			t.Errorf("%s: read again: %s, %v", c.in, again, err)
		}
		if p := got["password"]; p != "" && strings.Contains(got.Redacted().String(), p) {
			t.Errorf("%s: the password is in %s", c.in, got.Redacted())
		}
	}
	for _, bad := range []string{"nonsense", "host='open", "postgres://h/d?x", "postgres://%zz@h/d", "a b=c"} {
		if c, err := ParseConninfo(bad); err == nil {
			t.Errorf("%s: accepted as %s", bad, c)
		}
	}
}

// TestNames: a name stands for its server as long as it leads to one host.
func TestNames(t *testing.T) {
	reached := &net.TCPAddr{IP: net.ParseIP("10.0.0.2"), Port: 5432}
	for _, c := range []struct {
		host    string
		answers []string
		want    string
	}{
		{"db", []string{"10.0.0.2"}, "db"},
		{"db", []string{"10.0.0.2", "fd00::2"}, "db"},
		{"db", []string{"10.0.0.1", "10.0.0.2"}, "10.0.0.2"},
		{"db", []string{"fd00::1", "fd00::2", "10.0.0.2"}, "10.0.0.2"},
		{"10.0.0.2", []string{"10.0.0.2"}, "10.0.0.2"},
		{"/run/postgresql", nil, "/run/postgresql"},
	} {
		m := (&member{host: c.host}).found(c.answers, reached)
		if m.name() != c.want || m.host != c.host {
			t.Errorf("%s with addresses %v: %s (host %s), want %s", c.host, c.answers, m.name(), m.host, c.want)
		}
	}
}

// TestReachKeywords: a connection string for another server has what its libpq knows.
func TestReachKeywords(t *testing.T) {
	s, err := NewServer(Source, "host=db,standby port=5432 user=u dbname=d sslmode=verify-full channel_binding=require sslsni=1 min_protocol_version=3.2 "+
		"target_session_attrs=primary connect_timeout=3 options='-c wal_sender_timeout=5min' statement_timeout=5")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		given   string
		version Version
		want    string
		leftOut string
	}{
		{"", 120022, `dbname='d' host='db,standby' options='-c wal_sender_timeout=5min TIMEOUTS' port='5432' sslmode='verify-full' user='u'`,
			"channel_binding min_protocol_version statement_timeout"},
		{"", 180000, `channel_binding='require' dbname='d' host='db,standby' min_protocol_version='3.2' options='-c wal_sender_timeout=5min TIMEOUTS' port='5432' sslmode='verify-full' sslsni='1' target_session_attrs='primary' user='u'`,
			"statement_timeout"},
		{"host=a,b target_session_attrs=primary options='' channel_binding='' statement_timeout=''", 170000, `dbname='d' host='a,b' sslmode='verify-full' sslsni='1' target_session_attrs='primary' user='u'`,
			"min_protocol_version"},
		{"host=a,b target_session_attrs=primary options='' channel_binding='' statement_timeout='' min_protocol_version=''", 120022, `dbname='d' host='a,b' sslmode='verify-full' user='u'`,
			"target_session_attrs"},
	} {
		given, err := ParseGiven(c.given)
		if err != nil {
			t.Fatal(err)
		}
		r := s.ReachBy(given)
		const timeouts = " -c idle_in_transaction_session_timeout=0 -c lock_timeout=0 -c statement_timeout=0"
		if got := strings.Replace(r.For(c.version).String(), timeouts, " TIMEOUTS", 1); got != c.want {
			t.Errorf("%q for %s:\n%s, want\n%s", c.given, c.version, got, c.want)
		}
		if got := strings.Join(r.LeftOut(c.version), " "); got != c.leftOut {
			t.Errorf("%q for %s leaves out %s, want %s", c.given, c.version, got, c.leftOut)
		}
	}
}

func TestVersionsAndPositions(t *testing.T) {
	for in, want := range map[string]Version{"12.22": 120022, "15.18 (Debian 15.18-0+deb12u1)": 150018, "18beta1": 180000, "17devel": 170000} {
		if got := parseServerVersion(in); got != want {
			t.Errorf("%s: %d, want %d", in, got, want)
		}
	}
	l, err := ParseLSN("16/B374D848")
	if err != nil || l != 0x16B374D848 || l.String() != "16/B374D848" {
		t.Errorf("%v %v", l, err)
	}
	for _, bad := range []string{"", "1", "x/1", "1/100000000"} {
		if l, err := ParseLSN(bad); err == nil {
			t.Errorf("%s: accepted as %s", bad, l)
		}
	}
}

func TestQuoting(t *testing.T) {
	for in, want := range map[string]string{`a`: `'a'`, `a'b`: `'a''b'`, `a\b'`: ` E'a\\b'''`} {
		if got := QuoteLiteral(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if got := fmt.Sprint(Ident{`S"x`, "t.u"}); got != `"S""x"."t.u"` {
		t.Error(got)
	}
}

// TestWrapRights: a remedy for want of rights is given for want of rights only.
func TestWrapRights(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{InsufficientPrivilege: "GRANT it", LockNotAvailable: "", "XX000": ""} {
		err := WrapRights(Target, "doing", &pgconn.PgError{Code: code}, "GRANT it")
		if Hint(err) != want || Code(err) != code {
			t.Errorf("%s: %q, %v", code, Hint(err), err)
		}
	}
	if WrapRights(Target, "doing", nil, "GRANT it") != nil {
		t.Error("nil is no error")
	}
}
