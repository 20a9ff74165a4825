package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/handover"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// Phases of a migration.
const (
	PhaseNew        = "new"
	PhaseCopying    = "copying"
	PhaseCatchingUp = "catching-up"
	PhaseStreaming  = "streaming"
	PhaseHeld       = "held"
	PhaseSwitched   = "switched"
	PhaseFinished   = "finished"
)

// Status is what `pgbaton status` shows. Bytes are bytes, times seconds.
type Status struct {
	Migration string        `json:"migration"`
	Phase     string        `json:"phase"`
	Method    string        `json:"method,omitempty"`
	Baton     postgres.Side `json:"baton"`
	Source    SideStatus    `json:"source"`
	Target    SideStatus    `json:"target"`
	Working   bool          `json:"working"` // a pgbaton command is at work on this migration

	LagBytes          *int64   `json:"lag_bytes"`
	LagSeconds        *float64 `json:"lag_seconds"`
	LagSecondsAtLeast bool     `json:"lag_seconds_at_least,omitempty"`
	RoundTripMS       *float64 `json:"round_trip_ms,omitempty"` // of this status's own marker

	TablesTotal  int      `json:"tables_total"`
	TablesCopied int      `json:"tables_copied"`
	BytesTotal   int64    `json:"bytes_total"`
	BytesCopied  int64    `json:"bytes_copied"`
	BytesPerSec  float64  `json:"bytes_per_second"`
	ETASeconds   float64  `json:"eta_seconds"`
	Copying      []string `json:"copying,omitempty"` // tables being copied right now

	Groups   []GroupStatus `json:"groups"`
	Slots    []SlotStatus  `json:"slots"`
	XminAge  int64         `json:"xmin_age"` // transactions that vacuum cannot clean behind on the source, because of us
	Findings []Note        `json:"findings"`
}

// SideStatus is one server as status found it.
type SideStatus struct {
	Address    string `json:"address"`
	Version    string `json:"version,omitempty"`
	Reachable  bool   `json:"reachable"`
	Error      string `json:"error,omitempty"`
	Generation int64  `json:"generation"`
	Fenced     bool   `json:"fenced"`
}

// GroupStatus is one group's stream.
type GroupStatus struct {
	Number       int    `json:"number"`
	Subscription string `json:"subscription"` // missing, disabled, running, not running
	Tables       int    `json:"tables"`
	TablesReady  int    `json:"tables_ready"`
}

// SlotStatus is a slot of ours.
type SlotStatus struct {
	Side postgres.Side `json:"side"`
	replication.SlotState
	RestartLSN string `json:"restart_lsn"`
	Confirmed  string `json:"confirmed_flush_lsn"`
}

// Note is something a person should know or do.
type Note struct {
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// heartbeatWait bounds how long status waits for its own marker.
const heartbeatWait = 2 * time.Second

// ReadStatus asks both servers. A side that cannot be reached is part of the
// answer, not an error.
func ReadStatus(ctx context.Context, c Config, s *Sessions) (*Status, error) {
	st := &Status{Migration: c.Name, Phase: PhaseNew, Baton: postgres.Source,
		Groups: []GroupStatus{}, Slots: []SlotStatus{}, Findings: []Note{},
		Source: sideStatus(c.Source, s.SourceConn, s.SourceErr), Target: sideStatus(c.Target, s.TargetConn, s.TargetErr)}
	if s.SourceConn == nil && s.TargetConn == nil {
		return st, errors.Join(s.SourceErr, s.TargetErr)
	}
	source, target, err := s.records(ctx, c)
	if err != nil {
		return st, err
	}
	r := reader{Status: st, Config: c, Sessions: s, source: source, target: target}
	return st, r.read(ctx)
}

func sideStatus(server *postgres.Server, conn *pgx.Conn, err error) SideStatus {
	side := SideStatus{Address: server.Address(), Reachable: conn != nil}
	if v := server.Version(); v != 0 {
		side.Version = v.String()
	}
	if err != nil {
		side.Error = err.Error()
	}
	return side
}

// reader fills a Status.
type reader struct {
	*Status
	Config
	*Sessions
	source, target *journal.Record
}

func (r *reader) note(text, remedy string) {
	r.Findings = append(r.Findings, Note{text, remedy})
}

func (r *reader) read(ctx context.Context) error {
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		if err := r.readSide(ctx, side); err != nil {
			return err
		}
	}
	baton, known := journal.Decide(r.source, r.target)
	if !known && r.source == nil {
		return nil // nothing of this migration is here
	}
	r.Baton = baton.Side
	if !baton.Certain && (r.SourceConn == nil || r.TargetConn == nil) {
		r.note("one side could not be asked: where the baton is rests on the other alone", "make both servers reachable and look again")
	}
	if err := r.readProgress(ctx); err != nil {
		return err
	}
	if err := r.readSlots(ctx); err != nil {
		return err
	}
	return r.readPhase(ctx, baton)
}

