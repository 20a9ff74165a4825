package traffic

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// command says something on a PgBouncer's admin console.
func command(t *testing.T, p *cluster.Pooler, text string) {
	t.Helper()
	c := admin(t, p)
	defer c.close()
	if _, err := c.ask(within(t, 10*time.Second), text); err != nil {
		t.Fatal(err)
	}
}

// edit changes the configuration file, and makes PgBouncer read it.
func edit(t *testing.T, p *cluster.Pooler, change func(string) string) {
	t.Helper()
	text, err := os.ReadFile(p.IniPath())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.IniPath(), []byte(change(string(text))), 0o644); err != nil {
		t.Fatal(err)
	}
	command(t, p, "RELOAD")
}

// TestCheckAccepts forms of configuration in which nothing is wrong, and moves with them.
func TestCheckAccepts(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	for name, options := range map[string]cluster.PoolerOptions{
		"no timeouts": {Settings: map[string]string{"query_wait_timeout": "0", "query_timeout": "0", "client_login_timeout": "0"}},
		"long ones":   {Settings: map[string]string{"query_wait_timeout": "10.5"}},
		"included":    {Databases: map[string]cluster.PoolerDatabase{"other": {Port: 1}}, Extra: "%include entries.ini\n"},
		"fallback too": {Databases: map[string]cluster.PoolerDatabase{
			"shop": {Port: p.from.Port()}, "*": {Port: 1}}},
	} {
		for _, version := range versions {
			t.Run(name+"/"+versionName(version), func(t *testing.T) {
				t.Parallel()
				included := filepath.Join(t.TempDir(), "entries.ini")
				pooler := func() *cluster.Pooler {
					if options.Extra == "" {
						return p.pooler(t, version, options)
					}
					o := options
					o.Extra = "" // the file is in PgBouncer's own directory, which is made with it
					pooler := p.pooler(t, version, o)
					included = filepath.Join(pooler.Dir(), "entries.ini")
					entry := cluster.PoolerDatabase{Port: p.from.Port()}
					if err := os.WriteFile(included, []byte("shop = host=127.0.0.1 port="+itoa(entry.Port)), 0o644); err != nil {
						t.Fatal(err)
					}
					edit(t, pooler, func(s string) string { return s + options.Extra })
					return pooler
				}()
				m, r := mover(t, pooler), p.route()
				mustCheck(t, m, r)
				must(t, m.Pause, r)
				must(t, m.Switch, r)
				must(t, m.Resume, r)
				if o := <-ask(client(t, pooler, "c")); o.err != nil || o.n != 1 {
					t.Errorf("side %d, %v", o.n, o.err)
				}
			})
		}
	}
}

// TestUnixSocket reaches the console as so many do: by its socket, where so_reuseport does no harm.
func TestUnixSocket(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	pooler := p.pooler(t, "", cluster.PoolerOptions{Settings: map[string]string{"so_reuseport": "1"}})
	m := newMover(t, "host="+pooler.SocketDir()+" port="+itoa(pooler.Port())+" user=pooleradmin")
	r := p.route()
	mustCheck(t, m, r)
	must(t, m.Pause, r)
	must(t, m.Abort, r)
}

func newMover(t *testing.T, uri string) *PgBouncers {
	t.Helper()
	m, err := NewPgBouncers([]string{uri}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

type remote struct {
	net.Conn
	addr net.Addr
}

func (r remote) RemoteAddr() net.Addr { return r.addr }

func TestIsHere(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		addr net.Addr
		want bool
	}{
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, true},
		{&net.TCPAddr{IP: net.IPv6loopback}, true},
		{&net.UnixAddr{Name: "/run/x", Net: "unix"}, true},
		{&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, false},
	} {
		if got := isHere(remote{addr: test.addr}); got != test.want {
			t.Errorf("%v: %t", test.addr, got)
		}
	}
	b := &pgBouncer{main: &console{conn: remote{addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}}}}
	if _, err := b.find(map[string]string{"conffile": "/etc/pgbouncer/pgbouncer.ini"}); err == nil || !strings.Contains(err.Error(), "another machine") {
		t.Errorf("a file of another machine: %v", err)
	}
	b.main.conn = remote{addr: &net.TCPAddr{IP: net.IPv6loopback}}
	if _, err := b.find(map[string]string{"conffile": "pgbouncer.ini"}); err == nil || !strings.Contains(err.Error(), "working directory") {
		t.Errorf("a relative file: %v", err)
	}
}

