package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/postgres"
	"pgbaton/internal/routine"
)

// PgBouncers holds traffic back in PgBouncers by PAUSE, points an entry of their
// configuration files elsewhere, and lets traffic go by RESUME. All PgBouncers
// are worked on at the same time. What they do is told in docs/pgbouncer.md; the
// commands are those of https://www.pgbouncer.org/usage.html#admin-console.
//
// Nothing is remembered that another process would need: PgBouncer itself keeps
// a PAUSE, whoever ordered it, and the configuration file says where it leads.
type PgBouncers struct {
	database string // "": the source's database
	all      []*pgBouncer
}

var _ Mover = (*PgBouncers)(nil)

// pgBouncer is one of them.
type pgBouncer struct {
	config *pgconn.Config
	name   string // host:port
	ini    string // as the operator named it; "": PgBouncer is asked

	main   *console // for everything but PAUSE; nil: to be opened
	pauser *console // PAUSE waits here, so that the other one stays free

	ordered bool     // PAUSE has been sent from here
	file    *iniFile // once located
}

// iniFile is a located configuration.
type iniFile struct {
	path    string
	workDir string // of the PgBouncer, for %include; may be unknown
}

// reconnectFor bounds the attempts to reach a PgBouncer whose connection was lost.
const reconnectFor = 10 * time.Second

// answerWithin bounds Switch, Resume and Abort: a PgBouncer that hangs must not
// hold up what follows.
const answerWithin = 15 * time.Second

// NewPgBouncers makes the mover for one admin URI per PgBouncer. database is the
// name under which clients connect ("": that of the source's database). inis
// are the configuration files as this machine sees them: none (each PgBouncer is
// asked), one for all, or one per URI. No error repeats a URI: it may hold a
// password.
func NewPgBouncers(adminURIs []string, database string, inis []string) (*PgBouncers, error) {
	if len(adminURIs) == 0 {
		return nil, errors.New("no PgBouncer is named")
	}
	if n := len(inis); n > 1 && n != len(adminURIs) {
		return nil, fmt.Errorf("%d --pgbouncer-ini for %d --pgbouncer; name none, one for all, or one for each in the same order", n, len(adminURIs))
	}
	if database != "" {
		if err := checkName(database); err != nil {
			return nil, err
		}
	}
	m := &PgBouncers{database: database}
	seen := map[string]int{}
	for i, uri := range adminURIs {
		config, err := parseAdminURI(uri)
		if err != nil {
			return nil, fmt.Errorf("--pgbouncer, number %d: %w", i+1, err)
		}
		b := &pgBouncer{config: config, name: net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))}
		if first, twice := seen[b.name]; twice {
			return nil, fmt.Errorf("--pgbouncer, number %d: %s is number %d already", i+1, b.name, first)
		}
		seen[b.name] = i + 1
		if len(inis) > 0 {
			if b.ini, err = filepath.Abs(inis[min(i, len(inis)-1)]); err != nil {
				return nil, err
			}
		}
		m.all = append(m.all, b)
	}
	return m, nil
}

// checkName refuses what the console cannot be told.
func checkName(database string) error {
	switch {
	case database == "":
		return errors.New("the database's name is empty")
	case database == adminDatabase:
		return fmt.Errorf("%s is the admin console, and no application's database", adminDatabase)
	case len(database) > maxConsoleName:
		return fmt.Errorf("database name %s is longer than the %d bytes that PgBouncer's console takes", quoteName(database), maxConsoleName)
	case strings.ContainsRune(database, 0):
		return errors.New("the database's name contains a zero byte")
	}
	return nil
}

// clientDatabase is the name under which clients connect. Without a name of its
// own that is the source's, also when traffic moves back: clients do not change
// theirs.
func (m *PgBouncers) clientDatabase(r Route) (string, error) {
	name := m.database
	if name == "" {
		name = r.From.Database
		if r.From.Side == postgres.Target {
			name = r.To.Database
		}
	}
	return name, checkName(name)
}

// Names implements Mover.
func (m *PgBouncers) Names() []string {
	names := make([]string, len(m.all))
	for i, b := range m.all {
		names[i] = pgBouncerTitle + " " + b.name
		if m.database != "" {
			names[i] += ", database " + m.database
		}
	}
	return names
}