func (r *reader) readSide(ctx context.Context, side postgres.Side) error {
	conn, record, into := r.SourceConn, r.source, &r.Status.Source
	if side == postgres.Target {
		conn, record, into = r.TargetConn, r.target, &r.Status.Target
	}
	if conn == nil || record == nil {
		return nil
	}
	r.Status.Method, into.Generation = record.Method, record.Generation
	saved, err := fence.Raised(ctx, conn)
	if err != nil {
		return postgres.Wrap(side, "looking for a fence", err)
	}
	into.Fenced = saved != nil
	pid, err := journal.LockHolder(ctx, conn)
	r.Working = r.Working || pid != 0
	return postgres.Wrap(side, "looking for the operator's lock", err)
}

// readProgress takes the copy's figures from where the method leaves them.
func (r *reader) readProgress(ctx context.Context) error {
	if r.TargetConn == nil || r.target == nil {
		return nil
	}
	if Method(r.Status.Method) == Native && r.SourceConn != nil && r.Baton == postgres.Source {
		p, err := nativeProgress(ctx, r.SourceConn, r.TargetConn, r.Config.Source.Version(), r.Group())
		r.take(p)
		return err
	}
	var p progress
	ok, err := journal.Get(ctx, r.TargetConn, kindCopy, keyProgress, &p)
	if err != nil {
		return postgres.Wrap(postgres.Target, "reading the copy's progress", err)
	}
	if !ok && r.SourceConn != nil && r.Baton == postgres.Source {
		tables, err := catalog.Tables(ctx, r.SourceConn, r.Config.Source.Version())
		if err != nil {
			return postgres.Wrap(postgres.Source, "listing tables", err)
		}
		p.TablesTotal = len(tables)
		for _, t := range tables {
			p.BytesTotal += t.Bytes
		}
	}
	r.take(p.Progress)
	r.Copying = p.Running
	return nil
}

func (r *reader) take(p event.Progress) {
	r.TablesTotal, r.TablesCopied = p.TablesTotal, p.TablesCopied
	r.BytesTotal, r.BytesCopied = p.BytesTotal, p.BytesCopied
	r.BytesPerSec, r.ETASeconds = p.BytesPerSec, p.ETASeconds
}

func (r *reader) readSlots(ctx context.Context) error {
	if r.SourceConn == nil || r.source == nil {
		return nil
	}
	slot, err := replication.ReadSlot(ctx, r.SourceConn, r.Config.Source.Version(), r.Group().Name())
	if err != nil {
		return postgres.Wrap(postgres.Source, "reading the slot", err)
	}
	if slot == nil {
		return nil
	}
	r.Slots = append(r.Slots, SlotStatus{Side: postgres.Source, SlotState: *slot,
		RestartLSN: slot.RestartLSN.String(), Confirmed: slot.Confirmed.String()})
	r.XminAge = slot.XminAge
	if slot.Lost {
		r.note(fmt.Sprintf("replication slot %s is lost: the source has removed WAL that the target still needs", slot.Name),
			"pgbaton reset, raise max_slot_wal_keep_size on the source, and start again")
	}
	return nil
}

