package preflight

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/journal"
	"pgbaton/internal/phrase"
	"pgbaton/internal/postgres"
	"pgbaton/internal/routine"
	"pgbaton/internal/schema"
)

// survey is one run of the checks.
type survey struct {
	Input
	source, target *end

	mu       sync.Mutex // the sides are looked at concurrently
	findings []Finding
}

// end is one side as the checks see it.
type end struct {
	*postgres.Server
	conn         *postgres.Session // nil: out of reach
	standby      bool
	strange      bool // names of its database cannot be printed
	exists       bool // false: the database is to be made, and conn is on the maintenance database
	role         role
	record       *journal.Record // of an active migration, nil for none
	tables       []catalog.Table // of the source
	needs        *needs          // of the source, once its replica identities have been looked at
	setting      map[string]string
	selection    catalog.Selection
	excluded     catalog.Exclusion // what the selection leaves out of the source
	schemasOut   []string
	relationsOut []uint32 // all of them, also those in schemasOut
	stands       bool     // commits wait for standbys that are not there
	add          func(Finding)
}

// A check looks for one thing, or a few that belong together, on one side.
type check struct {
	name string // for the message when it cannot be made
	run  func(context.Context, *survey, *end) error
}

// The checks in the order in which their findings are told within one severity
// and code. Those of one side run one after the other on its session.
var (
	onBoth = []check{
		{"synchronous replication", checkSynchronous},
		{"connections", checkConnections},
		{"role attributes", checkPrivileges},
		{"rights of the fence", checkFencePrivileges},
		{"settings of the role", checkRoleSetting},
		{"password in the log", checkPasswordInLog},
	}
	onDatabase = []check{ // on a side whose database exists
		{"sessions", checkSessions},
		{"members of roles that keep CONNECT", checkMembers},
		{"subscriptions", checkSubscriptions},
		{"prepared transactions", checkPrepared},
		{"grants of the database", checkGrants},
		{"what later commands read", checkReads},
		{"event triggers", checkEventTriggers},
	}
	onSource = []check{
		{"publisher settings", checkPublisherOnSource},
		{"subscriber settings", checkSubscriberOnSource},
		{"filters", checkSelection},
		{"ownership", checkOwnership},
		{"row security", checkRowSecurity},
		{"replica identity", checkIdentity},
		{"triggers", checkTriggers},
		{"functions that use a search_path", checkSearchPath},
		{"rows that are not replicated", checkUnreplicated},
		{"objects that need attention", checkSpecialObjects},
		{"lock table", checkLocksOnSource},
	}
	onTarget = []check{
		{"subscriber settings", checkSubscriberOnTarget},
		{"publisher settings", checkPublisherOnTarget},
		{"what the target database holds", checkEmpty},
	}
	onPair = []check{ // with both sides in reach; the end is the target
		{"extensions", checkExtensions},
		{"what newer versions lack", checkRemoved},
		{"roles", checkRoles},
		{"rights to event triggers", checkEventTriggerOnTarget},
		{"encoding and locale", checkLocale},
		{"row security on the target", checkTargetRowSecurity},
		{"generated columns and the way back", checkGeneratedOnTarget},
		{"lock table of the target", checkLocksOnTarget},
		{"settings for the load", checkLoadSettings},
		{"keywords of the connection strings", checkKeywords},
		{"reaching the source from the target", probeSource},
		{"reaching the target from the source", probeTarget},
		{"the definitions on the target", checkTrySchema},
	}
)

