package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// server makes a Server of a connection string.
func server(t *testing.T, format string, args ...any) *postgres.Server {
	t.Helper()
	s, err := postgres.NewServer(postgres.Source, fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// deadPort is a port of this machine on which nothing listens.
func deadPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// connected opens a session and closes it.
func connected(t *testing.T, s *postgres.Server) {
	t.Helper()
	conn, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close(context.Background())
}

// TestAddress: the address is that of the session, not the first that the string
// names; and later sessions go there too.
func TestAddress(t *testing.T) {
	t.Parallel()
	one, two := pgtest.Start(t, 12), pgtest.Start(t, 17)
	dead := deadPort(t)

	several := fmt.Sprintf("host=127.0.0.1,127.0.0.1,127.0.0.1 port=%d,%d,%d user=postgres dbname=postgres target_session_attrs=read-write", dead, one.Port(), two.Port())
	s := server(t, "%s", several)
	connected(t, s)
	if s.Host() != "127.0.0.1" || s.Port() != one.Port() {
		t.Errorf("the session is on port %d, the address is %s:%d", one.Port(), s.Host(), s.Port())
	}
	if want := fmt.Sprintf("127.0.0.1:%d/postgres", one.Port()); s.Address() != want {
		t.Errorf("address %s, want %s", s.Address(), want)
	}
	for _, c := range []postgres.Conninfo{s.Conninfo(), must(postgres.ParseGiven(s.ClientConninfo(17)))} {
		if c["host"] != "127.0.0.1" || c["port"] != fmt.Sprint(one.Port()) {
			t.Errorf("others are sent to %s", c)
		}
	}
	// Another member of the list is another server.
	if err := one.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if conn, err := s.Connect(t.Context()); err == nil {
		t.Errorf("a later session was opened on port %d", conn.Config().Port)
		conn.Close(context.Background())
	} else if want := fmt.Sprintf("127.0.0.1:%d", one.Port()); !strings.Contains(err.Error(), want) || !strings.Contains(postgres.Hint(err), "does not change its server; when it is settled which one counts, run the same command again") {
		t.Errorf("%v; hint: %s", err, postgres.Hint(err))
	}
	s = server(t, "%s", several) // the same command again
	connected(t, s)
	if s.Port() != two.Port() {
		t.Errorf("another command reaches port %d, want %d", s.Port(), two.Port())
	}

	// A name with several addresses of one family does not say which server it is.
	s = server(t, "host=two.test,one.test hostaddr=127.0.0.1,127.0.0.2 port=%d user=postgres dbname=postgres", two.Port())
	connected(t, s)
	if s.Host() != "127.0.0.1" || s.Conninfo()["host"] != "two.test" || s.Conninfo()["hostaddr"] != "127.0.0.1" {
		t.Errorf("%s: %s", s.Address(), s.Conninfo())
	}
	// A socket is its directory.
	s = server(t, "host=%s port=%d user=postgres dbname=postgres", two.SocketDir(), two.Port())
	connected(t, s)
	if s.Host() != two.SocketDir() || s.Conninfo()["hostaddr"] != "" {
		t.Errorf("%s: %s", s.Address(), s.Conninfo())
	}
	// One address of each family is one host: its name is the address.
	s = server(t, "host=localhost port=%d user=postgres dbname=postgres", two.Port())
	connected(t, s)
	if s.Host() != "localhost" || s.Conninfo()["hostaddr"] != "" {
		t.Errorf("%s: %s", s.Address(), s.Conninfo())
	}
}

// TestAnotherServer: an address that leads to another server than before, a pool of
// servers behind one name for instance, is not trusted.
func TestAnotherServer(t *testing.T) {
	t.Parallel()
	one, two := pgtest.Start(t, 12), pgtest.Start(t, 17)
	leadsTo := make(chan int, 2) // the first session of all, and the one before it that asks
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", <-leadsTo))
			if err != nil {
				client.Close()
				return
			}
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				go func() { io.Copy(way[0], way[1]); way[0].Close() }()
			}
		}
	}()
	s := server(t, "host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable", l.Addr().(*net.TCPAddr).Port)
	leadsTo <- one.Port()
	leadsTo <- one.Port()
	connected(t, s)
	leadsTo <- two.Port()
	if conn, err := s.Connect(t.Context()); err == nil {
		t.Error("a session of another server was trusted")
		conn.Close(context.Background())
	} else if !strings.Contains(err.Error(), "another server") || postgres.Hint(err) != "give --source an address that leads to one server" {
		t.Errorf("%v; hint: %s", err, postgres.Hint(err))
	}
	s = server(t, "host=127.0.0.1 port=%d user=postgres dbname=postgres", one.Port()) // as said
	connected(t, s)
	connected(t, s)
	s = server(t, "host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable", l.Addr().(*net.TCPAddr).Port)
	leadsTo <- one.Port()
	leadsTo <- two.Port()
	if _, err := s.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("asked one server, connected to another: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestPooler: a session through a pooler is not taken for one of the server, in
// whatever mode it pools, and whether or not it minds start-up parameters.
func TestPooler(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 17)
	for _, version := range []string{pgtest.OldPooler, ""} {
		for _, mode := range []string{"transaction", "statement", "session"} {
			for _, ignores := range []bool{false, true} {
				t.Run(fmt.Sprintf("version %q, mode %s, ignores parameters: %t", version, mode, ignores), func(t *testing.T) {
					t.Parallel()
					settings := map[string]string{}
					if ignores {
						settings["ignore_startup_parameters"] = "search_path, default_transaction_read_only, default_transaction_isolation, statement_timeout, lock_timeout, idle_in_transaction_session_timeout, client_min_messages, extra_float_digits, bytea_output, IntervalStyle, row_security, tcp_keepalives_idle, tcp_keepalives_interval, tcp_keepalives_count, options, session_replication_role, event_triggers"
					}
					p := pgtest.StartPooler(t, version, cluster.PoolerOptions{PoolMode: mode, Settings: settings,
						Databases: map[string]cluster.PoolerDatabase{"postgres": {Port: c.Port()}}})
					s := server(t, "%s", p.ConnString("postgres", "postgres"))
					conn, err := s.Connect(t.Context())
					var pooler *postgres.PoolerError
					switch {
					case err == nil:
						conn.Close(context.Background())
						t.Error("taken for a session of the server")
					case !errors.As(err, &pooler) || !strings.Contains(postgres.Hint(err), "the server's own host and port"):
						t.Errorf("%v; hint: %s", err, postgres.Hint(err))
					}
					if err != nil {
						t.Log(err)
					}
					connected(t, server(t, "host=%s port=%d user=postgres dbname=postgres", c.Host(), c.Port())) // as said
				})
			}
		}
	}
}

