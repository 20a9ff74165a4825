package postgres_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

func serverAt(t *testing.T, uri string) *postgres.Server {
	t.Helper()
	s, err := postgres.NewServer(postgres.Source, uri)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// shows asks what settings a session of ours has.
func shows(t *testing.T, s *postgres.Server, names ...string) string {
	t.Helper()
	conn, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	values := []string{}
	for _, name := range names {
		values = append(values, pgtest.QueryValue[string](t, conn, "SELECT coalesce(current_setting($1, true), '-')", name))
	}
	return strings.Join(values, " ")
}

// client runs a statement in psql with the environment of client programs.
func client(t *testing.T, c *cluster.Cluster, s *postgres.Server, sql string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(c.BinDir(), "psql"), "-X", "-At", "-d", s.ClientConninfo(c.Major()), "-c", sql)
	cmd.Env = s.ClientEnv("a test")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("psql: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestSessionSettings: what a database and a role have as settings does not reach
// our sessions, nor those of client programs; triggers and event triggers do not
// fire in them as far as the role may have it so, and a role that may not can
// connect all the same.
func TestSessionSettings(t *testing.T) {
	t.Parallel()
	for major, quiet := range map[int]string{12: "replica -", 15: "replica -", 17: "replica off"} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Start(t, major)
			loud := strings.NewReplacer("replica", "origin", "off", "on").Replace(quiet)
			pgtest.Exec(t, c.ConnString("postgres"), `CREATE DATABASE d`, `CREATE ROLE other`, `CREATE ROLE plain LOGIN`, `CREATE ROLE boss LOGIN SUPERUSER`,
				`GRANT other TO plain, boss`, `CREATE ROLE rds_superuser`)
			for _, role := range []string{"plain", "boss"} {
				pgtest.Exec(t, c.ConnString("postgres"), `ALTER ROLE `+role+` SET role = other`)
			}
			pgtest.Exec(t, c.ConnString("postgres"), `ALTER DATABASE d SET session_replication_role = local`, `ALTER DATABASE d SET search_path = public`,
				`ALTER DATABASE d SET default_transaction_isolation = 'serializable'`, `ALTER DATABASE d SET xmloption = document`)

			names := []string{"session_replication_role", "event_triggers"}
			boss := serverAt(t, c.ConnStringAs("boss", "", "d"))
			if got := shows(t, boss, names...); got != quiet {
				t.Errorf("a superuser's session has %s, want %s", got, quiet)
			}
			const rest = `SELECT current_user || ' ' || current_setting('default_transaction_isolation') || ' ' || current_setting('xmloption') || ' ' || current_setting('session_replication_role')`
			if got, want := client(t, c, boss, rest), "boss read committed content replica"; got != want {
				t.Errorf("a client program's session has %s, want %s", got, want)
			}
			if got, want := shows(t, boss, "role", "search_path", "default_transaction_isolation", "default_transaction_read_only"), "none  read committed off"; got != want {
				t.Errorf("a session has %s, want %s", got, want)
			}
			raw, err := boss.ConnectReplication(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			raw.Close(t.Context())

			pgtest.Exec(t, c.ConnString("postgres"), `ALTER DATABASE d RESET session_replication_role`)
			plain := serverAt(t, c.ConnStringAs("plain", "", "d"))
			if got := shows(t, plain, append(names, "role")...); got != loud+" none" {
				t.Errorf("a plain role's session has %s, want %s none", got, loud)
			}
			if got := client(t, c, plain, `SELECT current_user`); got != "plain" {
				t.Errorf("a client program is %s", got)
			}
			// On a server of its own a managed service's role is not allowed to either.
			pgtest.Exec(t, c.ConnString("postgres"), `GRANT rds_superuser TO plain`)
			if got := shows(t, serverAt(t, c.ConnStringAs("plain", "", "d")), names...); got != loud {
				t.Errorf("a role that was refused has %s, want %s", got, loud)
			}
			// One that may SET it all the same, as an extension lets it, may be refused at the start.
			for s, want := range map[*postgres.Server]int{plain: 0, boss: 1} {
				if got, err := postgres.Begin(t.Context(), s, map[string]string{"session_replication_role": "replica"}); err != nil || len(got) != want {
					t.Errorf("%s may begin with %v, %v", s.User(), got, err)
				}
			}
			// What the connection string itself asks for and may not is named.
			own := serverAt(t, c.ConnStringAs("plain", "", "d")+"&options=-c%20log_statement%3Dnone")
			if _, err := own.Connect(t.Context()); err == nil || !strings.Contains(postgres.Hint(err), "take log_statement out of the options in --source") {
				t.Errorf("%v, hint: %s", err, postgres.Hint(err))
			}
			if major < 15 {
				return
			}
			pgtest.Exec(t, c.ConnString("postgres"), `GRANT SET ON PARAMETER log_statement TO plain`)
			if got := shows(t, own, "log_statement"); got != "none" {
				t.Errorf("log_statement is %s", got)
			}
			granted := []string{"session_replication_role"}
			if major >= 17 {
				granted = names
			}
			pgtest.Exec(t, c.ConnString("postgres"), `GRANT SET ON PARAMETER `+strings.Join(granted, ", ")+` TO plain`)
			if plain = serverAt(t, c.ConnStringAs("plain", "", "d")); shows(t, plain, names...) != quiet {
				t.Errorf("a role with the right has %s, want %s", shows(t, plain, names...), quiet)
			}
			pgtest.Exec(t, c.ConnString("postgres"), `REVOKE SET ON PARAMETER `+strings.Join(granted, ", ")+` FROM plain`)
			if got := shows(t, plain, names...); got != loud {
				t.Errorf("a role that has lost the right has %s, want %s", got, loud)
			}
		})
	}
}