// run connects and makes every check that can be made.
func (s *survey) run(ctx context.Context) error {
	s.source = &end{Server: s.Source, selection: s.Selection, add: s.add}
	s.target = &end{Server: s.Target, selection: s.Selection, add: s.add}
	if err := each(ctx, s.source.connect, s.target.connect); err != nil {
		return err
	}
	checkVersions(s)
	checkRecord(s, s.source)
	checkRecord(s, s.target)
	checkSameRun(s)
	if err := checkEnds(ctx, s); err != nil {
		return err
	}
	checkTools(s)
	if s.source.strange {
		return nil
	}
	if s.source.conn != nil && s.target.conn != nil {
		if same, err := checkSame(ctx, s); err != nil || same {
			return err // whatever else is found would be found twice, and mean nothing
		}
	}
	if s.target.conn != nil {
		if err := schema.RemoveTrials(ctx, s.Target, s.target.conn); err != nil {
			s.add(Finding{Code: "throw-away-database", Severity: Warning, Side: postgres.Target, Text: s.target.redact(err.Error()), Remedy: postgres.Hint(err)})
		}
	}
	perSide := func(e *end, lists ...[]check) func(context.Context) error {
		return func(ctx context.Context) error {
			for _, checks := range lists {
				if err := s.make(ctx, e, checks); err != nil {
					return err
				}
			}
			return nil
		}
	}
	source := [][]check{onBoth, onDatabase, onSource}
	target := [][]check{onBoth, onTarget}
	if s.target.exists {
		target = append(target, onDatabase)
	}
	if err := each(ctx, perSide(s.source, source...), perSide(s.target, target...)); err != nil {
		return err
	}
	if s.source.conn == nil || s.target.conn == nil {
		return nil
	}
	return s.make(ctx, s.target, onPair)
}

// make makes checks one after the other. One that the role may not make is a
// finding, so that the others are still made.
func (s *survey) make(ctx context.Context, e *end, checks []check) error {
	if e.conn == nil {
		return nil
	}
	for _, c := range checks {
		err := c.run(ctx, s, e)
		if code := postgres.Code(err); code == postgres.InsufficientPrivilege || code == postgres.LockNotAvailable {
			e.unchecked(c.name, err)
			continue
		}
		if err != nil {
			return e.Wrap("checking "+c.name, err)
		}
	}
	return nil
}

// unchecked says what could not be looked at: the role may not, or somebody holds a
// lock for long, which the check does not wait for.
func (e *end) unchecked(what string, err error) {
	f := Finding{Code: "unchecked", Severity: Warning, Side: e.Side, Text: fmt.Sprintf("%s could not be checked: %s", what, postgres.Describe(err))}
	if postgres.Code(err) == postgres.LockNotAvailable {
		f.Remedy = "wait for the session that holds the lock (pg_locks and pg_blocking_pids tell which), and check again"
	}
	e.add(f)
}

func (s *survey) add(f Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.findings = append(s.findings, f)
}

func (s *survey) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, e := range []*end{s.source, s.target} {
		if e != nil && e.conn != nil {
			e.conn.Close(ctx)
		}
	}
}

// each runs functions at the same time.
func each(ctx context.Context, fs ...func(context.Context) error) error {
	g, ctx := routine.WithContext(ctx)
	for _, f := range fs {
		g.Go(func() error { return f(ctx) })
	}
	return g.Wait()
}

