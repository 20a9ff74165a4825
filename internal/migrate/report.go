package migrate

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"pgbaton/internal/fence"
	"pgbaton/internal/handover"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
)

// Report is a migration as it is told afterwards. Bytes are bytes.
type Report struct {
	Migration string            `json:"migration"`
	At        time.Time         `json:"at"`
	Method    string            `json:"method"`
	Source    SideStatus        `json:"source"`
	Target    SideStatus        `json:"target"`
	Baton     postgres.Side     `json:"baton"`
	Began     time.Time         `json:"began"`
	Loaded    *time.Time        `json:"loaded"` // rows, keys and statistics complete; null: not yet
	Tables    int               `json:"tables"`
	Bytes     int64             `json:"bytes"` // of the COPY streams
	Handovers []handover.Result `json:"handovers"`
	Fenced    postgres.Side     `json:"fenced,omitempty"` // the side that stays closed, and what opens it
	Unfence   []string          `json:"unfence,omitempty"`
}

// Report asks both sides. One of them is enough.
func (m *Migration) Report(ctx context.Context) (*Report, error) {
	c, s := m.Config, m.Sessions
	if s.SourceConn == nil && s.TargetConn == nil {
		return nil, errors.Join(s.SourceErr, s.TargetErr)
	}
	source, target, err := s.records(ctx, c)
	if err != nil {
		return nil, err
	}
	b, known := journal.Decide(source, target)
	if !known {
		return nil, refusal.New("report", "there is no migration between these databases", "pgbaton start begins one; after finish nothing is left to report (finish --report FILE keeps it)")
	}
	r := &Report{Migration: c.Name, At: time.Now().UTC(), Baton: b.Side, Handovers: []handover.Result{},
		Source: sideStatus(c.Source, s.SourceConn, s.SourceErr), Target: sideStatus(c.Target, s.TargetConn, s.TargetErr)}
	if err := r.readCopy(ctx, s, source, target); err != nil {
		return nil, err
	}
	for _, side := range []struct {
		conn   *postgres.Session
		record *journal.Record
		into   *SideStatus
	}{{s.SourceConn, source, &r.Source}, {s.TargetConn, target, &r.Target}} {
		if side.record == nil {
			continue
		}
		saved, err := fence.Raised(ctx, side.conn)
		damaged := (*journal.Damaged)(nil) // of that status tells
		if err != nil && !errors.As(err, &damaged) {
			return nil, postgres.Wrap(side.record.Side, "looking for a fence", err)
		}
		side.into.Generation, side.into.Fenced = side.record.Generation, saved != nil || damaged != nil
	}
	told := map[string]handover.Result{}
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		conn := s.conn(side)
		if conn == nil {
			continue
		}
		results, err := handover.Results(ctx, conn)
		if err != nil {
			return nil, m.Server(side).Wrap("reading the handovers", err)
		}
		maps.Copy(told, results)
	}
	for _, key := range slices.Sorted(maps.Keys(told)) {
		r.Handovers = append(r.Handovers, told[key])
	}
	return r, r.readFence(ctx, c, s, b.Side.Other())
}

func (r *Report) readCopy(ctx context.Context, s *Sessions, source, target *journal.Record) error {
	for _, record := range []*journal.Record{target, source} {
		if record != nil {
			r.Method, r.Began = record.Method, record.MadeAt.UTC()
		}
	}
	if s.TargetConn == nil || target == nil {
		return nil
	}
	l, at, err := loadedEntry.At(ctx, s.TargetConn)
	if err == nil && at != nil {
		r.Tables, r.Bytes, r.Loaded = l.Tables, l.Bytes, at
	}
	return postgres.Wrap(postgres.Target, "reading the journal", err)
}

// readFence says how the fence of the side without the baton is lifted, for the
// day when it is wanted.
func (r *Report) readFence(ctx context.Context, c Config, s *Sessions, side postgres.Side) error {
	conn := s.conn(side)
	if conn == nil {
		return nil
	}
	saved, err := fence.Raised(ctx, conn)
	if damaged := (*journal.Damaged)(nil); errors.As(err, &damaged) {
		return nil
	}
	if err != nil || saved == nil {
		return c.Server(side).Wrap("looking for a fence", err)
	}
	sql, err := saved.LiftSQL(ctx, conn, c.Server(side).Database())
	if err != nil {
		return c.Server(side).Wrap("reading the database's grants", err)
	}
	r.Fenced, r.Unfence = side, unfenceSQL(sql)
	return nil
}

// unfenceSQL makes a transaction of the statements that lift a fence: the
// database is read-only until the last of them.
func unfenceSQL(sql []string) []string {
	return append(append([]string{"BEGIN READ WRITE"}, sql...), "COMMIT")
}
