package traffic

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pgbaton/internal/refusal"
)

// Check implements Mover. The connections it opens are kept, so that the pause
// is quick. What it changes is one setting, to the value that it has (to find out
// whether it may), and a file that it makes beside the configuration file and
// removes again (to find out whether it can).
func (m *PgBouncers) Check(ctx context.Context, r Route, budget time.Duration) ([]refusal.Reason, error) {
	if _, err := m.clientDatabase(r); err != nil {
		return []refusal.Reason{{Why: "PgBouncer: " + err.Error(), Remedy: "name the database under which the application connects (--pgbouncer-database)"}}, nil
	}
	found := make(map[*pgBouncer]*findings, len(m.all))
	for _, b := range m.all {
		found[b] = &findings{}
	}
	err := m.each(r, func(b *pgBouncer, database string) error {
		f := found[b]
		f.where = fmt.Sprintf("PgBouncer %s, database %s", b.name, database)
		b.check(ctx, database, r, budget, f)
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	var reasons []refusal.Reason
	for _, b := range m.all {
		reasons = append(reasons, found[b].reasons...)
	}
	return reasons, nil
}

// findings collect what is in the way with one PgBouncer: all that can be seen now,
// so that what is done about one does not reveal another.
type findings struct {
	where   string
	reasons []refusal.Reason
}

func (f *findings) add(remedy, format string, args ...any) {
	f.reasons = append(f.reasons, refusal.Reason{Why: f.where + ": " + fmt.Sprintf(format, args...), Remedy: remedy})
}

// What several findings have for a remedy.
const (
	// A user in neither admin_users nor stats_users is told no more than "not allowed".
	reachConsole = "check that it runs, the address, the user (one of admin_users) and its password (also PGPASSWORD and the password file)"
	onItsHost    = "run pgbaton on PgBouncer's host, as a user that may read the file; or name the file as this machine sees it (--pgbouncer-ini)"
	rightFile    = "correct the file if it is wrong, and RELOAD on the admin console; or name the file that PgBouncer reads (--pgbouncer-ini)"
)

func (b *pgBouncer) check(ctx context.Context, database string, r Route, budget time.Duration, f *findings) {
	for _, c := range []**console{&b.main, &b.pauser} {
		if err := freshen(ctx, b, c); err != nil {
			f.add(reachConsole, "%v", err)
			return
		}
	}
	settings, err := b.main.showConfig(ctx)
	var e *entry
	if err == nil {
		e, err = b.main.show(ctx, database)
	}
	switch {
	case errors.Is(err, errTooOld):
		f.add("install a newer PgBouncer", "%v", err)
		return
	case err != nil:
		f.add(reachConsole, "%v", err)
		return
	}
	b.mayPause(ctx, settings, f)
	if e != nil {
		b.checkState(ctx, e, f)
	}
	b.checkShared(settings, f)
	config, line := b.checkFile(database, destinationOf(r.From), e, settings, f)
	checkWaiting(config, line, settings, budget, f)
	if err := destinationOf(r.To).writable(); err != nil {
		f.add("lead the application there by hooks (--on-pause, --on-switch, --on-resume, --on-abort)", "%v", err)
	}
}

// freshen opens a console, or opens it again when it does not answer.
func freshen(ctx context.Context, b *pgBouncer, c **console) (err error) {
	if *c != nil && (*c).awaited == 0 {
		if _, err = (*c).ask(ctx, "SHOW VERSION"); err == nil {
			return nil
		}
	}
	(*c).close()
	*c, err = openConsole(ctx, b.config)
	return err
}

// mayPause sets a parameter to its own value: allowed to those who may PAUSE.
func (b *pgBouncer) mayPause(ctx context.Context, settings map[string]string, f *findings) {
	_, err := b.main.ask(ctx, setCommand(retryParameter, settings[retryParameter]))
	if err != nil {
		f.add("add the user to admin_users and RELOAD, or name another in --pgbouncer", "user %s may not PAUSE: %v", quoteName(b.config.User), err)
	}
}

// checkState looks at what others have done to the database, and at what would
// spoil a pause.
func (b *pgBouncer) checkState(ctx context.Context, e *entry, f *findings) {
	if e.paused {
		f.add("find out who holds it; RESUME on the admin console lets its clients go", "it is paused already")
	}
	if e.disabled {
		f.add("ENABLE it on the admin console", "it is disabled")
	}
	if e.minPoolSize > 0 {
		// The periodic maintenance opens connections for it although the database is
		// paused, and PAUSE cuts them off: see awaitLogins.
		f.add("set min_pool_size=0 in its entry and RELOAD, until traffic has moved",
			"min_pool_size is %d: PgBouncer would go on connecting during the pause, fail, and refuse clients for server_login_retry afterwards", e.minPoolSize)
	}
	state, err := b.main.ask(ctx, "SHOW STATE")
	if err != nil {
		return // not known to this version: PAUSE will tell
	}
	for _, row := range state.rows {
		if len(row) > 1 && row[1] == "yes" && row[0] != "active" {
			f.add("RESUME on the admin console", "the whole PgBouncer is %s", row[0])
		}
	}
}

// checkShared refuses a port behind which several processes may listen: the
// kernel would choose anew at each connection.
func (b *pgBouncer) checkShared(settings map[string]string, f *findings) {
	if n := settings["so_reuseport"]; n != "" && n != "0" && b.main.conn.RemoteAddr().Network() != "unix" {
		f.add("name every process by its own Unix socket, for instance --pgbouncer 'host=/run/pgbouncer-1 port=6432 dbname=pgbouncer'",
			"so_reuseport is on, several processes may listen on this port, and --pgbouncer reaches any one of them")
	}
}

// checkFile looks whether the entry can be rewritten, and is what PgBouncer has
// read. e is what it has read; nil: nothing. What could be read of the file is
// returned, with the line that applies to the database.
func (b *pgBouncer) checkFile(database string, from destination, e *entry, settings map[string]string, f *findings) (config *iniConfig, line iniSetting) {
	unread := &iniConfig{}
	file, err := b.find(settings)
	if err != nil {
		f.add(onItsHost, "%v", err)
		return unread, line
	}
	if config, err = readIni(file.path, file.workDir); err != nil {
		remedy := rightFile
		var unreadable *fs.PathError
		if errors.Is(err, errRelativeInclude) {
			remedy = "write an absolute path behind %include"
		} else if errors.As(err, &unreadable) {
			remedy = onItsHost
		}
		f.add(remedy, "reading its configuration: %v", err)
		return unread, line
	}
	b.file = file
	line, found := config.database(database)
	if found {
		checkEntry(database, line, e, f)
		checkReplaced(line.file, f)
		return config, line
	}
	line, fallback := config.database("*")
	switch {
	case e == nil:
		f.add(fmt.Sprintf("add the line %s to [databases] and RELOAD; or name the database under which the application connects (--pgbouncer-database)", from.entry(database)),
			"neither PgBouncer nor %s knows this database", file.path)
	case fallback:
		f.add(fmt.Sprintf("add the line %s to [databases], with whatever else the entry * has, and RELOAD", e.entry(database)),
			"%s holds no entry of this name in [databases]: it is served by the entry *", file.path)
	default:
		f.add(rightFile, "PgBouncer knows this database, but %s holds no entry of this name in [databases]", file.path)
	}
	checkReplaced(file.path, f)
	return config, line
}

// checkEntry looks whether the line of a file is what PgBouncer has read.
func checkEntry(database string, line iniSetting, e *entry, f *findings) {
	leads, err := leadsTo(database, line.value)
	switch {
	case err != nil:
		f.add(rightFile, "%s: %v", line.file, err)
	case e == nil:
		f.add(rightFile, "%s holds the entry, but PgBouncer has not read it", line.file)
	case leads != e.destination:
		f.add(rightFile, "%s leads to %s, but PgBouncer to %s: the file was edited and not read since, or it is another PgBouncer's", line.file, leads, e.destination)
	}
}

// checkReplaced looks whether a file can be replaced.
func checkReplaced(file string, f *findings) {
	if err := tryReplacement(file); err != nil {
		f.add("run pgbaton as root or as the file's owner, with write permission on its directory: the file is replaced by renaming", "%s cannot be replaced: %v", file, err)
	} else if isMountPoint(file) {
		f.add("mount the file's directory instead of the file", "%s is a mount point and cannot be replaced", file)
	}
}

// isMountPoint says whether a file is mounted by itself, as containers do: a
// mount cannot be renamed over. (Linux; elsewhere it is found out by trying.)
func isMountPoint(file string) bool {
	if path, err := filepath.EvalSymlinks(file); err == nil {
		file = path
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	escaped := strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(file)
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == escaped {
			return true
		}
	}
	return false
}

// checkWaiting compares the budget with the times after which PgBouncer gives up
// a client that waits (pool_client_maint in src/janitor.c).
func checkWaiting(config *iniConfig, entry iniSetting, settings map[string]string, budget time.Duration, f *findings) {
	tooShort := func(name, value, where string) {
		if n, err := strconv.ParseFloat(value, 64); err == nil && n > 0 && time.Duration(math.Min(n, 1e6)*float64(time.Second)) <= budget {
			f.add("raise it above the budget and RELOAD, or make the budget smaller (--max-pause)",
				"%s is %ss%s, not more than the budget of %s: clients that wait longer lose their connection", name, value, where, budget)
		}
	}
	pairs, err := splitEntry(entry.value)
	if err != nil {
		return // told already
	}
	if own := last(pairs, "query_wait_timeout"); own != nil {
		tooShort("query_wait_timeout", own.value, " in the database's entry")
	} else {
		tooShort("query_wait_timeout", settings["query_wait_timeout"], "")
	}
	for _, name := range []string{"query_timeout", "client_login_timeout"} {
		tooShort(name, settings[name], "")
	}
	for _, s := range config.settings {
		if s.section != "users" {
			continue
		}
		if pairs, err := splitEntry(s.value); err == nil {
			if own := last(pairs, "query_wait_timeout"); own != nil {
				tooShort("query_wait_timeout", own.value, " for user "+quoteName(s.key))
			}
		}
	}
}
