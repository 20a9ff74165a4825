// Package migrate is the migration as a list of steps: what is planned, run,
// recognised as done after a crash, and undone by reset.
package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/journal"
	"pgbaton/internal/phrase"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
)

// Method is how the rows get to the target.
type Method = preflight.Method

// The three methods.
const (
	Stream = preflight.Stream
	Native = preflight.Native
	Dump   = preflight.Dump
)

// Config is everything a command was told.
type Config struct {
	preflight.Input
	MaxRate    int64  // bytes of the copies a second; 0 for no limit
	MaxSlotWAL int64  // bytes that the source may keep for our slots during the copy; 0 for no limit of ours
	SplitAbove int64  // bytes of a table that is copied in parts; 0 for what is best
	Hold       bool   // leave the subscription disabled
	DumpDir    string // method dump: where the archive goes, "" for a temporary directory
	Observe    event.Observer

	id, label string              // of the migration, see takeNames
	streaming []replication.Group // the forward groups that there are, see recall

	unselected string // why a migration that is there has no selection; "" when it has one, or is not there yet
}

// Group is the migration's forward group: one, as long as nothing was
// interrupted or divided.
func (c Config) Group() replication.Group {
	return replication.Group{Label: c.label, Direction: replication.Forward, Number: 1}
}

// ReverseGroup is the way back: always one group (rule 13).
func (c Config) ReverseGroup() replication.Group {
	return replication.Group{Label: c.label, Direction: replication.Reverse, Number: 1}
}

// streams are the groups through which changes flow to the side without the baton.
func (c Config) streams(baton postgres.Side) []replication.Group {
	switch {
	case baton == postgres.Target:
		return []replication.Group{c.ReverseGroup()}
	case len(c.streaming) == 0:
		return []replication.Group{c.Group()}
	}
	return c.streaming
}

// stream is the one group of a handover's way back from a side.
func (c Config) stream(from postgres.Side) replication.Group {
	if from == postgres.Source {
		return c.Group()
	}
	return c.ReverseGroup()
}

func sameSelection(a, b catalog.Selection) bool {
	return slices.Equal(a.Schemas, b.Schemas) && slices.Equal(a.ExcludeSchemas, b.ExcludeSchemas) &&
		slices.Equal(a.Tables, b.Tables) && slices.Equal(a.ExcludeTables, b.ExcludeTables)
}

// takeNames takes the migration's id, and with it the names of all it makes, from
// the record of either side. A migration that has none yet draws its id: plan shows
// it, start records it.
func (c *Config) takeNames(ctx context.Context, s *Sessions) error {
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		if s.conn(side) == nil {
			continue
		}
		record, err := journal.Read(ctx, s.conn(side))
		if err != nil {
			return c.Server(side).Wrap("reading the migration's record", err)
		}
		if record != nil && record.Name == c.Name && record.Side == side {
			c.id, c.label = record.ID, record.Label()
			return nil
		}
	}
	c.draw()
	// Somebody may have dropped the records: what they were of is still to be found.
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		if s.conn(side) == nil {
			continue
		}
		left, err := replication.LeftLabel(ctx, s.conn(side), c.Name)
		if err != nil {
			return c.Server(side).Wrap("looking for what an earlier run left", err)
		}
		if left != "" {
			c.label = left
			return nil
		}
	}
	return nil
}

// draw gives the migration an id that no other has.
func (c *Config) draw() {
	c.id = journal.NewID()
	c.label = journal.Label(c.Name, c.id)
}

// recall takes from the sides what start was told and what has become of it: what
// the migration includes, and its groups. A selection that is given must be the same.
func (c *Config) recall(ctx context.Context, s *Sessions) error {
	var err error
	if s.TargetConn != nil {
		if c.streaming, err = replication.Subscribed(ctx, s.TargetConn, c.Group()); err != nil {
			return c.Target.Wrap("listing the groups", err)
		}
	}
	c.unselected = ""
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		if s.conn(side) == nil {
			continue
		}
		record, err := journal.Read(ctx, s.conn(side))
		if err != nil || record == nil || record.Name != c.Name {
			continue // whoever needs it reads it again, and says so
		}
		sel, ok, err := selectionEntry.Get(ctx, s.conn(side))
		switch damaged := (*journal.Damaged)(nil); {
		case errors.As(err, &damaged): // the other side has it, too
			c.unselected = fmt.Sprintf("the %s's %s", side, damaged)
			continue
		case err != nil:
			return c.Server(side).Wrap("reading the journal", err)
		case !ok:
			c.unselected = fmt.Sprintf("it is gone from the %s's journal", side)
			continue
		}
		if given := c.Selection; !given.IsZero() && !sameSelection(given, sel) {
			return refusal.New("this command", "the migration was started with another selection of tables", "give the same --schema, --table, --exclude-schema and --exclude-table, or none; or pgbaton reset")
		}
		c.Selection, c.unselected = sel, ""
		return nil
	}
	return nil
}