// TestNoSecrets: no message repeats a password.
func TestNoSecrets(t *testing.T) {
	t.Parallel()
	const secret = "hunter2/ü's"
	for uri, want := range map[string]string{
		"postgresql://admin:hunter2@h/shop":                   "the admin console is the database pgbouncer",
		"postgresql://admin:hunter2@a,b/pgbouncer":            "several hosts",
		"postgresql://admin:hunter2@h:x/pgbouncer":            "number 1",
		"postgresql://admin:hunter2@h/pgbouncer?sslmode=lots": "number 1",
		"host=h password='hunter2":                            "unterminated quote",
		"postgresql://admin:hunter2%@h/":                      "percent",
	} {
		if _, err := NewPgBouncers([]string{uri}, "", nil); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", uri, err, want)
		}
	}
	p := startPair(t)
	for _, version := range versions {
		for _, auth := range []string{"scram-sha-256", "md5"} {
			pooler := p.pooler(t, version, cluster.PoolerOptions{Users: map[string]string{"postgres": "x"}, AdminPassword: secret,
				Settings: map[string]string{"auth_type": auth}})
			m, r := mover(t, pooler), p.route()
			mustCheck(t, m, r)
			must(t, m.Pause, r)
			must(t, m.Abort, r)
			wrong := newMover(t, strings.Replace(pooler.AdminURI(), "hunter2", "hunter3", 1))
			reasons := check(t, wrong, r)
			hasReason(t, reasons, "connecting to the admin console", "password")
			ctx := within(t, 500*time.Millisecond)
			for name, err := range map[string]error{"pause": wrong.Pause(ctx, r), "switch": wrong.Switch(ctx, r), "resume": wrong.Resume(ctx, r), "abort": wrong.Abort(ctx, r)} {
				if err == nil || strings.Contains(err.Error(), "hunter") {
					t.Errorf("%s: %v", name, err)
				}
			}
			for _, text := range append(m.Names(), reasons[0].Why, reasons[0].Remedy) {
				if strings.Contains(text, "hunter") {
					t.Errorf("a secret in %q", text)
				}
			}
		}
	}
}

