package traffic

import (
	"context"
	"errors"
	"fmt"
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
		to := destination{host: r.To.Host, port: r.To.Port, database: r.To.Database}
		b.check(ctx, database, to, budget, f)
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

// findings collect what is in the way with one PgBouncer.
type findings struct {
	where   string
	reasons []refusal.Reason
}

func (f *findings) add(remedy, format string, args ...any) {
	f.reasons = append(f.reasons, refusal.Reason{Why: f.where + ": " + fmt.Sprintf(format, args...), Remedy: remedy})
}

const entryRemedy = "add an entry of its own to [databases], for instance %s = host=… port=… dbname=…, and RELOAD"

func (b *pgBouncer) check(ctx context.Context, database string, to destination, budget time.Duration, f *findings) {
	for _, c := range []**console{&b.main, &b.pauser} {
		if err := freshen(ctx, b, c); err != nil {
			f.add("check that it runs, the address, the user and its password (also PGPASSWORD and the password file)", "%v", err)
			return
		}
	}
	settings, err := b.main.showConfig(ctx)
	if err != nil {
		f.add("name a user of admin_users or stats_users in --pgbouncer", "%v", err)
		return
	}
	if !b.mayPause(ctx, settings, f) {
		return
	}
	e, err := b.main.show(ctx, database)
	if err != nil {
		f.add("install a newer PgBouncer", "%v", err)
		return
	}
	if e != nil {
		b.checkState(ctx, e, f)
	}
	b.checkShared(settings, f)
	config, ok := b.checkFile(ctx, database, e, settings, f)
	if !ok {
		return
	}
	entry, _ := config.database(database)
	checkWaiting(config, entry, settings, budget, f)
	if _, err := repoint(database, entry.value, to); err != nil {
		f.add("", "%v", err)
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
func (b *pgBouncer) mayPause(ctx context.Context, settings map[string]string, f *findings) bool {
	_, err := b.main.ask(ctx, setCommand(retryParameter, settings[retryParameter]))
	if err != nil {
		f.add("add the user to admin_users and RELOAD, or name another in --pgbouncer", "user %s may not PAUSE: %v", quoteName(b.config.User), err)
	}
	return err == nil
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
// read. e is what it has read; nil: nothing.
func (b *pgBouncer) checkFile(ctx context.Context, database string, e *entry, settings map[string]string, f *findings) (*iniConfig, bool) {
	file, err := b.find(settings)
	if err != nil {
		f.add("run pgbaton on PgBouncer's host, as a user that may write there; or name the file as this machine sees it (--pgbouncer-ini)", "%v", err)
		return nil, false
	}
	config, err := readIni(file.path, file.workDir)
	if err != nil {
		remedy := "run pgbaton on PgBouncer's host, as a user that may read it; or name another file (--pgbouncer-ini)"
		if errors.Is(err, errRelativeInclude) {
			remedy = "write an absolute path behind %include"
		}
		f.add(remedy, "reading its configuration: %v", err)
		return nil, false
	}
	line, inFile := config.database(database)
	switch {
	case !inFile && e == nil:
		f.add(fmt.Sprintf(entryRemedy, database)+"; or name the one that the application uses (--pgbouncer-database)",
			"neither PgBouncer nor %s knows this database", file.path)
		return nil, false
	case !inFile:
		f.add(fmt.Sprintf(entryRemedy, database), "%s holds no entry of this name in [databases]: it is served by the entry *, or from another file", file.path)
		return nil, false
	case e == nil:
		f.add("RELOAD on the admin console", "%s holds the entry, but PgBouncer has not read it", line.file)
		return nil, false
	}
	leads, err := leadsTo(database, line.value)
	if err != nil {
		f.add("correct the entry and RELOAD", "%s: %v", line.file, err)
		return nil, false
	}
	if leads != e.destination {
		f.add("RELOAD on the admin console if the file is right; otherwise correct it, or name the right one (--pgbouncer-ini)",
			"%s leads to %s, but PgBouncer to %s: the file was edited and not read since, or it is another PgBouncer's", line.file, leads, e.destination)
	}
	if err := tryReplacement(line.file); err != nil {
		f.add("run pgbaton as root or as the file's owner, with write permission on its directory: the file is replaced by renaming", "%s cannot be replaced: %v", line.file, err)
	} else if isMountPoint(line.file) {
		f.add("mount the file's directory instead of the file", "%s is a mount point and cannot be replaced", line.file)
	}
	b.file = file
	return config, true
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
