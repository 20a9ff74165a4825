package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// PoolerOptions describe a throw-away PgBouncer
// (https://www.pgbouncer.org/config.html).
type PoolerOptions struct {
	// Program is the executable. Empty: FindPooler("", "").
	Program string
	// Dir is the parent of the directory that the PgBouncer gets for itself. Empty: the system's
	// directory for temporary files.
	Dir string
	// IniName is how PgBouncer is told its configuration file; it runs in the directory of that.
	// Empty: by its full path.
	IniName string
	// PoolMode is session, transaction or statement. Empty: transaction.
	PoolMode string
	// Databases by the name under which clients connect.
	Databases map[string]PoolerDatabase
	// Users who may connect, with their passwords. Nil: postgres, of whom no password is asked, nor of
	// anybody else. The administrator is always added.
	Users map[string]string
	// AdminPassword of the administrator, who is asked for it only when there are Users.
	AdminPassword string
	// Settings go into the section [pgbouncer] and win over the defaults of this package.
	Settings map[string]string
	// Extra lines follow the entries in the section [databases], as they are: further entries, other
	// sections, %include.
	Extra string
}

// PoolerDatabase is where an entry of [databases] leads.
type PoolerDatabase struct {
	Host   string // empty: 127.0.0.1
	Port   int
	DBName string // empty: the entry's name
	More   string // further key=value pairs, as they are: "pool_size=5 pool_mode=session"
}

// poolerAdmin is the one user in admin_users.
const poolerAdmin = "pooleradmin"

const (
	poolerStart = 20 * time.Second
	poolerStop  = 5 * time.Second
)

// Pooler is a PgBouncer that listens on 127.0.0.1. Its methods may be called from several goroutines.
type Pooler struct {
	options PoolerOptions
	account account
	dir     string
	port    int

	mu     sync.Mutex // held while starting and ending
	server *child     // nil: never started
}

// StartPooler writes a configuration, starts PgBouncer and waits until its admin console answers.
// PgBouncer refuses to run as root, so it runs as the same account as the servers; whoever started it
// may write its configuration. ctx bounds the start only.
func StartPooler(ctx context.Context, o PoolerOptions) (*Pooler, error) {
	ctx, cancel := context.WithTimeout(ctx, poolerStart)
	defer cancel()
	p, err := createPooler(o)
	if err != nil {
		return nil, fmt.Errorf("create a PgBouncer: %w", err)
	}
	for attempt := 1; ; attempt++ {
		if p.port, err = freePort(); err == nil {
			err = p.account.writeFile(p.IniPath(), p.ini())
		}
		if err == nil {
			err = p.launch(ctx)
		}
		if err == nil {
			return p, nil
		}
		if errors.Is(err, errPortTaken) && attempt < portAttempts {
			continue
		}
		return nil, errors.Join(fmt.Errorf("start a PgBouncer: %w", err), p.Remove())
	}
}

func createPooler(o PoolerOptions) (p *Pooler, err error) {
	if o.Program == "" {
		if o.Program, err = FindPooler("", ""); err != nil {
			return nil, err
		}
	}
	who, err := serverAccount()
	if err != nil {
		return nil, err
	}
	if err := who.mustReach(o.Program, "put it into a directory that it can enter: set POSTGRES_DIR, for instance to "+cacheDir); err != nil {
		return nil, err
	}
	p = &Pooler{options: o, account: who}
	if p.dir, err = who.makeDir(o.Dir, "pgbouncer-"); err != nil {
		return nil, err
	}
	if o.IniName == "" {
		p.options.IniName = p.IniPath()
	}
	err = who.mustReach(p.dir, "set TMPDIR to a directory that it can enter")
	if err == nil {
		err = who.writeFile(p.authFile(), p.users())
	}
	if err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	return p, nil
}

// users is the authentication file: quoted names and passwords
// (https://www.pgbouncer.org/config.html#authentication-file-format).
func (p *Pooler) users() string {
	all := map[string]string{superuser: ""}
	if p.options.Users != nil {
		all = maps.Clone(p.options.Users)
	}
	all[poolerAdmin] = p.options.AdminPassword
	var b strings.Builder
	quote := strings.NewReplacer(`"`, `""`)
	for _, name := range sortedKeys(all) {
		fmt.Fprintf(&b, "\"%s\" \"%s\"\n", quote.Replace(name), quote.Replace(all[name]))
	}
	return b.String()
}

func (p *Pooler) ini() string {
	settings := map[string]string{
		"listen_addr":       loopback,
		"listen_port":       strconv.Itoa(p.port),
		"unix_socket_dir":   p.SocketDir(),
		"auth_type":         "trust",
		"auth_file":         p.authFile(),
		"admin_users":       poolerAdmin,
		"pool_mode":         "transaction",
		"max_client_conn":   "500",
		"default_pool_size": "20",
		"pidfile":           filepath.Join(p.dir, "pid"),
	}
	if p.options.Users != nil {
		settings["auth_type"] = "scram-sha-256"
	}
	if p.options.PoolMode != "" {
		settings["pool_mode"] = p.options.PoolMode
	}
	maps.Copy(settings, p.options.Settings)
	var b strings.Builder
	b.WriteString("[pgbouncer]\n")
	for _, name := range sortedKeys(settings) {
		fmt.Fprintf(&b, "%s = %s\n", name, settings[name])
	}
	b.WriteString("\n[databases]\n")
	for _, name := range slices.Sorted(maps.Keys(p.options.Databases)) {
		b.WriteString(p.options.Databases[name].entry(name) + "\n")
	}
	b.WriteString(p.options.Extra)
	return b.String()
}

