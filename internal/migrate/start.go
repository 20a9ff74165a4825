package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/handover"
	"pgbaton/internal/journal"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
	"pgbaton/internal/tablecopy"
)

// StartResult is what a start achieved.
type StartResult struct {
	Phase        string  `json:"phase"`
	TablesCopied int     `json:"tables_copied"`
	BytesCopied  int64   `json:"bytes_copied"` // of the COPY streams; 0 when an earlier run copied
	BytesPerSec  float64 `json:"bytes_per_second"`
	Seconds      float64 `json:"seconds"` // of the whole start
	Snapshot     string  `json:"consistent_point,omitempty"`
}

// start is one run of `pgbaton start`, from nothing or from what an earlier run
// left. Its steps share it.
type start struct {
	Config
	*Sessions
	sourceRecord, targetRecord *journal.Record // what the sides say; nil when nothing is there yet
	tools                      schema.Tools
	workDir                    string            // for the schema archive and, by default, the dump
	maintenance                *postgres.Session // on another database of the target, while its own does not exist

	exclusion catalog.Exclusion // what pg_dump leaves out

	// Methods native and dump have one group.
	slot   *replication.Slot // created by this run, its snapshot still exported
	tables []catalog.Table   // as the slot's snapshot shows them

	// Method stream (groups.go).
	groups  []*group
	groupOf map[postgres.Ident]*group
	world   world

	divided [][]catalog.Table // a plan: the groups that a first run would make

	// Method dump: the rows that extensions keep for the user (configs.go).
	configs    []catalog.ConfigTable
	configRows map[postgres.Ident][]byte

	archive   string
	refreshed bool // the materialized views, in this run
	result    StartResult
}

// The journal of a start.
var (
	selectionEntry = journal.One[catalog.Selection](journal.Selection)
	rolesMade      = journal.One[[]string](journal.RolesMade)
	databaseMade   = journal.One[string](journal.DatabaseMade)
	targetEntered  = journal.One[bool](journal.DatabaseEntered)
	baselineEntry  = journal.One[schema.Baseline](journal.Baseline)
	groupPoints    = journal.Many[string](journal.GroupPoint)
	copiedEntries  = journal.Many[copiedTable](journal.Copied)
	builtEntries   = journal.Many[bool](journal.Built)
	definedEntry   = journal.One[string](journal.Defined)
	restBegan      = journal.One[string](journal.RestBegan)
	progressEntry  = journal.One[event.Progress](journal.Progress)
	loadedEntry    = journal.One[loaded](journal.Loaded)
	analyzedEntry  = journal.One[string](journal.Analyzed)
)

// loaded says which slots the target's rows go with.
type loaded struct {
	Slots           []string `json:"slots"`
	ConsistentPoint string   `json:"consistent_point"` // of the last
	Tables          int      `json:"tables"`
	Bytes           int64    `json:"bytes"`
}

// Start brings the target from nothing, or from wherever an earlier start
// stopped, to streaming. What check finds in its way refuses it.
func (m *Migration) Start(ctx context.Context) (StartResult, error) {
	if err := m.reachable(); err != nil { // it says more than a list of findings would
		return StartResult{}, err
	}
	warn, err := m.checked(ctx)
	if err != nil {
		return StartResult{}, err
	}
	if err := m.lock(ctx); err != nil {
		return StartResult{}, err
	}
	warn()
	return startLocked(ctx, m.Config, m.Sessions)
}

// startLocked is for sessions that are the migration's one operator; the target's may be
// missing when its database does not exist yet.
func startLocked(ctx context.Context, c Config, s *Sessions) (StartResult, error) {
	st, err := newStart(ctx, c, s)
	if err != nil {
		return StartResult{}, err
	}
	defer st.cleanUp()
	began := time.Now()
	for try := 1; ; try++ {
		err := runSteps(ctx, st.steps(), c.Observe)
		if err == nil {
			break
		}
		if ctx.Err() != nil || c.Method != Stream || try == startTries || !st.interrupted(ctx, err) {
			return st.result, err
		}
		c.Observe(event.Warning{Text: "interrupted: " + postgres.Describe(err), Remedy: "it goes on by itself when both servers are there; what is complete is kept"})
		if err := st.reconnect(ctx); err != nil {
			return st.result, err
		}
	}
	if !st.refreshed { // an earlier run may have left some
		if err := refresh(ctx, c, s); err != nil {
			return st.result, err
		}
	}
	st.result.Seconds = event.Since(began)
	return st.result, nil
}

