package cli_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"pgbaton/internal/cli"
	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"pgbaton":         func() { os.Exit(cli.Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"pgbaton-panicky": panicky,
	})
}

// TestUsage runs the scripts that need no server.
func TestUsage(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/usage", UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != ""})
}

// TestErrors runs the scripts about bad input, each with two servers: SOURCE and
// TARGET are their addresses (host:port), scram-authenticated, password "secret".
func TestErrors(t *testing.T) {
	start := func(major int, settings map[string]string) *cluster.Cluster {
		return pgtest.StartOptions(t, cluster.Options{Major: major, Password: "secret", Settings: settings})
	}
	source, target := start(13, nil), start(17, nil)
	older, replica, full := start(12, nil), start(15, map[string]string{"wal_level": "replica"}), start(15, map[string]string{"max_replication_slots": "0"})
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/errors",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			for name, c := range map[string]*cluster.Cluster{"SOURCE": source, "TARGET": target, "OLDER": older, "REPLICA": replica, "FULL": full} {
				env.Setenv(name, "127.0.0.1:"+port(c))
			}
			db := "app_" + strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")
			env.Setenv("DB", db)
			env.Setenv("PSQL", filepath.Join(source.BinDir(), "psql"))
			env.Setenv("PGBATON_PG_BIN", target.BinDir())
			env.Setenv("PGPASSWORD", "secret")
			for _, c := range []*cluster.Cluster{source, older, replica, full} {
				pgtest.Exec(t, c.ConnString("postgres"), `CREATE DATABASE "`+db+`"`)
				pgtest.Exec(t, c.ConnString(db), `CREATE TABLE public.t (i int PRIMARY KEY)`)
			}
			return nil
		},
	})
}
