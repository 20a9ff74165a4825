package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

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

	TablesTotal  int          `json:"tables_total"`
	TablesCopied int          `json:"tables_copied"`
	BytesTotal   int64        `json:"bytes_total"`
	BytesCopied  int64        `json:"bytes_copied"`
	BytesPerSec  float64      `json:"bytes_per_second"`
	ETASeconds   float64      `json:"eta_seconds"`
	IndexesTotal int          `json:"indexes_total"`
	IndexesBuilt int          `json:"indexes_built"`
	Running      []event.Task `json:"running,omitempty"` // what the copy does right now

	Groups   []GroupStatus `json:"groups"`
	Slots    []SlotStatus  `json:"slots"`
	XminAge  int64         `json:"xmin_age"` // transactions that vacuum cannot clean behind on the source, because of us
	Findings []Note        `json:"findings"`

	Broken     bool   `json:"broken"`               // the stream to the side without the baton is lost for good
	Unfinished string `json:"unfinished,omitempty"` // the command that has not come to its end, and does when run again
}

// SideStatus is one server as status found it.
type SideStatus struct {
	Address    string `json:"address"`
	Version    string `json:"version,omitempty"`
	Reachable  bool   `json:"reachable"`
	Error      string `json:"error,omitempty"`
	Generation int64  `json:"generation"`
	Fenced     bool   `json:"fenced"`

	closed *handover.Closed // its fence cannot be lifted; nil when all is well
}

