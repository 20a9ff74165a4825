package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/handover"
)

// A large transaction right before a switchover: what of it falls into the pause, by
// how the subscription gets it.

// largeSet is what came of a pair of servers.
type largeSet struct {
	Pair    string     `json:"pair"`
	Source  string     `json:"source_version"`
	Target  string     `json:"target_version"`
	FsyncMS float64    `json:"fsync_ms"`
	Rows    int        `json:"rows"`
	Made    string     `json:"made"` // pg_subscription.substream as start makes it
	Runs    []largeRun `json:"runs"`
}

// largeRun is one switchover.
type largeRun struct {
	handover.Result
	Streaming string  `json:"streaming"` // off, or as made
	Commit    string  `json:"commit"`
	Load      string  `json:"load_average"`
	WallMS    float64 `json:"wall_ms"`
}

const (
	largeOff, largeAsMade = "off", "as made"
	// When the transaction commits.
	largeBefore = "1 s before switchover"
	largeWithin = "in prepare" // when ready has found the stream close behind
)

const largeSQL = `CREATE TABLE large (id bigint PRIMARY KEY, at timestamptz NOT NULL, kind int NOT NULL, amount numeric(10,2) NOT NULL, note text NOT NULL)`

func measureLarge(ctx context.Context, o options, r *report) error {
	for _, v := range o.largePairs {
		s, err := measureLargePair(ctx, o, v)
		if err != nil {
			return fmt.Errorf("large transactions, %d to %d: %w", v.from, v.to, err)
		}
		r.Large = append(r.Large, s)
	}
	return nil
}