// streamsTruncate says whether a TRUNCATE gets from one side to the other.
func (c Config) streamsTruncate() bool {
	return replication.StreamsTruncate(c.Source.Version(), c.Target.Version())
}

// Server returns the configured server of a side.
func (c Config) Server(side postgres.Side) *postgres.Server {
	if side == postgres.Source {
		return c.Source
	}
	return c.Target
}

// reach is how the other side's server reaches a side.
func (c Config) reach(side postgres.Side) postgres.Reach {
	if side == postgres.Source {
		return c.SourceFromTarget
	}
	return c.TargetFromSource
}

// holderKeeps are the roles that keep CONNECT on a fenced side: ours, and the
// one as which the other side's server streams from here.
func (c Config) holderKeeps(side postgres.Side) []string {
	roles := []string{c.Server(side).User()}
	if u := c.reach(side).User(); u != "" && !slices.Contains(roles, u) {
		roles = append(roles, u)
	}
	return roles
}

// Sessions are one command's sessions, one per side. A side that is out of
// reach has none, and the reason.
type Sessions struct {
	SourceConn, TargetConn *postgres.Session
	SourceErr, TargetErr   error

	locked    bool   // the command is the migration's one operator
	waitedFor string // who had the lock when it was asked for
}

// open connects both sides; what fails is in the result. A target database that
// does not exist is no error of the migration: TargetErr then has SQLSTATE 3D000.
func open(ctx context.Context, c Config) *Sessions {
	s := &Sessions{}
	s.SourceConn, s.SourceErr = c.Source.ConnectAgain(ctx)
	s.TargetConn, s.TargetErr = c.Target.ConnectAgain(ctx)
	return s
}

// Close ends the sessions; a lock they hold is released.
func (s *Sessions) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, conn := range []*postgres.Session{s.SourceConn, s.TargetConn} {
		if conn != nil {
			conn.Close(ctx)
		}
	}
}

// direct returns an error when a side's address is that of a connection pooler: that
// is no side that is out of reach, which some commands can do without.
func (s *Sessions) direct() error {
	for _, err := range []error{s.SourceErr, s.TargetErr} {
		var pooler *postgres.PoolerError
		if errors.As(err, &pooler) {
			return err
		}
	}
	return nil
}

// need returns an error unless both sides are connected.
func (s *Sessions) need() error {
	if s.SourceErr != nil {
		return s.SourceErr
	}
	return s.TargetErr
}

// reachable returns an error unless both sides are connected, or there is no target
// database yet.
func (s *Sessions) reachable() error {
	if s.SourceErr != nil || postgres.Code(s.TargetErr) != postgres.UndefinedDatabase {
		return s.need()
	}
	return nil
}

// needMigration returns an error unless both sides are connected. A target database
// that does not exist belongs to no migration, unless the source has the record of one.
func (s *Sessions) needMigration(ctx context.Context, command string) error {
	if s.TargetErr == nil || s.reachable() != nil {
		return s.need()
	}
	record, err := journal.Read(ctx, s.SourceConn)
	switch {
	case err != nil:
		return postgres.Wrap(postgres.Source, "reading the migration's record", err)
	case record != nil:
		return s.TargetErr
	}
	return refusal.New(command, "there is no migration between these databases", "pgbaton start")
}

// conn returns the session of a side, nil when there is none.
func (s *Sessions) conn(side postgres.Side) *postgres.Session {
	if side == postgres.Source {
		return s.SourceConn
	}
	return s.TargetConn
}

