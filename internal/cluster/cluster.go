// Package cluster runs throw-away PostgreSQL servers for the demo and for tests.
//
// A server is a direct child of this process, listens on 127.0.0.1 only, and is ended by its own
// process id. On Linux the kernel ends it when this process dies in any way (see child.go).
package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Options describe a server to be made.
type Options struct {
	// Major is the major version, 10 to 19.
	Major int
	// BinDir holds postgres and initdb. Empty: FindBinDir("", Major).
	BinDir string
	// Dir is the parent of the directory that the cluster makes for itself. Empty: the system's
	// directory for temporary files.
	Dir string
	// Settings go into the configuration after, and so win over, the defaults of this package.
	Settings map[string]string
	// Password of the superuser postgres. Empty: everybody on this machine is trusted.
	Password string
	// Durable keeps fsync and full_page_writes on: needed for measurements, and for data that must
	// survive the loss of the machine; not for the death of the server.
	Durable bool
	// TemplateDir, if set, is a directory in which a freshly made data directory is kept and from
	// which the next cluster of the same kind is copied: faster than initdb. Each copy gets a system
	// identifier of its own. Ignored when there is a Password.
	TemplateDir string
	// StandbyOf, if set, is a server of the same version, stopped, whose hot standby this one becomes:
	// its files are copied. Streaming begins when it is started again.
	StandbyOf *Cluster
}

const (
	startTimeout  = 60 * time.Second
	stopTimeout   = 15 * time.Second // fast shutdown, then immediate
	killTimeout   = 10 * time.Second // immediate shutdown, then SIGKILL
	portAttempts  = 8
	superuser     = "postgres"
	loopback      = "127.0.0.1"
	settingsFile  = "cluster.conf"
	maxSocketPath = 107 - len("/.s.PGSQL.65535")
)

// Cluster is one server. Its methods may be called from several goroutines.
type Cluster struct {
	options   Options
	account   account
	dir       string // everything of this cluster
	socketDir string // dir, or a directory of its own where dir's path is too long for a socket

	mu       sync.Mutex // held while starting, stopping, restarting
	settings map[string]string
	port     int
	server   *child // nil: never started
}

// Start makes a data directory, starts a server on it and waits until it accepts connections.
// ctx bounds the start only; the server runs until Stop, Kill, Crash or Remove.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c, err := create(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("create a PostgreSQL %d cluster: %w", o.Major, err)
	}
	for attempt := 1; ; attempt++ {
		c.port, err = freePort()
		if err == nil {
			err = c.launch(ctx)
		}
		if err == nil {
			return c, nil
		}
		if errors.Is(err, errPortTaken) && attempt < portAttempts {
			continue
		}
		return nil, errors.Join(fmt.Errorf("start a PostgreSQL %d cluster: %w", o.Major, err), c.Remove())
	}
}

// create makes the directory and everything in it that the server needs.
func create(ctx context.Context, o Options) (c *Cluster, err error) {
	if o.BinDir == "" {
		if o.BinDir, err = FindBinDir("", o.Major); err != nil {
			return nil, err
		}
	}
	if o.BinDir, err = filepath.Abs(o.BinDir); err != nil {
		return nil, err
	}
	who, err := serverAccount()
	if err != nil {
		return nil, err
	}
	if err := who.mustReach(filepath.Join(o.BinDir, "postgres"),
		"put the servers into a directory that it can enter: set POSTGRES_DIR, for instance to /var/cache/pgbaton/postgres"); err != nil {
		return nil, err
	}
	c = &Cluster{options: o, account: who, settings: maps.Clone(o.Settings)}
	if c.settings == nil {
		c.settings = map[string]string{}
	}
	if c.dir, err = who.makeDir(o.Dir, fmt.Sprintf("pg%d-", o.Major)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Remove())
			c = nil
		}
	}()
	if err := who.mustReach(c.dir, "set TMPDIR to a directory that it can enter"); err != nil {
		return c, err
	}
	c.socketDir = c.dir
	if len(c.socketDir) > maxSocketPath {
		if c.socketDir, err = who.makeDir("/tmp", "pgs-"); err != nil {
			return c, err
		}
	}
	return c, c.initialize(ctx)
}