func TestNewPgBouncers(t *testing.T) {
	t.Parallel()
	a, b := "postgresql://admin@a/pgbouncer", "host=b port=7000"
	for _, test := range []struct {
		uris     []string
		database string
		inis     []string
		want     string
	}{
		{nil, "", nil, "no PgBouncer"},
		{[]string{a, b}, "", []string{"1", "2", "3"}, "3 --pgbouncer-ini for 2"},
		{[]string{a}, "", []string{"1", "2"}, "2 --pgbouncer-ini for 1"},
		{[]string{a, a}, "", nil, "number 1 already"},
		{[]string{a}, "pgbouncer", nil, "admin console"},
		{[]string{a}, strings.Repeat("x", 64), nil, "longer than the 63 bytes"},
		{[]string{a, b}, "shop", []string{"1", "2"}, ""},
	} {
		m, err := NewPgBouncers(test.uris, test.database, test.inis)
		if test.want == "" {
			if err != nil || strings.Join(m.Names(), "; ") != "PgBouncer a:6432, database shop; PgBouncer b:7000, database shop" {
				t.Errorf("%v, %v", m, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// TestSeveral moves two PgBouncers, of different versions, together; and lets both go when one cannot
// be paused.
func TestSeveral(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	poolers := []*cluster.Pooler{p.pooler(t, versions[0], cluster.PoolerOptions{}), p.pooler(t, versions[1], cluster.PoolerOptions{})}
	m, r := mover(t, poolers...), p.route()
	mustCheck(t, m, r)
	var loads []*load
	for _, pooler := range poolers {
		loads = append(loads, startLoad(t, pooler, loadOptions{mode: pgx.QueryExecModeExec, clients: 5}))
	}
	loads[0].awaitMore(t, 0, 50)
	loads[1].awaitMore(t, 0, 50)
	batch := client(t, poolers[1], "batch")
	tx, err := batch.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pgtest.QueryValue[int](t, batch, "SELECT 1")
	err = m.Pause(within(t, 200*time.Millisecond), r)
	if err == nil || !strings.Contains(err.Error(), m.all[1].name) || !strings.Contains(err.Error(), "application batch") {
		t.Errorf("Pause: %v", err)
	}
	must(t, m.Abort, r)
	loads[0].awaitMore(t, 0, 50)
	loads[1].awaitMore(t, 0, 50)
	if err := tx.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	must(t, m.Pause, r)
	must(t, m.Switch, r)
	must(t, m.Resume, r)
	for _, l := range loads {
		l.awaitMore(t, 1, 20)
		l.mustNotHaveFailed(t)
	}
	for _, pooler := range poolers {
		if !leadsToServer(t, pooler, p.to) {
			t.Errorf("PgBouncer on port %d was not moved", pooler.Port())
		}
	}
}

// TestOddNames: clients know the database by a name that needs quoting, on the console and in the file.
func TestOddNames(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	for name, version := range map[string]string{"Shop-2.x": pgtest.OldPooler, `my "Läden", all`: ""} {
		pooler := p.pooler(t, version, cluster.PoolerOptions{Databases: map[string]cluster.PoolerDatabase{}})
		edit(t, pooler, func(s string) string {
			return s + destination{host: "127.0.0.1", port: p.from.Port(), database: "shop"}.entry(name)
		})
		m, err := NewPgBouncers([]string{pooler.AdminURI()}, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		r := p.route()
		mustCheck(t, m, r)
		must(t, m.Pause, r)
		if got := shown(t, pooler, name, "paused"); got != "1" {
			t.Errorf("%s: paused is %s", name, got)
		}
		must(t, m.Switch, r)
		must(t, m.Resume, r)
		if got := shown(t, pooler, name, "port"); got != itoa(p.to.Port()) {
			t.Errorf("%s: port %s", name, got)
		}
	}
}

// TestReloadThatDoesNothing: PgBouncer reads another file than the one that was rewritten; it is not let
// go.
func TestReloadThatDoesNothing(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	for _, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			pooler := p.pooler(t, version, cluster.PoolerOptions{})
			text, err := os.ReadFile(pooler.IniPath())
			if err != nil {
				t.Fatal(err)
			}
			copied := filepath.Join(t.TempDir(), "copy.ini")
			if err := os.WriteFile(copied, text, 0o644); err != nil {
				t.Fatal(err)
			}
			m, err := NewPgBouncers([]string{pooler.AdminURI()}, "", []string{copied})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			r := p.route()
			mustCheck(t, m, r)
			must(t, m.Pause, r)
			must(t, m.Switch, r)
			err = m.Resume(within(t, 5*time.Second), r)
			if err == nil || !strings.Contains(err.Error(), "after RELOAD it still leads to host 127.0.0.1, port "+itoa(p.from.Port())) {
				t.Errorf("Resume: %v", err)
			}
			if got := shown(t, pooler, "shop", "paused"); got != "1" {
				t.Errorf("paused is %s", got)
			}
			// The operator corrects it, and it is done again.
			text, err = os.ReadFile(copied)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(pooler.IniPath(), text, 0o644); err != nil {
				t.Fatal(err)
			}
			must(t, m.Resume, r)
			if o := <-ask(client(t, pooler, "c")); o.err != nil || o.n != 1 {
				t.Errorf("side %d, %v", o.n, o.err)
			}
		})
	}
}