// connect opens the side's session and learns what every check needs. Whatever
// keeps us out is a finding; the session can change nothing.
func (e *end) connect(ctx context.Context) error {
	conn, err := e.ConnectAgain(ctx)
	e.exists = err == nil
	if err != nil && e.Side == postgres.Target && postgres.Code(err) == postgres.UndefinedDatabase {
		if conn, err = schema.ConnectMaintenance(ctx, e.Server); err == nil {
			e.add(Finding{Code: "target-database", Severity: Info, Side: e.Side,
				Text: fmt.Sprintf("database %s does not exist yet: it will be created", postgres.QuoteIdent(e.Database()))})
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		text := postgres.Describe(err)
		var pe *postgres.Error
		if errors.As(err, &pe) { // the side is said already
			text = fmt.Sprintf("%s: %s", pe.Doing, postgres.Describe(pe.Err))
		}
		code := "connect"
		var pooler *postgres.PoolerError
		if errors.As(err, &pooler) {
			code = "pooler"
		}
		e.add(Finding{Code: code, Severity: Blocker, Side: e.Side, Text: e.redact(text), Remedy: postgres.Hint(err)})
		return nil
	}
	e.conn = conn
	if _, err := conn.Exec(ctx, "SET default_transaction_read_only = on; SET lock_timeout = '3s'"); err != nil {
		return e.Wrap("making the session read-only", err)
	}
	if e.role, err = readRole(ctx, conn); err != nil {
		return e.Wrap("reading the role's attributes", err)
	}
	if e.setting, err = readSettings(ctx, conn); err != nil {
		return e.Wrap("reading the settings", err)
	}
	if err := conn.QueryRow(ctx, `SELECT pg_catalog.pg_is_in_recovery()`).Scan(&e.standby); err != nil {
		return e.Wrap("asking whether the server is a standby", err)
	}
	if e.standby {
		e.add(Finding{Code: "standby", Severity: Blocker, Side: e.Side, Text: "the server is a standby: nothing can be written there",
			Remedy: fmt.Sprintf("give --%s the address of its primary", e.Side)})
	}
	if e.exists {
		e.record, err = journal.Read(ctx, conn)
		if err != nil && postgres.Code(err) != postgres.InsufficientPrivilege {
			return e.Wrap("looking for an active migration", err)
		}
	}
	if e.exists && e.Side == postgres.Source {
		if e.strange, err = checkNames(ctx, e); err != nil || e.strange {
			return err // nothing else that is looked at could be printed
		}
		e.tables, err = catalog.Tables(ctx, conn, e.selection)
		if postgres.Code(err) == postgres.LockNotAvailable {
			e.unchecked("how large the tables are", err)
			e.tables, err = catalog.Shapes(ctx, conn, e.selection)
		}
		if err != nil {
			return e.Wrap("listing tables", err)
		}
		if err = e.readSelection(ctx); err != nil {
			return e.Wrap("listing what is left out", err)
		}
	}
	return nil
}

// redact takes the password out of a text, whoever put it there.
func (e *end) redact(text string) string { return redact(text, e.Conninfo()) }

func redact(text string, c postgres.Conninfo) string {
	for _, key := range []string{"password", "sslpassword"} {
		if secret := c[key]; secret != "" {
			text = strings.ReplaceAll(text, secret, "********")
		}
	}
	return text
}

// user and database are the quoted names that remedies are made of.
func (e *end) user() string     { return postgres.QuoteIdent(e.role.name) }
func (e *end) database() string { return postgres.QuoteIdent(e.Database()) }

// statements makes a remedy of SQL statements and comments, each on a line of
// its own.
func statements(sql ...string) string {
	var b strings.Builder
	for i, line := range sql {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(line)
		if !strings.HasPrefix(line, "--") {
			b.WriteByte(';')
		}
	}
	return b.String()
}

// list prints names to people: "a, b, c".
func list(names []string) string { return strings.Join(names, ", ") }

// plural prints a count with its noun: "1 table", "2 tables".
func plural(n int, noun string) string { return phrase.Count(n, noun) }

// texts runs a query that returns one column of text.
func texts(ctx context.Context, q catalog.Querier, sql string, args ...any) ([]string, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// mine is a LIKE pattern for the names of what this migration has made in the
// cluster: it is never in its own way. It matches nothing when none has begun.
func (s *survey) mine() string {
	return strings.NewReplacer(`\`, `\\`, `_`, `\_`, `%`, `\%`).Replace(postgres.ClusterName(s.label(), "")) + "%"
}

// label is what the names of the migration carry; of one that has not begun,
// something that no name carries.
func (s *survey) label() string {
	for _, e := range []*end{s.source, s.target} {
		if !s.fresh(e) {
			return e.record.Label()
		}
	}
	return journal.Label(s.Name, strings.Repeat("_", 32))
}

// fresh says whether the migration is still to be started on a side.
func (s *survey) fresh(e *end) bool { return e.record == nil || e.record.Name != s.Name }

// userSchema excludes, for a namespace with the alias n, what is never moved.
const userSchema = `n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton')`

// notExtension excludes what an extension brings along: the OID is in the
// column named first, the object is of the catalog named second.
func notExtension(oid, class string) string {
	return fmt.Sprintf(`NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.deptype = 'e'
			AND x.classid = 'pg_catalog.%s'::pg_catalog.regclass AND x.objid = %s)`, class, oid)
}