// readPhase says how far the migration is, and measures the lag where there is
// a stream to measure.
func (r *reader) readPhase(ctx context.Context, baton journal.Baton) error {
	switch {
	case baton.Passed && r.target == nil && r.TargetConn != nil:
		r.Phase = PhaseSwitched
		r.note("the target has no record of the migration: finish was run while the source was out of reach", "pgbaton finish, run again, cleans the source")
		return nil
	case baton.Passed:
		r.Phase = PhaseSwitched
		r.note(fmt.Sprintf("the %s has handed the baton over and the %s has not taken it yet: nobody can write", baton.Side.Other(), baton.Side),
			"pgbaton switchover, run again, completes it")
		return nil
	case baton.Side == postgres.Target:
		r.Phase = PhaseSwitched
		if r.TargetConn == nil {
			return nil
		}
		waiting, err := handover.TrafficWaits(ctx, r.TargetConn)
		if waiting && !r.Working {
			r.note("the target is open, but traffic has not been moved to it", "pgbaton switchover, run again, runs --on-switch and --on-resume")
		}
		return postgres.Wrap(postgres.Target, "reading the journal", err)
	}
	if r.source == nil && r.SourceConn != nil {
		r.note("the source has no record of the migration: reset was run while the target was out of reach", "pgbaton reset, run again, cleans the target")
		return nil
	}
	if paused, err := handover.TrafficPaused(ctx, r.SourceConn); err != nil {
		return postgres.Wrap(postgres.Source, "reading the journal", err)
	} else if paused && !r.Working && !r.Status.Source.Fenced {
		r.note("a handover died while it held traffic back", "pgbaton switchover, run again, runs --on-abort and hands over")
	}
	if r.Status.Source.Fenced && !r.Working {
		r.note("the source is fenced: a handover died before the pass, and applications cannot write", "pgbaton switchover, run again, undoes or completes it")
	}
	if r.TargetConn == nil || r.target == nil {
		r.Phase = PhaseCopying
		r.unfinished()
		return nil
	}
	var l loaded
	isLoaded, err := journal.Get(ctx, r.TargetConn, kindCopy, keyLoaded, &l)
	if err != nil {
		return postgres.Wrap(postgres.Target, "reading the journal", err)
	}
	sub, err := replication.ReadSubscription(ctx, r.TargetConn, r.Group().Name())
	if err != nil {
		return postgres.Wrap(postgres.Target, "reading the subscription", err)
	}
	if err := r.readGroup(ctx, sub); err != nil {
		return err
	}
	switch {
	case !isLoaded || sub == nil:
		r.Phase = PhaseCopying
		r.unfinished()
		return nil
	case !sub.Enabled:
		r.Phase = PhaseHeld
		return nil
	}
	if len(r.Slots) == 0 && r.SourceConn != nil {
		r.note(fmt.Sprintf("replication slot %s is gone from the source", r.Group().Name()), "pgbaton reset, then start again")
	}
	if r.SourceConn == nil {
		r.Phase = PhaseCatchingUp
		return nil
	}
	if Method(r.Status.Method) == Native && r.TablesCopied < r.TablesTotal {
		r.Phase = PhaseCopying
		return r.readTrouble(ctx)
	}
	return r.readLag(ctx)
}

func (r *reader) unfinished() {
	if !r.Working {
		r.note("start is not complete and no pgbaton is at work on it", "pgbaton start, run again, continues; pgbaton reset removes what is there")
	}
}

func (r *reader) readGroup(ctx context.Context, sub *replication.Subscription) error {
	g := GroupStatus{Number: r.Group().Number, Subscription: "missing"}
	if sub != nil {
		tables, err := replication.SubscriptionTables(ctx, r.TargetConn, sub.Name)
		if err != nil {
			return postgres.Wrap(postgres.Target, "reading the subscription", err)
		}
		for _, t := range tables {
			if t.Ident == r.Group().MarkerTable() {
				continue
			}
			g.Tables++
			if t.State == "r" {
				g.TablesReady++
			}
		}
		pids, err := replication.WorkerPIDs(ctx, r.TargetConn, sub.Name)
		if err != nil {
			return postgres.Wrap(postgres.Target, "reading the subscription's workers", err)
		}
		switch {
		case !sub.Enabled:
			g.Subscription = "disabled"
		case len(pids) > 0:
			g.Subscription = "running"
		default:
			g.Subscription = "not running"
		}
	}
	r.Groups = append(r.Groups, g)
	return nil
}