func measureLargePair(ctx context.Context, o options, v versions) (s largeSet, err error) {
	p, err := startPair(ctx, pairOptions{pgbaton: o.pgbaton, from: v.from, to: v.to, database: bankName, extra: quickWorkers,
		load: func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, largeSQL)
			return err
		}})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	s = largeSet{Pair: fmt.Sprintf("%d-%d", v.from, v.to), Source: p.sourceVersion, Target: p.targetVersion, FsyncMS: fsyncMedian(p.dir), Rows: o.largeRows}
	if _, err := p.run(ctx, nil, nil, "start", "--pg-bin", p.pgBin); err != nil {
		return s, err
	}
	err = query(ctx, p.target.ConnString(p.database), func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT substream::text FROM pg_catalog.pg_subscription`).Scan(&s.Made)
	})
	if err != nil {
		return s, err
	}
	for i := range o.runs {
		for _, commit := range []string{largeBefore, largeWithin} {
			for _, streaming := range []string{largeOff, largeAsMade} {
				run, err := p.measureLarge(ctx, o.largeRows, streaming, commit)
				if err != nil {
					return s, err
				}
				say("  run %d, streaming %s, commit %s: drain %.0f ms, pause %.0f ms, ready %.0f ms", i+1, streaming, commit, run.phase(handover.PhaseDrain), run.PauseMS, run.phase(handover.PhaseReady))
				s.Runs = append(s.Runs, run)
			}
		}
	}
	return s, nil
}

// measureLarge hands over once, and back.
func (p *pair) measureLarge(ctx context.Context, rows int, streaming, commit string) (run largeRun, err error) {
	run = largeRun{Streaming: streaming, Commit: commit}
	if streaming == largeOff {
		err = query(ctx, p.target.ConnString(p.database), func(conn *pgx.Conn) error {
			var name string
			if err := conn.QueryRow(ctx, `SELECT pg_catalog.quote_ident(subname) FROM pg_catalog.pg_subscription`).Scan(&name); err != nil {
				return err
			}
			if _, err := conn.Exec(ctx, "SET default_transaction_read_only = off"); err != nil {
				return err
			}
			_, err := conn.Exec(ctx, "ALTER SUBSCRIPTION "+name+" SET (streaming = off)")
			return err
		})
	}
	if err == nil {
		err = errors.Join(p.streams(ctx), p.settle(ctx))
	}
	if err != nil {
		return run, err
	}
	conn, err := pgx.Connect(ctx, p.source.ConnStringAs(bankName, "", p.database))
	if err != nil {
		return run, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) // ended by the fence
	run.Load = loadAverage()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return run, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO large SELECT i, now() + i * interval '1 second', i % 40, (i % 1000000) / 100.0, md5(i::text) FROM generate_series(1, $1::bigint) i`, rows)
	if err != nil {
		return run, err
	}
	var committed error
	if commit == largeBefore {
		if err := errors.Join(tx.Commit(ctx), rest(ctx, time.Second)); err != nil {
			return run, err
		}
	}
	u, err := p.run(ctx, &run.Result, func(o occurrence) {
		var e struct {
			Phase string `json:"phase"`
		}
		if commit == largeWithin && o.kind == "phase_ended" && json.Unmarshal(o.line, &e) == nil && e.Phase == handover.PhaseReady {
			committed = tx.Commit(ctx)
		}
	}, "switchover", "--yes", "--max-pause", "30m")
	run.WallMS = u.Wall * 1000
	if err = errors.Join(err, committed); err != nil {
		return run, err
	}
	var there int
	err = query(ctx, p.target.ConnString(p.database), func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT pg_catalog.count(*) FROM large`).Scan(&there)
	})
	if err == nil && there != rows {
		err = fmt.Errorf("%d of %d rows are on the target", there, rows)
	}
	if err != nil {
		return run, err
	}
	if _, err := p.run(ctx, nil, nil, "rollback", "--yes"); err != nil {
		return run, err
	}
	return run, query(ctx, p.source.ConnString(p.database), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "TRUNCATE large")
		return err
	})
}

// streams waits until the stream to the target flows.
func (p *pair) streams(ctx context.Context) error {
	for {
		var s struct {
			Phase string `json:"phase"`
		}
		if _, err := p.run(ctx, &s, nil, "status"); err != nil || s.Phase == "streaming" {
			return err
		}
		if err := rest(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// phase is how long a phase took, in milliseconds.
func (run largeRun) phase(name string) float64 {
	for _, p := range run.Phases {
		if p.Name == name {
			return p.MS
		}
	}
	return 0
}

// of collects a figure over the runs of a kind.
func (s *largeSet) of(streaming, commit string, figure func(largeRun) float64) (values []float64) {
	for _, r := range s.Runs {
		if r.Streaming == streaming && r.Commit == commit {
			values = append(values, figure(r))
		}
	}
	return values
}

func (r *report) largeTables(b *strings.Builder) {
	for i := range r.Large {
		s := &r.Large[i]
		made := map[string]string{"f": "off", "t": "on", "p": "parallel"}[s.Made]
		fmt.Fprintf(b, "\n## A transaction of %d rows, %s\n\nSource %s, target %s; %.2f ms per fsync. Milliseconds; ready is before anyone waits.\n\n", s.Rows, strings.Replace(s.Pair, "-", " → ", 1), s.Source, s.Target, s.FsyncMS)
		b.WriteString("| commit | streaming | n | drain | pause_ms | ready | pause ÷ that of off | load average |\n|---|---|---|---|---|---|---|---|\n")
		for _, commit := range []string{largeBefore, largeWithin} {
			pause := func(r largeRun) float64 { return r.PauseMS }
			off := median(s.of(largeOff, commit, pause))
			for _, streaming := range []string{largeOff, largeAsMade} {
				of := func(figure func(largeRun) float64) []float64 { return s.of(streaming, commit, figure) }
				if len(of(pause)) == 0 {
					continue
				}
				name := streaming
				if streaming == largeAsMade {
					name = made
				}
				loads := ""
				for _, run := range s.Runs {
					if run.Streaming == streaming && run.Commit == commit {
						loads += strings.Fields(run.Load + " ?")[0] + " "
					}
				}
				fmt.Fprintf(b, "| %s | %s | %d | %s | %s | %s | %.3f | %s |\n", commit, name, len(of(pause)),
					spread("%.0f", of(func(r largeRun) float64 { return r.phase(handover.PhaseDrain) })), spread("%.0f", of(pause)),
					spread("%.0f", of(func(r largeRun) float64 { return r.phase(handover.PhaseReady) })), median(of(pause))/off, strings.TrimSpace(loads))
			}
		}
	}
}