// TestLoginTrigger: one that refuses everybody keeps out no session of ours, and
// one that writes is never heard.
func TestLoginTrigger(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 17)
	pgtest.Exec(t, c.ConnString("postgres"), `CREATE DATABASE d`, `CREATE ROLE plain LOGIN`)
	keeper := pgtest.Connect(t, c.ConnString("d"))
	for _, sql := range []string{
		`CREATE TABLE login_log (who text)`, `GRANT INSERT ON login_log TO PUBLIC`,
		`CREATE FUNCTION on_login() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.login_log VALUES (session_user); END $$`,
		`CREATE EVENT TRIGGER on_login ON login EXECUTE FUNCTION on_login()`,
		`ALTER EVENT TRIGGER on_login ENABLE ALWAYS`,
	} {
		if _, err := keeper.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	try := func() {
		t.Helper()
		s := serverAt(t, c.ConnString("d"))
		conn, err := s.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close(t.Context())
		raw, err := s.ConnectReplication(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		raw.Close(t.Context())
		client(t, c, s, "SELECT 1")
		if n := pgtest.QueryValue[int64](t, keeper, `SELECT count(*) FROM login_log`); n != 0 {
			t.Errorf("the login trigger has logged %d sessions of ours", n)
		}
	}
	try()
	mustExec(t, keeper, `CREATE OR REPLACE FUNCTION on_login() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN RAISE 'nobody may log in' USING ERRCODE = 'insufficient_privilege'; END $$`)
	try()
	// A role that may not switch it off is told what keeps it out.
	_, err := serverAt(t, c.ConnStringAs("plain", "", "d")).Connect(t.Context())
	if err == nil || !strings.Contains(err.Error(), "nobody may log in") || !strings.Contains(postgres.Hint(err), "GRANT SET ON PARAMETER") {
		t.Errorf("a plain role: %v; hint: %s", err, postgres.Hint(err))
	}
	mustExec(t, keeper, postgres.Hint(err))
	conn, err := serverAt(t, c.ConnStringAs("plain", "", "d")).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close(t.Context())
}

func mustExec(t *testing.T, conn *postgres.Session, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