// launch starts the server on c.port and waits for it; on failure nothing is left running.
func (c *Cluster) launch(ctx context.Context) error {
	if err := c.writeSettings(); err != nil {
		return err
	}
	log, err := os.OpenFile(c.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the server has its own descriptor
	c.server, err = startChild(c.account, log, c.dir, filepath.Join(c.options.BinDir, "postgres"), "-D", c.DataDir())
	if err != nil {
		return err
	}
	if err := c.awaitReady(ctx); err != nil {
		killErr := c.server.end(syscall.SIGQUIT, killTimeout)
		if c.server.gone() && !portIsFree(c.port) {
			err = fmt.Errorf("%w: %w", errPortTaken, err)
		}
		return errors.Join(fmt.Errorf("%w\nend of the server's log:\n%s", err, tail(c.Log(), 20)), killErr)
	}
	return nil
}

// Stop ends the server: fast shutdown (sessions are ended, nothing is lost), and if that takes too
// long or ctx ends, immediate shutdown. Stopping a stopped server is no error.
func (c *Cluster) Stop(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop(ctx)
}

func (c *Cluster) stop(ctx context.Context) error {
	if c.server == nil || c.server.gone() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := c.server.signal(syscall.SIGINT); err != nil {
		return err
	}
	select {
	case <-c.server.done:
		return nil
	case <-ctx.Done():
		return c.server.end(syscall.SIGQUIT, killTimeout)
	}
}

// Kill ends the server at once (immediate shutdown): the next start goes through crash recovery.
func (c *Cluster) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil {
		return nil
	}
	return c.server.end(syscall.SIGQUIT, killTimeout)
}

// Crash ends the server and all its processes by SIGKILL, as the kernel's out-of-memory killer would.
func (c *Cluster) Crash() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil {
		return nil
	}
	return c.server.end(syscall.SIGKILL, killTimeout)
}

// Restart stops the server if it runs, adds settings, and starts it on the same port and data.
func (c *Cluster) Restart(ctx context.Context, extra map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stop(ctx); err != nil {
		return err
	}
	maps.Copy(c.settings, extra)
	if err := c.launch(ctx); err != nil {
		return fmt.Errorf("restart the PostgreSQL %d cluster: %w", c.options.Major, err)
	}
	return nil
}

// Reload adds settings (nil: none) and makes the running server read its configuration again.
// It returns when new sessions see the new values; those open already may take a moment longer.
func (c *Cluster) Reload(ctx context.Context, extra map[string]string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil || c.server.gone() {
		return errors.New("reload: the server is not running")
	}
	maps.Copy(c.settings, extra)
	if err := c.writeSettings(); err != nil {
		return err
	}
	return c.reload(ctx)
}

// Remove stops the server without ceremony and deletes everything of the cluster.
func (c *Cluster) Remove() error {
	err := c.Kill()
	if err == nil && c.dir != "" {
		err = os.RemoveAll(c.dir)
	}
	if err == nil && c.socketDir != c.dir && c.socketDir != "" {
		err = os.RemoveAll(c.socketDir)
	}
	return err
}

// Running says whether the server process is alive.
func (c *Cluster) Running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server != nil && !c.server.gone()
}

// ConnString returns a URI for the superuser.
func (c *Cluster) ConnString(db string) string {
	return c.ConnStringAs(superuser, c.options.Password, db)
}

// ConnStringAs returns a URI for any user; an empty password is left out.
func (c *Cluster) ConnStringAs(user, password, db string) string {
	u := url.URL{
		Scheme:   "postgresql",
		User:     url.User(user),
		Host:     loopback + ":" + strconv.Itoa(c.port),
		Path:     "/" + db,
		RawQuery: "sslmode=disable",
	}
	if password != "" {
		u.User = url.UserPassword(user, password)
	}
	return u.String()
}

// Host is the address the server listens on.
func (c *Cluster) Host() string { return loopback }

// Port stays the same over restarts.
func (c *Cluster) Port() int { return c.port }

// Major is the server's major version.
func (c *Cluster) Major() int { return c.options.Major }

// PID is the process id of the postmaster; 0 when there never was one.
func (c *Cluster) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil {
		return 0
	}
	return c.server.pid
}

// BinDir holds the server's programs.
func (c *Cluster) BinDir() string { return c.options.BinDir }

// DataDir is the server's data directory.
func (c *Cluster) DataDir() string { return filepath.Join(c.dir, "data") }

// SocketDir is the directory of the server's Unix socket.
func (c *Cluster) SocketDir() string { return c.socketDir }

// LogFile is the server's log, over all its starts.
func (c *Cluster) LogFile() string { return filepath.Join(c.dir, "log") }

// Log returns what the server has logged so far; empty when it cannot be read.
func (c *Cluster) Log() string {
	b, err := os.ReadFile(c.LogFile())
	if err != nil {
		return ""
	}
	return string(b)
}