// startTries is how often start goes on by itself after an interruption.
const startTries = 5

// interrupted says whether a failure is one of connections or servers, after
// which the same can be tried again.
func (st *start) interrupted(ctx context.Context, err error) bool {
	if errors.Is(err, tablecopy.ErrTargetRestarted) || errors.Is(err, tablecopy.ErrSnapshotGone) || tablecopy.Transient(err) {
		return true
	}
	// pg_dump and pg_restore do not say it in a way to rely on.
	for _, conn := range st.sessions() {
		if conn.Ping(ctx) != nil {
			return true
		}
	}
	return false
}

// sessions are those that the steps work with: before the target's database is there,
// one on another database stands for it.
func (st *start) sessions() []*postgres.Session {
	return []*postgres.Session{st.SourceConn, st.targetCluster()}
}

// reconnectPatience bounds the wait for a server that restarts.
const reconnectPatience = 2 * time.Minute

// reconnect opens the sessions anew that are gone, with their lock.
func (st *start) reconnect(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, reconnectPatience, fmt.Errorf("a server was not there again within %s", reconnectPatience))
	defer cancel()
	again := func(into **postgres.Session, open func() (*postgres.Session, error)) error {
		for (*into).Ping(ctx) != nil {
			(*into).Close(ctx)
			conn, err := open()
			if err == nil {
				*into = conn
				continue
			}
			if postgres.Pause(ctx, time.Second) != nil {
				return errors.Join(context.Cause(ctx), err)
			}
		}
		return nil
	}
	locked := func(side postgres.Side) func() (*postgres.Session, error) {
		return func() (*postgres.Session, error) {
			conn, err := st.Server(side).Connect(ctx)
			if err == nil {
				if _, err = lockSide(ctx, side, conn); err != nil {
					conn.Close(ctx)
				}
			}
			return conn, err
		}
	}
	if err := again(&st.SourceConn, locked(postgres.Source)); err != nil {
		return err
	}
	if st.TargetConn == nil { // its database is still to be made, or to be entered
		return again(&st.maintenance, func() (*postgres.Session, error) { return schema.ConnectMaintenance(ctx, st.Target) })
	}
	return again(&st.TargetConn, locked(postgres.Target))
}

// Plan lists what Start would do. It changes nothing and needs no lock.
func (m *Migration) Plan(ctx context.Context) ([]plan.Step, error) {
	c, s := m.Config, m.Sessions
	st, err := newStart(ctx, c, s)
	if err != nil {
		return nil, err
	}
	defer st.cleanUp()
	if err := st.readWorld(ctx, nil); err != nil {
		return nil, err
	}
	st.world.read = false // the snapshot is still to come
	if st.divided, err = st.divide(ctx, st.world.tables); err != nil {
		return nil, err
	}
	return planSteps(ctx, st.steps())
}

func newStart(ctx context.Context, c Config, s *Sessions) (*start, error) {
	if err := s.reachable(); err != nil {
		return nil, err
	}
	if c.unselected != "" { // not everything
		return nil, refusal.New("start", handover.UnselectedText(c.unselected), "pgbaton reset, then start again")
	}
	st := &start{Config: c, Sessions: s}
	var err error
	if st.sourceRecord, st.targetRecord, err = s.records(ctx, c); err != nil {
		return nil, err
	}
	if st.sourceRecord == nil && st.targetRecord == nil {
		st.draw()
	}
	if st.sourceRecord == nil && st.targetRecord != nil {
		return nil, refusal.New("start", "the target has a record of this migration and the source has none",
			"pgbaton reset removes what is left of an earlier run")
	}
	if st.sourceRecord != nil && st.sourceRecord.Method != string(c.Method) {
		return nil, refusal.New("start", fmt.Sprintf("this migration was started with --method %s", st.sourceRecord.Method),
			"continue with that method, or pgbaton reset and start again")
	}
	if b, _ := journal.Decide(st.sourceRecord, st.targetRecord); b.Side == postgres.Target {
		return nil, refusal.New("start", "the baton has passed to the target: there is nothing to start", "pgbaton status, then pgbaton finish")
	}
	if st.sourceRecord != nil {
		if err := c.refuseClosed(ctx, s, postgres.Source); err != nil {
			return nil, err
		}
	}
	if saved, err := fence.Raised(ctx, s.SourceConn); err != nil || saved != nil {
		if err == nil {
			err = refusal.New("start", "the source is fenced: a handover died before the pass", "pgbaton switchover, run again, continues from there")
		}
		return nil, err
	}
	version := c.Source.Version()
	if s.TargetConn == nil {
		if st.maintenance, err = schema.ConnectMaintenance(ctx, c.Target); err != nil {
			return nil, err
		}
	}
	version = max(version, c.Target.Version())
	if st.tools, err = schema.FindTools(c.PgBin, version.Major()); err != nil {
		return nil, err
	}
	if st.exclusion, err = catalog.Excluded(ctx, s.SourceConn, c.Selection); err != nil {
		return nil, c.Source.Wrap("finding what is left out", err)
	}
	if st.workDir, err = schema.WorkDir(); err != nil {
		return nil, err
	}
	return st, nil
}

