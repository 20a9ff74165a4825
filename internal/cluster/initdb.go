package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// locales to try, best first: C.UTF-8 knows about letters beyond ASCII and needs no locale package,
// but macOS and old systems lack it.
var locales = []string{"C.UTF-8", "C.utf8", "C"}

// initialize makes the data directory.
func (c *Cluster) initialize(ctx context.Context) error {
	if c.options.StandbyOf != nil {
		return c.standby(c.options.StandbyOf)
	}
	if c.options.TemplateDir != "" && c.options.Password == "" {
		return c.fromTemplate(ctx)
	}
	return c.initdb(ctx, c.DataDir())
}

func (c *Cluster) initdb(ctx context.Context, data string) error {
	args := []string{
		"-D", data, "-U", superuser, "--encoding=UTF8", "--no-sync", "--auth=trust",
	}
	if c.options.Password != "" {
		file := filepath.Join(c.dir, "password")
		defer os.Remove(file)
		if err := c.account.writeFile(file, c.options.Password+"\n"); err != nil {
			return err
		}
		args = append(args, "--auth=scram-sha-256", "--pwfile="+file)
	}
	var failures []error
	for _, locale := range locales {
		out, err := c.run(ctx, "initdb", append(slices.Clone(args), "--locale="+locale, "--lc-messages=C")...)
		if err == nil {
			return appendFile(filepath.Join(data, "postgresql.conf"), "include_if_exists = '"+settingsFile+"'\n")
		}
		failures = append(failures, fmt.Errorf("initdb --locale=%s: %w: %s", locale, err, tail(out, 10)))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failures...)
}

// run runs one of the server's programs to its end, as the account. Like the server it must not
// outlive us, hence the locked thread (see startChild).
func (c *Cluster) run(ctx context.Context, program string, args ...string) (string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, filepath.Join(c.options.BinDir, program), args...)
	cmd.Dir = c.dir
	cmd.Env = environment(c.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.account.credential()}
	dieWithParent(cmd.SysProcAttr)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its own postgres too
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// defaults suit a server that takes part in logical replication and has many like it beside it.
func (c *Cluster) defaults() map[string]string {
	d := map[string]string{
		"listen_addresses":                  loopback,
		"port":                              strconv.Itoa(c.port),
		"unix_socket_directories":           c.socketDir,
		"wal_level":                         "logical",
		"max_connections":                   "100",
		"max_replication_slots":             "40",
		"max_wal_senders":                   "40",
		"max_worker_processes":              "40",
		"max_logical_replication_workers":   "24",
		"max_sync_workers_per_subscription": "4",
		"shared_buffers":                    "64MB",
		"logging_collector":                 "off",
		"log_destination":                   "stderr",
		"log_line_prefix":                   "%m [%p] %u@%d ",
		"log_timezone":                      "UTC",
		"timezone":                          "UTC",
	}
	if c.options.Major >= 18 {
		d["max_active_replication_origins"] = "40" // until 17 max_replication_slots bounds them too
	}
	if !c.options.Durable {
		d["fsync"] = "off"
		d["full_page_writes"] = "off"
	}
	return d
}

// writeSettings writes the file that postgresql.conf includes at its end.
func (c *Cluster) writeSettings() error {
	var b strings.Builder
	for _, m := range []map[string]string{c.defaults(), c.settings} {
		for _, name := range sortedKeys(m) {
			fmt.Fprintf(&b, "%s = '%s'\n", name, settingEscaper.Replace(m[name]))
		}
	}
	return c.account.writeFile(filepath.Join(c.DataDir(), settingsFile), b.String())
}

var settingEscaper = strings.NewReplacer(`'`, `''`, `\`, `\\`, "\n", `\n`)

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func appendFile(name, text string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// tail returns the last n lines of a text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