func (d PoolerDatabase) entry(name string) string {
	if d.Host == "" {
		d.Host = loopback
	}
	quote := strings.NewReplacer("'", "''")
	s := fmt.Sprintf("%s = host='%s' port=%d", name, quote.Replace(d.Host), d.Port)
	if d.DBName != "" {
		s += " dbname='" + quote.Replace(d.DBName) + "'"
	}
	if d.More != "" {
		s += " " + d.More
	}
	return s
}

// launch starts the process and waits for its console; on failure nothing is left running.
func (p *Pooler) launch(ctx context.Context) error {
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own descriptor
	if p.server, err = startChild(p.account, log, p.dir, p.options.Program, p.options.IniName); err != nil {
		return err
	}
	if err := p.awaitReady(ctx); err != nil {
		killErr := p.server.end(syscall.SIGKILL, poolerStop)
		if p.server.gone() && !portIsFree(p.port) {
			err = fmt.Errorf("%w: %w", errPortTaken, err)
		}
		return errors.Join(fmt.Errorf("%w\nend of its log:\n%s", err, tail(p.Log(), 20)), killErr)
	}
	return nil
}

func (p *Pooler) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := p.probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.server.done:
			return errors.New("PgBouncer ended")
		case <-ctx.Done():
			return fmt.Errorf("PgBouncer did not become ready: %w (last attempt: %w)", ctx.Err(), err)
		}
	}
}

// probe checks that it is our PgBouncer that answers, not another on the same port.
func (p *Pooler) probe(ctx context.Context) error {
	conn, err := pgconn.Connect(ctx, p.AdminURI())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	results, err := conn.Exec(ctx, "SHOW CONFIG").ReadAll()
	if err != nil {
		return err
	}
	for _, row := range results[0].Rows {
		if string(row[0]) == "conffile" {
			if string(row[1]) != p.options.IniName {
				return fmt.Errorf("the PgBouncer on port %d has the configuration file %s", p.port, row[1])
			}
			return nil
		}
	}
	return errors.New("SHOW CONFIG does not tell the configuration file")
}

// Kill ends PgBouncer by SIGKILL: its clients lose their connections.
func (p *Pooler) Kill() error { return p.end(syscall.SIGKILL) }

// Stop ends PgBouncer without waiting for clients.
func (p *Pooler) Stop() error { return p.end(syscall.SIGQUIT) }

func (p *Pooler) end(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil
	}
	return p.server.end(sig, poolerStop)
}

// Restart starts PgBouncer again on the same port, with the configuration file as it now is. One that
// still runs is ended first.
func (p *Pooler) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, poolerStart)
	defer cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		if err := p.server.end(syscall.SIGKILL, poolerStop); err != nil {
			return err
		}
	}
	if err := p.launch(ctx); err != nil {
		return fmt.Errorf("restart PgBouncer: %w", err)
	}
	return nil
}

// Pause freezes the process (SIGSTOP): connections stay, nothing answers.
func (p *Pooler) Pause() error { return p.signal(syscall.SIGSTOP) }

// Continue ends a Pause (SIGCONT).
func (p *Pooler) Continue() error { return p.signal(syscall.SIGCONT) }

func (p *Pooler) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return errors.New("PgBouncer was never started")
	}
	return p.server.signal(sig)
}

// Remove ends PgBouncer and deletes everything of it.
func (p *Pooler) Remove() error {
	err := p.Kill()
	if err == nil && p.dir != "" {
		err = os.RemoveAll(p.dir)
	}
	return err
}

// Port stays the same over restarts.
func (p *Pooler) Port() int { return p.port }

// PID is the process id; 0 when there never was one.
func (p *Pooler) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return 0
	}
	return p.server.pid
}

// ConnString is a client's URI.
func (p *Pooler) ConnString(db, user string) string {
	return p.uri(user, p.options.Users[user], db)
}

// AdminURI reaches the admin console, as an administrator.
func (p *Pooler) AdminURI() string { return p.uri(poolerAdmin, p.options.AdminPassword, "pgbouncer") }

func (p *Pooler) uri(user, password, db string) string {
	u := url.URL{
		Scheme:   "postgresql",
		User:     url.User(user),
		Host:     net.JoinHostPort(loopback, strconv.Itoa(p.port)),
		Path:     "/" + db,
		RawQuery: "sslmode=disable",
	}
	if password != "" {
		u.User = url.UserPassword(user, password)
	}
	return u.String()
}

// Dir holds everything of this PgBouncer; its account may enter it.
func (p *Pooler) Dir() string { return p.dir }

// SocketDir is the directory of the Unix socket; empty when the path would be too long for one.
func (p *Pooler) SocketDir() string {
	if len(p.dir) > maxSocketPath {
		return ""
	}
	return p.dir
}

// IniPath is the configuration file.
func (p *Pooler) IniPath() string { return filepath.Join(p.dir, "pgbouncer.ini") }

func (p *Pooler) authFile() string { return filepath.Join(p.dir, "users.txt") }

func (p *Pooler) logFile() string { return filepath.Join(p.dir, "log") }

// Log returns what PgBouncer has logged so far; empty when it cannot be read.
func (p *Pooler) Log() string {
	b, err := os.ReadFile(p.logFile())
	if err != nil {
		return ""
	}
	return string(b)
}