func (st *start) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	st.slot.Close(ctx)
	for _, g := range st.groups {
		g.slot.Close(ctx)
	}
	if st.maintenance != nil {
		st.maintenance.Close(ctx)
	}
	os.RemoveAll(st.workDir)
}

// steps are the migration's steps for the method, in order.
func (st *start) steps() []Step {
	list := []step{
		{"record the migration on the source", st.planSourceRecord, st.doneSourceRecord, st.runSourceRecord},
	}
	if st.Roles {
		list = append(list, step{"copy roles", st.planRoles, st.doneRoles, st.runRoles})
	}
	list = append(list,
		step{"target database", st.planDatabase, st.doneDatabase, st.runDatabase},
		step{"record the migration on the target", st.planTargetRecord, st.doneTargetRecord, st.runTargetRecord},
		step{"fence the target", st.planFence, st.doneFence, st.runFence},
		step{"replica identities", st.planIdentities, st.doneIdentities, st.runIdentities},
	)
	switch st.Method {
	case Stream:
		list = append(list,
			step{"publication", st.planGroups, st.doneGroups, st.runGroups},
			step{"replication slot and snapshot", st.planSlots, st.doneSlots, st.runSlots},
			step{"schema archive", st.planArchive, st.doneArchive, st.runArchive},
			step{"tables without keys", st.planPreData, st.donePreData, st.runPreData},
			step{"functions", st.planFunctions, st.doneFunctions, st.runFunctions},
			step{"rows, indexes, keys", st.planRows, st.isLoaded, st.runRows},
			step{"other definitions", st.planRest, st.isLoaded, st.runRest},
		)
	case Dump:
		list = append(list,
			step{"publication", st.planPublication, st.donePublication, st.runPublication},
			step{"replication slot and snapshot", st.planSlot, st.isLoaded, st.runSlot},
			step{"dump", st.planDump, st.isLoaded, st.runDump},
			step{"restore", st.planRestore, st.isLoaded, st.runRestore},
			step{"functions", st.planFunctions, st.doneFunctions, st.runFunctions},
		)
	case Native:
		list = append(list,
			step{"publication", st.planPublication, st.donePublication, st.runPublication},
			step{"replication slot", st.planSlot, st.isLoaded, st.runSlot},
			step{"schema archive", st.planArchive, st.isLoaded, st.runArchive},
			step{"schema", st.planSchema, st.isLoaded, st.runSchema},
			step{"functions", st.planFunctions, st.doneFunctions, st.runFunctions},
			step{"subscription", st.planSubscription, st.doneSubscription, st.runSubscription},
			step{"copy rows", st.planSync, st.doneSync, st.runSync},
			step{"statistics and materialized views", st.planAnalyze, st.doneAnalyze, st.runAnalyze},
			step{"catch up", st.planCatchUp, st.doneCatchUp, st.runCatchUp},
		)
		return asSteps(list)
	}
	list = append(list,
		step{"statistics and materialized views", st.planAnalyze, st.doneAnalyze, st.runAnalyze},
		step{"subscription", st.planSubscription, st.doneSubscription, st.runSubscription},
		step{"catch up", st.planCatchUp, st.doneCatchUp, st.runCatchUp},
	)
	return asSteps(list)
}

func asSteps(list []step) []Step {
	steps := make([]Step, len(list))
	for i, s := range list {
		steps[i] = s
	}
	return steps
}

// execAll runs statements in a transaction of their own.
func execAll(ctx context.Context, side postgres.Side, conn *postgres.Session, statements ...string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range statements {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return postgres.Wrap(side, sql, err)
			}
		}
		return nil
	})
}

// errInterrupted is the cause with which a command's context ends on a signal.
var errInterrupted = errors.New("interrupted")

// Interrupted is the cause to cancel a command's context with on a signal.
func Interrupted() error { return errInterrupted }