// lock makes these sessions the one operator of the migration, on every side
// that is connected.
func (s *Sessions) lock(ctx context.Context) error {
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		if conn := s.conn(side); conn != nil {
			who, err := lockSide(ctx, side, conn)
			if who != "" {
				s.waitedFor = who
			}
			if err != nil {
				if s.sameDatabase(ctx) {
					return refusal.New("this command", "source and target are the same database", "check --source and --target")
				}
				return err
			}
		}
	}
	s.locked = true
	return nil
}

// sameDatabase says whether the lock that the target's session cannot get is the
// one that the source's session holds.
func (s *Sessions) sameDatabase(ctx context.Context) bool {
	if s.SourceConn == nil || s.TargetConn == nil {
		return false
	}
	pid, err := journal.LockHolder(ctx, s.TargetConn)
	return err == nil && pid == int32(s.SourceConn.PgConn().PID())
}

// lockPatience is how long a lock is waited for: the session of a command that
// has just ended, or was killed, is there for a moment more.
const lockPatience = 3 * time.Second

// lockSide takes a side's lock, and returns who had it meanwhile, "" for nobody.
func lockSide(ctx context.Context, side postgres.Side, conn *postgres.Session) (who string, err error) {
	began := time.Now()
	for {
		ok, other, err := journal.Lock(ctx, conn)
		if other != "" {
			who = other
		}
		switch {
		case err == nil && ok:
			return who, nil
		case err == nil && time.Since(began) >= lockPatience:
			return who, refusal.New("this command", fmt.Sprintf("another pgbaton is at work on the %s (%s)", side, other),
				"wait for it; the lock ends with its session")
		case err == nil:
			err = postgres.Pause(ctx, 50*time.Millisecond)
		}
		if err != nil {
			return who, postgres.Wrap(side, "taking the operator's lock", err)
		}
	}
}

// err is the reason for which a side has no session.
func (s *Sessions) err(side postgres.Side) error {
	if side == postgres.Source {
		return s.SourceErr
	}
	return s.TargetErr
}

// records reads both sides' records and the baton. A side that is not connected
// has no record; records of another migration, or of two runs of it, are refused.
func (s *Sessions) records(ctx context.Context, c Config) (source, target *journal.Record, err error) {
	source, target, err = s.bothRecords(ctx, c)
	if err == nil {
		if runs := otherRuns(c, source, target); runs != nil {
			return nil, nil, runs
		}
	}
	return source, target, err
}

// bothRecords is records, also of two runs.
func (s *Sessions) bothRecords(ctx context.Context, c Config) (source, target *journal.Record, err error) {
	read := func(side postgres.Side, conn *postgres.Session) (*journal.Record, error) {
		if conn == nil {
			return nil, nil
		}
		r, err := journal.Read(ctx, conn)
		if err != nil {
			return nil, c.Server(side).Wrap("reading the migration's record", err)
		}
		if r != nil && r.Name != c.Name {
			return nil, refusal.New("this command", fmt.Sprintf("the %s belongs to migration %q", side, r.Name),
				fmt.Sprintf("name it with --migration %s, or reset it first", phrase.Shell(r.Name)))
		}
		if r != nil && r.Side != side {
			return nil, refusal.New("this command", fmt.Sprintf("the database given as %s is the %s of migration %q", side, r.Side, r.Name),
				"exchange --source and --target")
		}
		return r, nil
	}
	if source, err = read(postgres.Source, s.SourceConn); err != nil {
		return nil, nil, err
	}
	if target, err = read(postgres.Target, s.TargetConn); err != nil {
		return nil, nil, err
	}
	return source, target, s.bound(ctx, c, source, target)
}

// otherRuns is the refusal of records that are of two runs of a migration: one side
// has been restored from a backup, or cleaned by hand. nil when they are of one.
func otherRuns(c Config, source, target *journal.Record) *refusal.Refusal {
	if source == nil || target == nil || source.ID == target.ID {
		return nil
	}
	remedy := "check --source and --target"
	if neverPassed(source, target) {
		remedy = "check --source and --target; if they are right, pgbaton reset removes what both runs have left"
	}
	return refusal.New("this command", "source and target belong to different runs of migration "+c.Name, remedy)
}

// neverPassed says of records that are of two runs of a migration between these two
// databases that the source has the baton in both.
func neverPassed(source, target *journal.Record) bool {
	return source.Ends != nil && target.Ends != nil && source.Generation == 0 && target.Generation == 0
}
