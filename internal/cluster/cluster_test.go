package cluster

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// needServers is pgtest.NeedServers, which is above this package.
func needServers(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs servers: make test runs it")
	}
}

func start(t *testing.T, o Options) *Cluster {
	t.Helper()
	needServers(t)
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func value[T any](t *testing.T, conn string, sql string) T {
	t.Helper()
	c, err := pgx.Connect(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	var v T
	if err := c.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func TestLife(t *testing.T) {
	for _, major := range []int{12, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			c := start(t, Options{Major: major, Settings: map[string]string{"work_mem": "5MB", "cluster_name": `it's \ a test`}})
			uri := c.ConnString("postgres")
			for sql, want := range map[string]string{
				"SHOW work_mem":         "5MB",
				"SHOW cluster_name":     `it's \ a test`,
				"SHOW wal_level":        "logical",
				"SHOW listen_addresses": "127.0.0.1",
				"SHOW server_encoding":  "UTF8",
				"SHOW fsync":            "off",
			} {
				if got := value[string](t, uri, sql); got != want {
					t.Errorf("%s: %q, want %q", sql, got, want)
				}
			}
			if got := value[int](t, uri, "SELECT current_setting('server_version_num')::int / 10000"); got != major {
				t.Errorf("server is %d", got)
			}
			value[string](t, uri, "SELECT set_config('x.y', 'z', false)")

			pid, port := c.PID(), c.Port()
			for name, end := range map[string]func() error{
				"stop":  func() error { return c.Stop(t.Context()) },
				"kill":  c.Kill,
				"crash": c.Crash,
				"none":  func() error { return nil },
			} {
				if err := end(); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if name != "none" && (c.Running() || alive(pid)) {
					t.Errorf("running after %s", name)
				}
				if err := c.Restart(t.Context(), map[string]string{"work_mem": "6MB"}); err != nil {
					t.Fatalf("restart after %s: %v", name, err)
				}
				if c.Port() != port || c.PID() == pid {
					t.Errorf("after %s: port %d, was %d; pid %d, was %d", name, c.Port(), port, c.PID(), pid)
				}
				pid = c.PID()
				if got := value[string](t, uri, "SHOW work_mem"); got != "6MB" {
					t.Errorf("work_mem after restart: %s", got)
				}
			}
			if err := c.Reload(t.Context(), map[string]string{"work_mem": "7MB"}); err != nil {
				t.Fatal(err)
			}
			if got := value[string](t, uri, "SHOW work_mem"); got != "7MB" {
				t.Errorf("work_mem after reload: %s", got)
			}
			if err := c.Remove(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
				t.Errorf("directory after Remove: %v", err)
			}
		})
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Major: 12, Password: `p@ss/wörd'?`, Durable: true})
	if got := value[string](t, c.ConnString("postgres"), "SHOW fsync"); got != "on" {
		t.Errorf("fsync %s in a durable cluster", got)
	}
	for _, password := range []string{"", "wrong"} {
		conn, err := pgx.Connect(t.Context(), c.ConnStringAs("postgres", password, "postgres"))
		if err == nil {
			conn.Close(context.Background())
			t.Errorf("password %q was accepted", password)
		}
	}
}

func TestFailedStartShowsLogAndLeavesNothing(t *testing.T) {
	needServers(t)
	t.Parallel()
	parent := longDir(t)
	_, err := Start(t.Context(), Options{Major: 15, Dir: parent, Settings: map[string]string{"shared_buffers": "lots"}})
	if err == nil || !strings.Contains(err.Error(), `"shared_buffers": "lots"`) {
		t.Errorf("error %v does not show the log", err)
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// longDir is a temporary directory that the server's account can enter, with a path too long for a socket.
func longDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 20))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return open(t, dir)
}

// open lets the server's account enter a directory below the one for temporary files.
func open(t *testing.T, dir string) string {
	t.Helper()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLongPathAndTemplate(t *testing.T) {
	needServers(t)
	t.Parallel()
	dir, templates := longDir(t), t.TempDir()
	type result struct {
		c   *Cluster
		err error
	}
	results := make(chan result)
	for range 2 { // at the same time: one makes the template, the other waits for it
		go func() {
			c, err := Start(t.Context(), Options{Major: 15, Dir: dir, TemplateDir: templates})
			results <- result{c, err}
		}()
	}
	var ids []int64
	for range 2 {
		r := <-results
		if r.err != nil {
			t.Error(r.err)
			continue
		}
		defer r.c.Remove()
		ids = append(ids, value[int64](t, r.c.ConnString("postgres"), "SELECT system_identifier FROM pg_control_system()"))
	}
	if len(ids) == 2 && ids[0] == ids[1] {
		t.Errorf("both clusters have the system identifier %d", ids[0])
	}
}

// TestDiesWithParent kills a process that started a cluster and sees the cluster go.
func TestDiesWithParent(t *testing.T) {
	const role = "CLUSTER_TEST_PARENT"
	if os.Getenv(role) != "" {
		c, err := Start(context.Background(), Options{Major: 17, Dir: os.Getenv(role)})
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString(strconv.Itoa(c.PID()) + "\n")
		select {} // until killed
	}
	needServers(t)
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDiesWithParent$")
	cmd.Env = append(os.Environ(), role+"="+open(t, t.TempDir()))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 32)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil || !alive(pid) {
		t.Fatalf("%q is no pid of a running server (%v)", line[:n], err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for alive(pid) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("server %d lives on after its parent", pid)
		}
	}
}

func TestFindBinDir(t *testing.T) {
	t.Parallel()
	if _, err := FindBinDir(t.TempDir(), 99); err == nil || !strings.Contains(err.Error(), "scripts/fetch-postgres 99") {
		t.Errorf("error without the remedy: %v", err)
	}
	needServers(t)
	dir, err := FindBinDir("", 12)
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(dir) || filepath.Base(dir) != "bin" {
		t.Errorf("found %s", dir)
	}
}

func TestMustReach(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	nobody := account{name: "user nobody", uid: 65533, gid: 65533, switched: true}
	if err := nobody.mustReach(dir, "go elsewhere"); err == nil || !strings.Contains(err.Error(), "; go elsewhere") {
		t.Errorf("error %v without the remedy", err)
	}
	if err := nobody.mustReach("/tmp", ""); err != nil {
		t.Error(err)
	}
}