// GroupStatus is one group's stream.
type GroupStatus struct {
	Direction    string `json:"direction"` // forward, or reverse: the way back
	Number       int    `json:"number"`
	Subscription string `json:"subscription"` // missing, disabled, running, not running
	Tables       int    `json:"tables"`
	TablesReady  int    `json:"tables_ready"`
	Suspect      bool   `json:"suspect,omitempty"` // changes may be missing, see findings
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

// Status asks both servers. A side that cannot be reached is part of the
// answer, not an error.
func (m *Migration) Status(ctx context.Context) (*Status, error) {
	c, s := m.Config, m.Sessions
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

func sideStatus(server *postgres.Server, conn *postgres.Session, err error) SideStatus {
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
	baton          journal.Baton
	publishing     []replication.Group // of which the side with the baton has something
	suspect        map[string]bool     // by the names of groups
	damaged        map[string]bool     // entries of the journals that have been noted
}

// The stream flows from the side that has the baton to the other.
func (r *reader) publisher() *postgres.Session  { return r.conn(r.baton.Side) }
func (r *reader) subscriber() *postgres.Session { return r.conn(r.baton.Side.Other()) }
func (r *reader) groups() []replication.Group   { return r.streams(r.baton.Side) }

// lost notes what makes the stream to the side without the baton useless.
func (r *reader) lost(text, remedy string) {
	r.Broken = true
	r.note(text, remedy)
}

// died notes what a command that did not come to its end has left; run again, it does.
func (r *reader) died(text, command, does string) {
	r.Unfinished = command
	r.note(text, "pgbaton "+command+", run again"+does)
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
	var known bool
	r.baton, known = journal.Decide(r.source, r.target)
	if !known && r.source == nil {
		return nil // nothing of this migration is here
	}
	r.Baton = r.baton.Side
	r.noteClosed()
	if !r.baton.Certain && (r.SourceConn == nil || r.TargetConn == nil) {
		r.note("one side could not be asked: where the baton is rests on the other alone", "make both servers reachable and look again")
	}
	if err := r.readProgress(ctx); err != nil {
		return err
	}
	if err := r.readSlots(ctx); err != nil {
		return err
	}
	if err := r.readGaps(ctx); err != nil {
		return err
	}
	if err := r.readDamaged(ctx); err != nil {
		return err
	}
	if err := r.readNotes(ctx); err != nil {
		return err
	}
	return r.readPhase(ctx)
}

func (r *reader) readSide(ctx context.Context, side postgres.Side) error {
	conn, record, into := r.SourceConn, r.source, &r.Status.Source
	if side == postgres.Target {
		conn, record, into = r.TargetConn, r.target, &r.Status.Target
	}
	if conn == nil {
		return nil
	}
	lost, err := journal.Lost(ctx, conn, record)
	if err != nil {
		return r.Config.Server(side).Wrap("reading the journal", err)
	}
	if lost {
		r.note(handover.LostText(side), "before the first switchover: pgbaton reset, then start again; after it: pgbaton finish says what it finds")
	}
	if record == nil {
		return nil
	}
	r.Status.Method, into.Generation = record.Method, record.Generation
	saved, err := fence.Raised(ctx, conn)
	damaged := (*journal.Damaged)(nil)
	if err != nil && !errors.As(err, &damaged) {
		return r.Config.Server(side).Wrap("looking for a fence", err)
	}
	if into.Fenced = saved != nil; !into.Fenced && !lost {
		party := r.handover(Handover{To: side}).Taker
		closed, err := handover.FindClosed(ctx, party, conn, r.conn(side.Other()))
		if err != nil {
			return err
		}
		into.Fenced, into.closed = closed != nil, closed
		if damaged != nil && closed == nil { // of a side that is open nothing is lost with it
			r.note(fmt.Sprintf("%s: %s", side, damaged), damaged.DeleteSQL())
		}
	}
	pid, err := journal.LockHolder(ctx, conn)
	r.Working = r.Working || pid != 0
	return r.Config.Server(side).Wrap("looking for the operator's lock", err)
}

// sideStatus is what is known of a side.
func (r *reader) sideStatus(side postgres.Side) *SideStatus {
	if side == postgres.Source {
		return &r.Status.Source
	}
	return &r.Status.Target
}

// readProgress takes the copy's figures from where the method leaves them.
func (r *reader) readProgress(ctx context.Context) error {
	if r.TargetConn == nil || r.target == nil {
		return nil
	}
	if Method(r.Status.Method) == Native && r.SourceConn != nil && r.Baton == postgres.Source {
		p, err := nativeProgress(ctx, r.SourceConn, r.TargetConn, r.Group(), r.Selection)
		r.take(p)
		return err
	}
	p, ok, err := progressEntry.Get(ctx, r.TargetConn)
	if r.isDamaged(postgres.Target, err) {
		p, ok, err = event.Progress{}, false, nil
	}
	if err != nil {
		return r.Config.Target.Wrap("reading the copy's progress", err)
	}
	if !ok && r.SourceConn != nil && r.Baton == postgres.Source {
		tables, err := catalog.Tables(ctx, r.SourceConn, r.Selection)
		if err != nil {
			return r.Config.Source.Wrap("listing tables", err)
		}
		p.TablesTotal = len(tables)
		for _, t := range tables {
			p.BytesTotal += t.Bytes
		}
	}
	if !r.Working && r.Baton == postgres.Source && r.baton.Generation == 0 {
		if err := r.keptProgress(ctx, &p); err != nil {
			return err
		}
	}
	r.take(p)
	return nil
}

// keptProgress makes of what a start last noted of its progress, if it ended before
// the load was complete, what it has left: the tables that the next one keeps.
func (r *reader) keptProgress(ctx context.Context, p *event.Progress) error {
	_, complete, err := loadedEntry.Get(ctx, r.TargetConn)
	if err = r.unlessDamaged(postgres.Target, err); err != nil || complete {
		return r.Config.Target.Wrap("reading the journal", err)
	}
	copied, err := copiedEntries.List(ctx, r.TargetConn)
	if err = r.unlessDamaged(postgres.Target, err); err != nil {
		return r.Config.Target.Wrap("reading the journal", err)
	}
	p.TablesCopied, p.BytesCopied = len(copied), 0
	for _, c := range copied {
		p.BytesCopied += c.Bytes
	}
	p.BytesPerSec, p.ETASeconds, p.Running = 0, 0, nil
	return nil
}

func (r *reader) take(p event.Progress) {
	r.TablesTotal, r.TablesCopied = p.TablesTotal, p.TablesCopied
	r.BytesTotal, r.BytesCopied = p.BytesTotal, p.BytesCopied
	r.BytesPerSec, r.ETASeconds = p.BytesPerSec, p.ETASeconds
	r.IndexesTotal, r.IndexesBuilt, r.Running = p.IndexesTotal, p.IndexesBuilt, p.Running
}

// readSlots shows every slot of ours, on either side.
func (r *reader) readSlots(ctx context.Context) error {
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		conn := r.conn(side)
		if conn == nil {
			continue
		}
		numbers, err := replication.GroupNumbers(ctx, conn, nil, r.stream(side))
		if err != nil {
			return r.Config.Server(side).Wrap("listing the groups", err)
		}
		for _, n := range numbers {
			g := r.stream(side)
			g.Number = n
			if side == r.baton.Side {
				r.publishing = append(r.publishing, g)
			}
			slot, err := replication.ReadSlot(ctx, conn, g.Name())
			if err != nil {
				return r.Config.Server(side).Wrap("reading the slot", err)
			}
			if slot == nil {
				continue
			}
			r.Slots = append(r.Slots, SlotStatus{Side: side, SlotState: *slot,
				RestartLSN: slot.RestartLSN.String(), Confirmed: slot.Confirmed.String()})
			r.XminAge = max(r.XminAge, slot.XminAge)
			if slot.Lost {
				r.lost(fmt.Sprintf("replication slot %s is lost: the %s has removed WAL that the %s still needs", slot.Name, side, side.Other()),
					lostRemedy(r.baton))
			}
			if slot.Synced && side == r.baton.Side {
				r.note(fmt.Sprintf("the %s is a standby that was promoted, and carries replication slot %s on: what its predecessor committed and it had not received may be on the %s all the same", side, slot.Name, side.Other()),
					"nothing to do if the standby was in synchronized_standby_slots, or had received everything; otherwise compare the rows of both sides before a handover, or "+lostRemedy(r.baton))
			}
		}
	}
	return nil
}

// slot returns the slot of a group's stream, nil when there is none.
func (r *reader) slot(g replication.Group) *SlotStatus {
	for i := range r.Slots {
		if r.Slots[i].Side == r.baton.Side && r.Slots[i].Name == g.Name() {
			return &r.Slots[i]
		}
	}
	return nil
}

// readPhase says how far the migration is, and measures the lag where there is
// a stream to measure.
func (r *reader) readPhase(ctx context.Context) error {
	holder := r.baton.Side
	switch {
	case r.baton.Passed && holder == postgres.Target && r.target == nil && r.TargetConn != nil:
		r.Phase = PhaseSwitched
		r.died("the target has no record of the migration: finish was run while the source was out of reach", "finish", ", cleans the source")
		return nil
	case r.baton.Passed && r.publisher() == nil:
		r.Phase = PhaseSwitched
		r.note(fmt.Sprintf("the %s has handed the baton over; the %s cannot be asked whether it has taken it", holder.Other(), holder), "make it reachable")
		return nil
	case r.baton.Passed:
		r.Phase = PhaseSwitched
		r.died(fmt.Sprintf("the %s has handed the baton over and the %s has not taken it yet: nobody can write", holder.Other(), holder),
			Handover{To: holder}.command(), ", completes it")
		return nil
	case r.source == nil && r.SourceConn != nil:
		r.died("the source has no record of the migration: reset was run while the target was out of reach", "reset", ", cleans the target")
		return nil
	}
	if err := r.readTraffic(ctx); err != nil {
		return err
	}
	if r.baton.Generation > 0 {
		return r.readStream(ctx)
	}
	if r.TargetConn == nil || r.target == nil {
		r.Phase = PhaseCopying
		r.unfinished()
		return nil
	}
	_, isLoaded, err := loadedEntry.Get(ctx, r.TargetConn)
	if err = r.unlessDamaged(postgres.Target, err); err != nil {
		return r.Config.Target.Wrap("reading the journal", err)
	}
	if !isLoaded {
		r.Phase = PhaseCopying
		r.unfinished()
	}
	return r.readStream(ctx)
}