// TestBeacon: a beacon is seen by every role in its database, and nowhere else.
func TestBeacon(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 17} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c, other := pgtest.Start(t, major), pgtest.Start(t, 12)
			pgtest.Exec(t, c.ConnString("postgres"), `CREATE ROLE nobody_in_particular LOGIN`, `CREATE DATABASE d`)
			s := server(t, "%s", c.ConnString("postgres"))
			conn, err := s.Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			beacon, err := postgres.LightBeacon(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			for uri, here := range map[string]bool{c.ConnStringAs("nobody_in_particular", "", "postgres"): true, c.ConnString("d"): false, other.ConnString("postgres"): false} {
				sight, err := beacon.Look(t.Context(), pgtest.Connect(t, uri).PgConn())
				if err != nil || sight.Here != here {
					t.Errorf("%s: %+v, %v", uri, sight, err)
				}
			}
			if why, err := s.LeadsTo(t.Context(), beacon); err != nil || why != "" {
				t.Errorf("the server itself: %s %v", why, err)
			}
			elsewhere := server(t, "%s", other.ConnString("postgres"))
			if why, err := elsewhere.LeadsTo(t.Context(), beacon); err != nil || !strings.Contains(why, fmt.Sprintf("port %d", other.Port())) {
				t.Errorf("another server: %s %v", why, err)
			}
			if err := beacon.PutOut(t.Context(), conn); err != nil {
				t.Fatal(err)
			}
			if why, err := s.LeadsTo(t.Context(), beacon); err != nil || why == "" {
				t.Errorf("a beacon that is out: %s %v", why, err)
			}
		})
	}
}
