package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
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
	workDir                    string    // for the schema archive and, by default, the dump
	maintenance                *pgx.Conn // on another database of the target, while its own does not exist

	slot    *replication.Slot // created by this run, its snapshot still exported
	tables  []catalog.Table   // as the slot's snapshot shows them
	archive string
	result  StartResult
}

// progress is what `pgbaton status` shows of a copy that runs: the value of
// journal kind "copy", key "progress", on the target.
type progress struct {
	event.Progress
	Running []string `json:"running,omitempty"`
}

// Journal kinds and keys.
const (
	kindCopy     = "copy"
	keyProgress  = "progress"
	keyLoaded    = "loaded"   // target: rows, keys and statistics are complete; value: loaded
	keyFinished  = "analyzed" // target: what follows the copy is done too
	kindTarget   = "target-database"
	keyCreated   = "created"  // source: start makes, or made, the target database
	keyBaseline  = "baseline" // target: what was there before
	kindIdentity = "replica-identity"
	kindRole     = "role" // source: the roles that start created on the target, under keyCreated
)

// loaded says which slot the target's rows go with.
type loaded struct {
	Slot            string `json:"slot"`
	ConsistentPoint string `json:"consistent_point"`
	Tables          int    `json:"tables"`
	Bytes           int64  `json:"bytes"`
}

// Start brings the target from nothing, or from wherever an earlier start
// stopped, to streaming. The sessions must be locked; the target's may be
// missing when its database does not exist yet.
func Start(ctx context.Context, c Config, s *Sessions) (StartResult, error) {
	st, err := newStart(ctx, c, s)
	if err != nil {
		return StartResult{}, err
	}
	defer st.cleanUp()
	began := time.Now()
	if err := runSteps(ctx, st.steps(), c.Observe); err != nil {
		return st.result, err
	}
	st.result.Seconds = event.Since(began)
	return st.result, nil
}

// Plan lists what Start would do. It changes nothing and needs no lock.
func Plan(ctx context.Context, c Config, s *Sessions) ([]PlannedStep, error) {
	st, err := newStart(ctx, c, s)
	if err != nil {
		return nil, err
	}
	defer st.cleanUp()
	if st.tables, err = catalog.Tables(ctx, s.SourceConn, c.Source.Version()); err != nil {
		return nil, postgres.Wrap(postgres.Source, "listing tables", err)
	}
	return planSteps(ctx, st.steps())
}

func newStart(ctx context.Context, c Config, s *Sessions) (*start, error) {
	if s.SourceErr != nil {
		return nil, s.SourceErr
	}
	if s.TargetErr != nil && postgres.Code(s.TargetErr) != postgres.UndefinedDatabase {
		return nil, s.TargetErr
	}
	st := &start{Config: c, Sessions: s}
	var err error
	if st.sourceRecord, st.targetRecord, err = s.records(ctx, c); err != nil {
		return nil, err
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
	removeStale()
	if st.workDir, err = os.MkdirTemp("", fmt.Sprintf("pgbaton-%d-", os.Getpid())); err != nil {
		return nil, err
	}
	return st, nil
}

// removeStale removes the working directories of processes that were killed:
// with method dump there are rows in them.
func removeStale() {
	found, _ := filepath.Glob(filepath.Join(os.TempDir(), "pgbaton-[0-9]*-*")) // the only error is a bad pattern
	for _, dir := range found {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(dir), "pgbaton-%d-", &pid); err != nil || syscall.Kill(pid, 0) != syscall.ESRCH {
			continue
		}
		os.RemoveAll(dir) // somebody else's stays: we may not
	}
}

func (st *start) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if st.slot != nil {
		st.slot.Close(ctx)
	}
	if st.maintenance != nil {
		st.maintenance.Close(ctx)
	}
	os.RemoveAll(st.workDir)
}

// steps are the migration's steps for the method, in order (DESIGN §2).
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
		step{"publication", st.planPublication, st.donePublication, st.runPublication},
	)
	switch st.Method {
	case Stream:
		list = append(list,
			step{"replication slot and snapshot", st.planSlot, st.doneSlot, st.runSlot},
			step{"schema archive", st.planArchive, st.isLoaded, st.runArchive},
			step{"tables without keys", st.planPreData, st.isLoaded, st.runPreData},
			step{"copy rows", st.planCopy, st.isLoaded, st.runCopy},
			step{"keys, indexes, constraints", st.planPostData, st.isLoaded, st.runPostData},
		)
	case Dump:
		list = append(list,
			step{"replication slot and snapshot", st.planSlot, st.doneSlot, st.runSlot},
			step{"dump", st.planDump, st.isLoaded, st.runDump},
			step{"restore", st.planRestore, st.isLoaded, st.runRestore},
		)
	case Native:
		list = append(list,
			step{"replication slot", st.planSlot, st.doneSlot, st.runSlot},
			step{"schema archive", st.planArchive, st.isLoaded, st.runArchive},
			step{"schema", st.planSchema, st.isLoaded, st.runSchema},
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

// on makes a list of actions for one side.
func on(where postgres.Side, do ...string) []Action {
	actions := make([]Action, len(do))
	for i, d := range do {
		actions[i] = Action{Where: string(where), Do: d}
	}
	return actions
}

// execAll runs statements in a transaction of their own.
func execAll(ctx context.Context, side postgres.Side, conn *pgx.Conn, statements ...string) error {
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