// Close implements Mover. A PAUSE stays in force.
func (m *PgBouncers) Close() {
	for _, b := range m.all {
		b.main.close()
		b.pauser.close()
		b.main, b.pauser = nil, nil
	}
}

// each does something with every PgBouncer at the same time and returns what went
// wrong with any of them.
func (m *PgBouncers) each(r Route, do func(b *pgBouncer, database string) error) error {
	database, err := m.clientDatabase(r)
	if err != nil {
		return fmt.Errorf("PgBouncer: %w", err)
	}
	errs := make([]error, len(m.all))
	var all routine.Group
	for i, b := range m.all {
		all.Go(func() error {
			if err := do(b, database); err != nil {
				errs[i] = fmt.Errorf("PgBouncer %s, database %s: %w", b.name, database, err)
			}
			return nil
		})
	}
	return errors.Join(append(errs, all.Wait())...)
}

// open makes sure that there is a main connection.
func (b *pgBouncer) open(ctx context.Context) (err error) {
	if b.main == nil {
		b.main, err = openConsole(ctx, b.config)
	}
	return err
}

// drop closes the main connection: the next use opens another.
func (b *pgBouncer) drop() {
	b.main.close()
	b.main = nil
}

// reached does something with the main connection, and does it again on a new one
// when the connection fails: PgBouncer may be restarting. What is done must bear
// repetition. A refusal by the console is final.
func (b *pgBouncer) reached(ctx context.Context, do func(*console) error) error {
	limit, cancel := context.WithTimeout(ctx, reconnectFor)
	defer cancel()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		err := b.open(limit)
		if err == nil {
			if err = do(b.main); err == nil {
				return nil
			}
		}
		again := lost(err)
		if again || b.main != nil && b.main.awaited > 0 {
			b.drop()
		}
		if !again || postgres.Pause(limit, wait) != nil {
			return err
		}
	}
}

// lost says whether a connection failed, so that another may do better.
func lost(err error) bool {
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) {
		return refusal.Severity == "FATAL" && refusal.Code != postgres.InvalidPassword
	}
	var connection *connectionError
	return errors.As(err, &connection)
}

// entry is what SHOW DATABASES tells of a database.
type entry struct {
	destination
	paused, disabled bool
	poolSize         int
	minPoolSize      int
}

var errTooOld = errors.New("this PgBouncer's SHOW DATABASES lacks what is needed; 1.18 and newer are known to work")

// show returns the entry of a database; nil when there is none.
func (c *console) show(ctx context.Context, database string) (*entry, error) {
	a, err := c.ask(ctx, "SHOW DATABASES")
	if err != nil {
		return nil, err
	}
	return findEntry(a, database)
}

func findEntry(a answer, database string) (*entry, error) {
	for _, column := range []string{"name", "host", "port", "database", "paused", "disabled"} {
		if _, ok := a.columns[column]; !ok {
			return nil, errTooOld
		}
	}
	for _, row := range a.rows {
		if a.value(row, "name") != database {
			continue
		}
		port, err := strconv.Atoi(a.value(row, "port"))
		if err != nil {
			return nil, errTooOld
		}
		e := &entry{
			destination: destination{host: a.value(row, "host"), port: port, database: a.value(row, "database")},
			paused:      a.value(row, "paused") != "0",
			disabled:    a.value(row, "disabled") != "0",
		}
		e.poolSize, _ = strconv.Atoi(a.value(row, "pool_size"))
		e.minPoolSize, _ = strconv.Atoi(a.value(row, "min_pool_size")) // not told by every version
		return e, nil
	}
	return nil, nil
}

// pool is what SHOW POOLS tells of a pool: there is one for each user of a
// database.
type pool struct {
	session         bool // it pools sessions
	servers, logins int  // connections to the server: open, and being opened
	idle            int  // of those that are open
	waiting         int  // clients
}

func findPools(a answer, database string) (pools []pool) {
	for _, row := range a.rows {
		if a.value(row, "database") != database {
			continue
		}
		number := func(column string) int {
			n, _ := strconv.Atoi(a.value(row, column))
			return n
		}
		pools = append(pools, pool{
			session: a.value(row, "pool_mode") == "session",
			servers: number("sv_active") + number("sv_idle") + number("sv_used") + number("sv_tested"),
			logins:  number("sv_login"),
			idle:    number("sv_idle") + number("sv_used") + number("sv_tested"),
			waiting: number("cl_waiting"),
		})
	}
	return pools
}
