package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/demo/shop"
)

// startRun is one start.
type startRun struct {
	Method      string             `json:"method"`
	BytesCopied int64              `json:"bytes_copied"`
	Tables      int                `json:"tables_copied"`
	Seconds     float64            `json:"seconds"` // as start itself reports
	SourceCPU   float64            `json:"source_cpu_seconds"`
	TargetCPU   float64            `json:"target_cpu_seconds"`
	Steps       map[string]float64 `json:"steps"` // seconds of each
	usage
}

// measureStarts starts and resets, method by method, in turns.
func measureStarts(ctx context.Context, o options, r *report) (err error) {
	say("a shop of %d orders on PostgreSQL %d …", o.orders, o.from)
	p, err := startPair(ctx, pairOptions{pgbaton: o.pgbaton, from: o.from, to: o.to, database: "shop",
		load: func(ctx context.Context, conn *pgx.Conn) error {
			return shop.Load(ctx, conn, shop.Size{Orders: o.orders})
		}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	r.Source, r.Target, r.FsyncMS = p.sourceVersion, p.targetVersion, fsyncMedian(p.dir)
	r.DatabaseBytes = p.bytes
	say("%s, copied by %v, %d times each", megabytes(p.bytes), o.methods, o.runs)
	for i := range o.runs {
		for _, method := range o.methods {
			s, err := p.measureStart(ctx, method, o.jobs)
			if err != nil {
				return err
			}
			say("  run %d, %-6s %6.1f s", i+1, method, s.Wall)
			r.Starts = append(r.Starts, s)
		}
	}
	return nil
}

// measureStart makes one start and takes it back.
func (p *pair) measureStart(ctx context.Context, method string, jobs int) (s startRun, err error) {
	if err := p.settle(ctx); err != nil {
		return s, err
	}
	s.Method, s.Steps = method, map[string]float64{}
	sourceBefore, _ := serverCPU(p.source.PID())
	targetBefore, _ := serverCPU(p.target.PID())
	s.usage, err = p.run(ctx, &s, func(o occurrence) {
		var step struct {
			Step    string  `json:"step"`
			Seconds float64 `json:"seconds"`
		}
		if o.kind == "step_ended" && json.Unmarshal(o.line, &step) == nil {
			s.Steps[step.Step] = step.Seconds
		}
	}, "start", "--try-schema=false", "--method", method, "--jobs", strconv.Itoa(jobs), "--pg-bin", p.pgBin)
	if err != nil {
		return s, err
	}
	sourceAfter, _ := serverCPU(p.source.PID())
	targetAfter, _ := serverCPU(p.target.PID())
	s.SourceCPU, s.TargetCPU = sourceAfter-sourceBefore, targetAfter-targetBefore

	var reset struct {
		Left []struct {
			Text string `json:"text"`
		} `json:"left"`
	}
	if _, err := p.run(ctx, &reset, nil, "reset", "--yes", "--drop-database"); err != nil {
		return s, err
	}
	if len(reset.Left) > 0 {
		return s, fmt.Errorf("pgbaton reset left something: %s", reset.Left[0].Text)
	}
	return s, nil
}