// readLag writes a heartbeat, waits for it within a bound, and reads the age of
// the oldest marker that has not arrived. A handover writes its own markers: no
// lag is measured while the source is fenced.
func (r *reader) readLag(ctx context.Context) error {
	r.Phase = PhaseCatchingUp
	rewritten, err := replication.Rewritten(ctx, r.SourceConn, r.Config.Source.Version(), r.Group())
	if err != nil {
		return postgres.Wrap(postgres.Source, "comparing the tables' files", err)
	}
	for _, text := range rewritten {
		r.note(text, "if it was a TRUNCATE, the target still has the rows: pgbaton reset, then start again")
	}
	if len(r.Slots) > 0 {
		r.LagBytes = &r.Slots[0].BehindBytes
	}
	if r.Status.Source.Fenced {
		return nil
	}
	table := r.Group().MarkerTable()
	// What is before this position has been applied once the marker is seen: the
	// position that the subscriber confirms is up to a few seconds behind that.
	before, err := replication.Position(ctx, r.SourceConn)
	if err != nil {
		return postgres.Wrap(postgres.Source, "reading the WAL position", err)
	}
	began := time.Now()
	token, err := replication.WriteMarker(ctx, r.SourceConn, table, replication.Heartbeat)
	if err != nil {
		return postgres.Wrap(postgres.Source, "writing a heartbeat", err)
	}
	seen, err := replication.SawMarker(ctx, r.TargetConn, table, token, heartbeatWait)
	if err != nil {
		return postgres.Wrap(postgres.Target, "waiting for the heartbeat", err)
	}
	lag := 0.0
	if seen {
		trip := event.MS(time.Since(began))
		r.Phase, r.RoundTripMS = PhaseStreaming, &trip
		if err := replication.TrimMarkers(ctx, r.SourceConn, table, token); err != nil {
			return postgres.Wrap(postgres.Source, "removing old heartbeats", err)
		}
	} else {
		age, err := replication.OldestUnapplied(ctx, r.SourceConn, r.TargetConn, table)
		if err != nil {
			return postgres.Wrap(postgres.Source, "reading the oldest heartbeat", err)
		}
		lag, r.LagSecondsAtLeast = age.Seconds(), true
	}
	r.LagSeconds = &lag
	if !seen {
		return r.readTrouble(ctx)
	}
	after, err := replication.Position(ctx, r.SourceConn)
	if err != nil {
		return postgres.Wrap(postgres.Source, "reading the WAL position", err)
	}
	behind := int64(after - before)
	r.LagBytes = &behind
	return nil
}

// readTrouble says why a stream does not flow.
func (r *reader) readTrouble(ctx context.Context) error {
	t, err := diagnose(ctx, r.Config, r.Sessions, false)
	if t != nil {
		r.note(t.Text, t.Remedy)
	}
	return err
}

// nativeProgress reads how far a subscription with copy_data is: a table counts
// when it is synchronized, bytes are what its relation has on disk.
func nativeProgress(ctx context.Context, source, target *pgx.Conn, v postgres.Version, g replication.Group) (p event.Progress, err error) {
	states, err := replication.SubscriptionTables(ctx, target, g.Name())
	if err != nil {
		return p, postgres.Wrap(postgres.Target, "reading the subscription", err)
	}
	tables, err := catalog.Tables(ctx, source, v)
	if err != nil {
		return p, postgres.Wrap(postgres.Source, "listing tables", err)
	}
	onSource := map[postgres.Ident]int64{}
	for _, t := range tables {
		onSource[t.Ident] = t.Bytes
		if len(states) == 0 { // the subscription is still to be made
			p.TablesTotal++
			p.BytesTotal += t.Bytes
		}
	}
	rows, err := target.Query(ctx, `SELECT n.nspname, c.relname, pg_catalog.pg_table_size(c.oid)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'`)
	if err != nil {
		return p, postgres.Wrap(postgres.Target, "reading table sizes", err)
	}
	onTarget := map[postgres.Ident]int64{}
	var t postgres.Ident
	var size int64
	if _, err := pgx.ForEachRow(rows, []any{&t.Schema, &t.Name, &size}, func() error {
		onTarget[t] = size
		return nil
	}); err != nil {
		return p, postgres.Wrap(postgres.Target, "reading table sizes", err)
	}
	for _, s := range states {
		if s.Ident == g.MarkerTable() {
			continue
		}
		p.TablesTotal++
		switch s.State {
		case "r", "s": // what the source has on disk by now may be more
			p.TablesCopied++
			p.BytesTotal += onTarget[s.Ident]
			p.BytesCopied += onTarget[s.Ident]
		default:
			p.BytesTotal += max(onSource[s.Ident], onTarget[s.Ident])
			p.BytesCopied += onTarget[s.Ident]
		}
	}
	return p, nil
}
