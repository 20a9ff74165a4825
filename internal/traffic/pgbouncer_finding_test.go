package traffic

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// stand is a PgBouncer before the first of two servers, and how a command is told of it.
type stand struct {
	pair
	pooler   *cluster.Pooler
	text     string   // of the configuration file, as it was
	uri      string   // --pgbouncer
	database string   // --pgbouncer-database
	inis     []string // --pgbouncer-ini
	route    Route
}

func (p pair) stand(t *testing.T, version string, o cluster.PoolerOptions) *stand {
	t.Helper()
	s := &stand{pair: p, pooler: p.pooler(t, version, o), route: p.route()}
	s.uri = s.pooler.AdminURI()
	s.text = s.read(t)
	return s
}

// mover is that of another command.
func (s *stand) mover(t *testing.T) *PgBouncers {
	t.Helper()
	m, err := NewPgBouncers([]string{s.uri}, s.database, s.inis)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func (s *stand) read(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(s.pooler.IniPath())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// write changes the file, and does not make PgBouncer read it.
func (s *stand) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(s.pooler.IniPath(), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// moves demands that nothing is in the way of another command, and moves a client.
func (s *stand) moves(t *testing.T) {
	t.Helper()
	m := s.mover(t)
	mustCheck(t, m, s.route)
	name, err := m.clientDatabase(s.route)
	if err != nil {
		t.Fatal(err)
	}
	conn := s.client(t, name)
	if o := <-ask(conn); o.err != nil || o.n != 0 {
		t.Fatalf("before it moves: side %d, %v", o.n, o.err)
	}
	must(t, m.Pause, s.route)
	must(t, m.Switch, s.route)
	must(t, m.Resume, s.route)
	if o := <-ask(conn); o.err != nil || o.n != 1 {
		t.Fatalf("moved: side %d, %v", o.n, o.err)
	}
}

func (s *stand) client(t *testing.T, database string) *postgres.Session {
	t.Helper()
	return pgtest.Connect(t, s.pooler.ConnString(database, "postgres")+"&default_query_exec_mode=simple_protocol")
}

// step provokes a finding, or does as its remedy says.
type step func(t *testing.T, s *stand, remedy string)

func says(text string) step {
	return func(t *testing.T, s *stand, _ string) { command(t, s.pooler, text) }
}

// inFile puts one text in another's place, and makes PgBouncer read the file.
func inFile(old, new string) step {
	return func(t *testing.T, s *stand, _ string) {
		edit(t, s.pooler, func(text string) string {
			if !strings.Contains(text, old) {
				t.Fatalf("no %q in %s", old, text)
			}
			return strings.ReplaceAll(text, old, new)
		})
	}
}

// edited puts one text in another's place, and does not make PgBouncer read the file.
func edited(old, new string) step {
	return func(t *testing.T, s *stand, _ string) { s.write(t, strings.Replace(s.text, old, new, 1)) }
}

// corrected brings back the file as it was, and makes PgBouncer read it.
func corrected(t *testing.T, s *stand, _ string) {
	edit(t, s.pooler, func(string) string { return s.text })
}

func asPostgres(_ *testing.T, s *stand, _ string) {
	s.uri = s.pooler.ConnString("pgbouncer", "postgres")
}

func asAdministrator(_ *testing.T, s *stand, _ string) { s.uri = s.pooler.AdminURI() }

func itsOwnFile(_ *testing.T, s *stand, _ string) { s.inis = []string{s.pooler.IniPath()} }

// lineAdded adds the line that the remedy has.
func lineAdded(t *testing.T, s *stand, remedy string) {
	line := regexp.MustCompile(`add the line (.+) to \[databases\]`).FindStringSubmatch(remedy)
	if line == nil {
		t.Fatalf("no line in %q", remedy)
	}
	inFile("[databases]\n", "[databases]\n"+line[1]+"\n")(t, s, "")
}

func served(t *testing.T, s *stand, _ string) {
	if o := <-ask(s.client(t, "shop")); o.err != nil || o.n != 0 {
		t.Fatalf("side %d, %v", o.n, o.err)
	}
}

// settings of the section [pgbouncer]: name, value, name, value.
func settings(pairs ...string) cluster.PoolerOptions {
	o := cluster.PoolerOptions{Settings: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		o.Settings[pairs[i]] = pairs[i+1]
	}
	return o
}

func databases(name string, d cluster.PoolerDatabase) cluster.PoolerOptions {
	return cluster.PoolerOptions{Databases: map[string]cluster.PoolerDatabase{name: d}}
}

// TestCheckFinds: what is in the way is found, and is not any more for the next command when that was
// done which the remedy says: traffic moves then.
func TestCheckFinds(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	here := cluster.PoolerDatabase{Port: p.from.Port()}
	more := func(pairs string) cluster.PoolerOptions {
		return databases("shop", cluster.PoolerDatabase{Port: p.from.Port(), More: pairs})
	}
	relative := settings("pidfile", "") // by which its working directory would be found
	relative.IniName = "pgbouncer.ini"
	included := settings("pidfile", "")
	included.Databases = map[string]cluster.PoolerDatabase{"other": {Port: 1}}
	password := settings("auth_type", "scram-sha-256")
	password.Users, password.AdminPassword = map[string]string{"postgres": "x"}, "right"
	const rightFile, onHost = "correct the file if it is wrong, and RELOAD", "name the file as this machine sees it (--pgbouncer-ini)"
	for name, test := range map[string]struct {
		options     cluster.PoolerOptions
		told        step // from the beginning
		spoil       step // a PgBouncer that nothing was wrong with
		why, remedy string
		newOnly     bool
		follow      step
	}{
		"not there": {why: "connecting to the admin console", remedy: "check that it runs",
			spoil: func(t *testing.T, s *stand, _ string) {
				if err := s.pooler.Kill(); err != nil {
					t.Fatal(err)
				}
			},
			follow: func(t *testing.T, s *stand, _ string) {
				if err := s.pooler.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
			}},
		"wrong password": {options: password, why: "connecting to the admin console", remedy: "its password (also PGPASSWORD and the password file)",
			told: func(_ *testing.T, s *stand, _ string) { s.uri = strings.Replace(s.uri, ":right@", ":wrong@", 1) },
			follow: func(t *testing.T, s *stand, _ string) {
				file := filepath.Join(t.TempDir(), "pass")
				if err := os.WriteFile(file, []byte("127.0.0.1:"+itoa(s.pooler.Port())+":pgbouncer:pooleradmin:right\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				s.uri = strings.Replace(s.uri, ":wrong@", "@", 1) + "&passfile=" + url.QueryEscape(file)
			}},
		"a user in no list": {told: asPostgres, why: `connecting to the admin console as "postgres"`, remedy: "the user (one of admin_users)", follow: asAdministrator},
		"a user that may look": {options: settings("stats_users", "postgres"), told: asPostgres,
			why: `user "postgres" may not PAUSE`, remedy: "add the user to admin_users and RELOAD", follow: inFile("admin_users = pooleradmin", "admin_users = pooleradmin, postgres")},
		"a user that may look, and another": {options: settings("stats_users", "postgres"), told: asPostgres,
			why: `user "postgres" may not PAUSE`, remedy: "or name another in --pgbouncer", follow: asAdministrator},

		"unknown": {options: databases("other", cluster.PoolerDatabase{Port: 1}), why: "neither PgBouncer nor", remedy: "to [databases] and RELOAD", follow: lineAdded},
		"under another name": {options: databases("other", cluster.PoolerDatabase{Port: p.from.Port(), DBName: "shop"}),
			why: "neither PgBouncer nor", remedy: "or name the database under which the application connects (--pgbouncer-database)",
			follow: func(_ *testing.T, s *stand, _ string) { s.database = "other" }},
		"a name of the console": {why: "pgbouncer is the admin console", remedy: "name the database under which the application connects (--pgbouncer-database)",
			told:   func(_ *testing.T, s *stand, _ string) { s.route.From.Database = "pgbouncer" },
			follow: func(_ *testing.T, s *stand, _ string) { s.database = "shop" }},
		"by the fallback": {options: databases("*", here), told: served, why: "it is served by the entry *", remedy: "with whatever else the entry * has, and RELOAD", follow: lineAdded},

		"no longer in the file": {spoil: edited("shop = ", "; shop = "), why: "PgBouncer knows this database, but", remedy: rightFile, follow: corrected},
		"edited rightly": {options: databases("shop", cluster.PoolerDatabase{Port: 1}), spoil: edited("port=1\n", "port="+itoa(p.from.Port())+"\n"),
			why: "the file was edited and not read since", remedy: rightFile, follow: says("RELOAD")},
		"edited wrongly": {spoil: edited("host='127.0.0.1'", "host=db9"), why: "leads to host db9, port", remedy: rightFile, follow: corrected},
		"new": {options: databases("other", cluster.PoolerDatabase{Port: 1}), told: edited("other = ", "shop = host=127.0.0.1 port="+itoa(p.from.Port())+"\nother = "),
			why: "PgBouncer has not read it", remedy: rightFile, follow: says("RELOAD")},
		"another's file": {why: "it is another PgBouncer's", remedy: "or name the file that PgBouncer reads (--pgbouncer-ini)", follow: itsOwnFile,
			told: func(t *testing.T, s *stand, _ string) {
				s.inis = []string{filepath.Join(t.TempDir(), "other.ini")}
				if err := os.WriteFile(s.inis[0], []byte("[databases]\nshop = host=127.0.0.1 port=1\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}},
		"syntax":       {spoil: edited("[databases]", "[databases"), why: "a section's name without ]", remedy: rightFile, follow: corrected},
		"broken entry": {spoil: edited("shop = ", "shop = connect "), why: "not a list of key=value pairs", remedy: rightFile, follow: corrected},
		"a file that is not here": {told: func(t *testing.T, s *stand, _ string) { s.inis = []string{s.pooler.IniPath() + ".not"} },
			why: "no such file", remedy: onHost, follow: itsOwnFile},
		"a relative file": {options: relative, why: "is relative to its working directory", remedy: onHost, follow: itsOwnFile},
		"a relative %include": {options: included, why: "working directory, which is not known", remedy: "write an absolute path behind %include",
			told: func(t *testing.T, s *stand, _ string) {
				if err := os.WriteFile(filepath.Join(s.pooler.Dir(), "more.ini"), []byte("shop = host=127.0.0.1 port="+itoa(p.from.Port())), 0o644); err != nil {
					t.Fatal(err)
				}
				inFile("[databases]\n", "[databases]\n%include more.ini\n")(t, s, "")
			},
			follow: func(t *testing.T, s *stand, _ string) {
				inFile("%include more.ini", "%include "+filepath.Join(s.pooler.Dir(), "more.ini"))(t, s, "")
			}},

		"paused":     {spoil: says("PAUSE shop"), why: "paused already", remedy: "RESUME on the admin console", follow: says("RESUME shop")},
		"disabled":   {spoil: says("DISABLE shop"), why: "disabled", remedy: "ENABLE it on the admin console", follow: says("ENABLE shop")},
		"all paused": {spoil: says("PAUSE"), why: "the whole PgBouncer is paused", remedy: "RESUME on the admin console", newOnly: true, follow: says("RESUME")},
		"query_wait_timeout": {options: settings("query_wait_timeout", "9.5"), why: "query_wait_timeout is 9.5s, not more than the budget of 10s",
			remedy: "raise it above the budget and RELOAD", follow: inFile("9.5", "10.5")},
		"query_timeout": {options: settings("query_timeout", "10"), why: "query_timeout is 10s",
			remedy: "raise it above the budget and RELOAD", follow: inFile("query_timeout = 10", "query_timeout = 11")},
		"client_login_timeout": {options: settings("client_login_timeout", "3"), why: "client_login_timeout is 3s",
			remedy: "raise it above the budget and RELOAD", follow: inFile("client_login_timeout = 3", "client_login_timeout = 30")},
		"query_wait_timeout of the entry": {options: more("query_wait_timeout=4"), why: "4s in the database's entry",
			remedy: "raise it above the budget and RELOAD", newOnly: true, follow: inFile("query_wait_timeout=4", "query_wait_timeout=40")},
		"query_wait_timeout of a user": {options: cluster.PoolerOptions{Extra: "[users]\npostgres = query_wait_timeout=2\n"}, why: `2s for user "postgres"`,
			remedy: "raise it above the budget and RELOAD", newOnly: true, follow: inFile("query_wait_timeout=2", "query_wait_timeout=20")},
		"min_pool_size of the entry": {options: more("min_pool_size=3"), why: "min_pool_size is 3",
			remedy: "set min_pool_size=0 in its entry and RELOAD", follow: inFile("min_pool_size=3", "min_pool_size=0")},
		"a shared port": {options: settings("so_reuseport", "1"), why: "so_reuseport", remedy: "name every process by its own Unix socket",
			follow: func(_ *testing.T, s *stand, _ string) {
				s.uri = "host=" + s.pooler.SocketDir() + " port=" + itoa(s.pooler.Port()) + " user=pooleradmin dbname=pgbouncer"
			}},
	} {
		for _, version := range versions {
			if test.newOnly && version != "" {
				continue
			}
			t.Run(name+"/"+versionName(version), func(t *testing.T) {
				t.Parallel()
				s := p.stand(t, version, test.options)
				if test.told != nil {
					test.told(t, s, "")
				}
				m := s.mover(t)
				if test.spoil != nil {
					mustCheck(t, m, s.route)
					test.spoil(t, s, "")
				}
				reasons := check(t, m, s.route)
				hasReason(t, reasons, test.why, test.remedy)
				if t.Failed() {
					return
				}
				test.follow(t, s, reasons[0].Remedy)
				s.moves(t)
			})
		}
	}
}

// TestFoundTogether: what is in the way is told at once, so that nothing that is done about it reveals
// another.
func TestFoundTogether(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	for _, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			o := settings("stats_users", "postgres", "so_reuseport", "1", "query_timeout", "3")
			o.Databases = map[string]cluster.PoolerDatabase{"*": {Port: p.from.Port(), More: "min_pool_size=2"}}
			s := p.stand(t, version, o)
			served(t, s, "")
			asPostgres(t, s, "")
			told := func(whys ...string) (remedies []string) {
				t.Helper()
				reasons := check(t, s.mover(t), s.route)
				if len(reasons) != len(whys) {
					t.Fatalf("reasons %+v; want %q", reasons, whys)
				}
				for i, r := range reasons {
					if !strings.Contains(r.Why, whys[i]) {
						t.Errorf("%q; want %q", r.Why, whys[i])
					}
					remedies = append(remedies, r.Remedy)
				}
				return remedies
			}
			s.inis = []string{s.pooler.IniPath() + ".not"}
			told("may not PAUSE", "min_pool_size is 2", "so_reuseport", "no such file", "query_timeout is 3s")
			s.inis = nil
			remedies := told("may not PAUSE", "min_pool_size is 2", "so_reuseport", "served by the entry *", "query_timeout is 3s")
			inFile("min_pool_size=2", "min_pool_size=0")(t, s, "")
			inFile("query_timeout = 3", "query_timeout = 30")(t, s, "")
			lineAdded(t, s, remedies[3])
			s.uri = "host=" + s.pooler.SocketDir() + " port=" + itoa(s.pooler.Port()) + " user=pooleradmin"
			s.moves(t)
		})
	}
}
