package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"pgbaton/internal/postgres"
)

// consoleTimeout bounds a connection attempt whose string does not.
const consoleTimeout = 5 * time.Second

// consoleKeys are the keywords of a connection string that matter to the admin
// console: where, who and how. Whatever else is in string, service file or
// environment would reach PgBouncer as a startup parameter, and it refuses those
// that it does not know.
var consoleKeys = []string{"host", "hostaddr", "port", "user", "password", "passfile", "connect_timeout",
	"sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslsni", "sslnegotiation", "channel_binding"}

// parseAdminURI reads where an admin console is. No error repeats the string.
func parseAdminURI(uri string) (*pgconn.Config, error) {
	given, err := postgres.ParseGiven(uri)
	if err != nil {
		return nil, err
	}
	if db := given["dbname"]; db != "" && db != adminDatabase {
		return nil, fmt.Errorf("it names database %s, but the admin console is the database %s; end the URI in /%s, and name the application's database with --pgbouncer-database",
			quoteName(db), adminDatabase, adminDatabase)
	}
	all, err := postgres.ParseConninfo(uri)
	if err != nil {
		return nil, err
	}
	c := postgres.Conninfo{"dbname": adminDatabase}
	for _, k := range consoleKeys {
		if v := all[k]; v != "" {
			c[k] = v
		}
	}
	if c["hostaddr"] != "" {
		c["host"] = c["hostaddr"]
		delete(c, "hostaddr")
	}
	if strings.Contains(c["host"], ",") {
		return nil, errors.New("it names several hosts; give each PgBouncer a --pgbouncer of its own")
	}
	if c["port"] == "" {
		c["port"] = "6432"
	}
	config, err := pgconn.ParseConfig(c.String())
	if err != nil {
		var pe *pgconn.ParseConfigError
		if errors.As(err, &pe) && pe.Unwrap() != nil {
			err = pe.Unwrap() // its own text shows the string
		}
		return nil, fmt.Errorf("invalid connection string: %w", err)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = consoleTimeout
	}
	dialer := &net.Dialer{Timeout: config.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	config.DialFunc = dialer.DialContext
	config.RuntimeParams = map[string]string{"application_name": "pgbaton"}
	config.ValidateConnect, config.AfterConnect = nil, nil
	return config, nil
}

// console is a connection to an admin console
// (https://www.pgbouncer.org/usage.html#admin-console). It speaks the simple
// query protocol by itself, where pgconn would not do: commands can be sent one
// behind another while the first still waits, an answer can be waited for in
// several goes, and no cancel request is ever sent (it would end a PAUSE of all
// databases that somebody else has ordered).
type console struct {
	conn     net.Conn
	frontend *pgproto3.Frontend
	partial  answer // what has come of the answer that is being received
	awaited  int    // answers that are still to come
	version  string // of the PgBouncer: 1.26.1
}

// answer to one command: a result, or the console's refusal.
type answer struct {
	tag     string // SHOW, PAUSE, RESUME
	columns map[string]int
	rows    [][]string // a null is empty
	refusal error
}

// value of a row; empty when this version has no such column.
func (a answer) value(row []string, column string) string {
	if i, ok := a.columns[column]; ok && i < len(row) {
		return row[i]
	}
	return ""
}

func openConsole(ctx context.Context, config *pgconn.Config) (*console, error) {
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the admin console as %s: %w", quoteName(config.User), oneLine(ctx, err))
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	version, _, _ := strings.Cut(hijacked.ParameterStatuses["server_version"], "/") // 1.26.1/bouncer
	return &console{conn: hijacked.Conn, frontend: hijacked.Frontend, version: version}, nil
}

func (c *console) close() {
	if c != nil {
		_ = c.conn.Close() // nothing waits for what may still be in it
	}
}

// since says whether the PgBouncer is of a version or newer; one whose version is
// not understood is taken for new.
func (c *console) since(major, minor int) bool {
	var x, y int
	if n, _ := fmt.Sscanf(c.version, "%d.%d", &x, &y); n < 2 {
		return true
	}
	return x > major || x == major && y >= minor
}

// send sends commands in one packet: the console works on them in this order,
// with nothing in between.
func (c *console) send(ctx context.Context, commands ...string) error {
	defer c.bound(ctx)()
	for _, command := range commands {
		c.frontend.SendQuery(&pgproto3.Query{String: command})
	}
	if err := c.frontend.Flush(); err != nil {
		return oneLine(ctx, err)
	}
	c.awaited += len(commands)
	return nil
}

// receive waits for the next answer. When ctx ends first it may be called again.
func (c *console) receive(ctx context.Context) (answer, error) {
	defer c.bound(ctx)()
	for {
		msg, err := c.frontend.Receive()
		if err != nil {
			return answer{}, oneLine(ctx, err)
		}
		switch msg := msg.(type) {
		case *pgproto3.RowDescription:
			c.partial.columns = map[string]int{}
			for i, f := range msg.Fields {
				c.partial.columns[string(f.Name)] = i
			}
		case *pgproto3.DataRow:
			row := make([]string, len(msg.Values))
			for i, v := range msg.Values {
				row[i] = string(v)
			}
			c.partial.rows = append(c.partial.rows, row)
		case *pgproto3.CommandComplete:
			c.partial.tag = string(msg.CommandTag)
		case *pgproto3.ErrorResponse:
			c.partial.refusal = pgconn.ErrorResponseToPgError(msg)
			if msg.Severity == "FATAL" {
				return answer{}, c.partial.refusal // the connection is over
			}
		case *pgproto3.ReadyForQuery:
			a := c.partial
			c.partial = answer{}
			c.awaited--
			return a, nil
		}
	}
}

// ask sends one command and returns its result, or the refusal as an error.
func (c *console) ask(ctx context.Context, command string) (answer, error) {
	if err := c.send(ctx, command); err != nil {
		return answer{}, fmt.Errorf("%s: %w", command, err)
	}
	a, err := c.receive(ctx)
	if err == nil {
		err = a.refusal
	}
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", command, err)
	}
	return a, nil
}

// bound makes the end of ctx the end of waiting on the connection. What it
// returns is to be called when waiting is over.
func (c *console) bound(ctx context.Context) func() {
	_ = c.conn.SetDeadline(time.Time{}) // a connection that cannot be set says so when it is used
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = c.conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-done // or it would hit what comes next
		}
	}
}

// oneLine tells a failure of a connection: pgconn tells every attempt, on lines
// of their own. That ctx has ended is told first, since it is the cause.
func oneLine(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("no answer in time: %w", context.Cause(ctx))
	}
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) {
		return refusal
	}
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' })
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	return &connectionError{text: strings.Join(lines, "; "), err: err}
}

// connectionError prints another error on one line.
type connectionError struct {
	text string
	err  error
}

// Error implements error.
func (e *connectionError) Error() string { return e.text }

// Unwrap implements errors.Unwrap.
func (e *connectionError) Unwrap() error { return e.err }

// adminDatabase is the name of the admin console.
const adminDatabase = "pgbouncer"

// maxConsoleName is the longest argument that a console command takes, in bytes
// (the size of a buffer in src/admin.c, in all versions).
const maxConsoleName = 63

// quoteName quotes a name for a console command: double quotes, doubled inside,
// as in SQL (WORD in src/admin.c). Every other character is taken as it is. The
// empty name would mean every database and must never get here.
func quoteName(name string) string { return postgres.QuoteIdent(name) }
