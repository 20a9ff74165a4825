package schema

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pgbaton/internal/postgres"
)

// Tools are a pg_dump and a pg_restore of one major version.
type Tools struct {
	Dir   string
	Major int
}

// clientDirs are where the usual packages put client programs of a version.
var clientDirs = []string{
	"/usr/lib/postgresql/*/bin",             // Debian
	"/usr/pgsql-*/bin",                      // RPM
	"/opt/homebrew/opt/postgresql@*/bin",    // Homebrew on Apple silicon
	"/opt/homebrew/opt/libpq/bin",           //
	"/usr/local/opt/postgresql@*/bin",       // Homebrew on Intel
	"/usr/local/opt/libpq/bin",              //
	"/home/linuxbrew/.linuxbrew/opt/*/bin",  //
	"/Applications/Postgres.app/*/*/*/bin/", //
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// FindTools looks for pg_dump and pg_restore that understand a server of the
// given major: pg_dump refuses a server newer than itself. Of those that do,
// the oldest is taken, because what a newer one writes an older server may not
// know. A dir that is given is the only one looked into.
func FindTools(dir string, major int) (Tools, error) {
	dirs := []string{dir}
	if dir == "" {
		dirs = filepath.SplitList(os.Getenv("PATH"))
		for _, pattern := range clientDirs {
			found, _ := filepath.Glob(pattern) // the only error is a bad pattern
			dirs = append(dirs, found...)
		}
	}
	var fit []Tools
	var seen []string
	for _, d := range dirs {
		dump, restore := toolMajor(d, "pg_dump"), toolMajor(d, "pg_restore")
		if dump == 0 || dump != restore {
			continue
		}
		seen = append(seen, fmt.Sprintf("%d in %s", dump, d))
		if dump >= major {
			fit = append(fit, Tools{Dir: d, Major: dump})
		}
	}
	if len(fit) == 0 {
		found := "none was found"
		if len(seen) > 0 {
			found = "found " + strings.Join(seen, ", ")
		}
		return Tools{}, fmt.Errorf("no pg_dump and pg_restore of version %d or newer: %s; install the client programs of PostgreSQL %d (Debian: postgresql-client-%d), or name their directory with --pg-bin",
			major, found, major, major)
	}
	return slices.MinFunc(fit, func(a, b Tools) int { return a.Major - b.Major }), nil
}

func toolMajor(dir, name string) int {
	out, err := exec.Command(filepath.Join(dir, name), "--version").Output()
	if err != nil {
		return 0
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return 0
	}
	major, _ := strconv.Atoi(string(m[1]))
	return major
}

// Command is a client program's run: what plan prints and what is executed.
// The password goes by the environment.
type Command struct {
	Program  string
	Args     []string // but for the server's address
	server   *postgres.Server
	settings []string // of its sessions, "name=value"
}

// String prints the command as one would type it.
func (c Command) String() string {
	words := []string{c.Program}
	for _, a := range c.args(0) {
		if strings.ContainsAny(a, " '\"\\$`&;|<>()*?") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// args are all arguments, for programs of a major version (0: of any). Where the
// server is comes first: it is known for sure once there was a session.
func (c Command) args(major int) []string {
	return append([]string{"--dbname=" + c.server.ClientConninfo(major)}, c.Args...)
}

// applicationPrefix begins the application names of the sessions of client programs
// and of loads (tablecopy).
const applicationPrefix = "pgbaton "

// EndOrphans ends the sessions, in this database, of client programs and loads that
// outlived the pgbaton that started them: a server builds an index to its end, and
// commits it, although nobody listens any more. The caller holds the operator's
// lock and has none of these itself, so they are nobody else's.
func EndOrphans(ctx context.Context, conn *postgres.Session) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		tag, err := conn.Exec(ctx, `
			SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
			WHERE datname = pg_catalog.current_database() AND pg_catalog.strpos(application_name, $1) = 1`, applicationPrefix)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("a session of an earlier run does not end: %w", ctx.Err())
		}
	}
}

// run executes the program and returns what it wrote to standard error. The
// whole process group ends with ctx, so that no pg_restore worker outlives us.
func (c Command) run(ctx context.Context, tools Tools, onLine func(string)) (stderr string, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(tools.Dir, c.Program), c.args(tools.Major)...)
	cmd.Env = c.server.ClientEnv(applicationPrefix+c.Program, c.settings...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	out := &lines{onLine: onLine}
	cmd.Stderr = out
	attended := c.server.Attend(ctx, applicationPrefix+c.Program)
	err = cmd.Run()
	attended()
	out.flush()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return strings.Join(out.kept, "\n"), err
}

// lines keeps what a program says and passes it on line by line.
type lines struct {
	partial []byte
	kept    []string
	onLine  func(string)
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.partial = append(l.partial, p...)
	for {
		i := bytes.IndexByte(l.partial, '\n')
		if i < 0 {
			return len(p), nil
		}
		l.take(string(l.partial[:i]))
		l.partial = l.partial[i+1:]
	}
}

func (l *lines) flush() {
	if len(l.partial) > 0 {
		l.take(string(l.partial))
		l.partial = nil
	}
}

func (l *lines) take(line string) {
	if l.onLine != nil {
		l.onLine(line)
	}
	l.kept = append(l.kept, line)
}

// exitStatus is a program's exit code, 0 when it was not its exit that failed.
func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}
