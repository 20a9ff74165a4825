package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/handover"
)

// series is one configuration in which the baton goes back and forth.
type series struct {
	Name      string `json:"name"`
	From      int    `json:"from"`
	To        int    `json:"to"`
	Sequences int    `json:"sequences"`
	Direct    bool   `json:"direct"`    // no pooler: clients connect again, and find out where
	PgBouncer string `json:"pgbouncer"` // its version, empty for the newest there is
}

// allSeries are those that are measured unless --series names some.
var allSeries = []series{
	{Name: "12-15", From: 12, To: 15, Sequences: 100},
	{Name: "15-18", From: 15, To: 18, Sequences: 100},
	{Name: "12-15-sequences", From: 12, To: 15, Sequences: 1000},
	{Name: "12-15-direct", From: 12, To: 15, Sequences: 100, Direct: true},
	{Name: "12-15-pgbouncer-1.18", From: 12, To: 15, Sequences: 100, PgBouncer: "1.18.0"},
	{Name: "15-18-pgbouncer-1.18", From: 15, To: 18, Sequences: 100, PgBouncer: "1.18.0"},
}

// seriesRun is what came of a series.
type seriesRun struct {
	series
	Source     string        `json:"source_version"`
	Target     string        `json:"target_version"`
	Pooler     string        `json:"pooler,omitempty"`
	FsyncMS    float64       `json:"fsync_ms"`
	Load       string        `json:"load_average"`
	Clients    int           `json:"clients"`
	PerSec     float64       `json:"per_second"` // asked for
	Achieved   float64       `json:"achieved"`   // acknowledged per second, over the whole series
	Failed     int           `json:"failed_queries"`
	Ended      int           `json:"ended_connections"` // by KILL in PgBouncer, which a rollback from 16 or newer needs
	Reconnects int           `json:"reconnects"`        // direct: what clients took as a reason to connect again
	Errors     []string      `json:"errors,omitempty"`
	Quiet      quiet         `json:"between_handovers"`
	Reckoning  reckoning     `json:"reckoning"`
	Handovers  []handoverRun `json:"handovers"`
	Statements []statement   `json:"statements,omitempty"`
}

// quiet is the latency of transfers between the handovers, from the moment at
// which each should have begun.
type quiet struct {
	P50MS float64 `json:"p50_ms"`
	P99MS float64 `json:"p99_ms"`
	MaxMS float64 `json:"max_ms"`
}

// handoverRun is one switchover or rollback.
type handoverRun struct {
	handover.Result
	WallMS float64 `json:"wall_ms"` // of the whole command
	seen

	began, ended time.Time // of the command
}

// quickWorkers lets handovers follow each other at once. Servers up to 15 start no
// apply worker within wal_retrieve_retry_interval of the last start of one, by
// default 5 s: the way back would begin to flow that late, and catch up while the
// next handover begins.
var quickWorkers = map[string]string{"wal_retrieve_retry_interval": "500ms"}

// The pace: clients are served for a moment before, between and after.
const (
	warmUp   = 2 * time.Second
	restTime = time.Second // at least, at most twice that
	// commandTime bounds one handover, and seriesTime all of a series.
	commandTime = 30 * time.Second
	seriesTime  = 4 * time.Minute
	keptErrors  = 5
)

// measureHandovers runs the series asked for, one after the other.
func measureHandovers(ctx context.Context, o options, r *report) error {
	for _, s := range o.series {
		say("handovers, %s: %d each way …", s.Name, o.handovers)
		run, err := measureSeries(ctx, o, s)
		if err != nil {
			return fmt.Errorf("series %s: %w", s.Name, err)
		}
		r.Series = append(r.Series, run)
	}
	return nil
}

// measureSeries starts a migration and hands the baton there and back.
func measureSeries(ctx context.Context, o options, s series) (run seriesRun, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, seriesTime, fmt.Errorf("not done within %s", seriesTime))
	defer cancel()
	run = seriesRun{series: s, Clients: o.clients, PerSec: o.rate, Load: loadAverage()}
	po := pairOptions{pgbaton: o.pgbaton, from: s.From, to: s.To, database: bankName,
		load: func(ctx context.Context, conn *pgx.Conn) error { return loadBank(ctx, conn, s.Sequences) }}
	po.extra = maps.Clone(quickWorkers)
	if o.statements {
		maps.Copy(po.extra, logSettings)
	}
	p, err := startPair(ctx, po)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	run.Source, run.Target, run.FsyncMS = p.sourceVersion, p.targetVersion, fsyncMedian(p.dir)
	if _, err := p.run(ctx, nil, nil, "start", "--try-schema=false", "--pg-bin", p.pgBin); err != nil {
		return run, err
	}
	if err := p.settle(ctx); err != nil {
		return run, err
	}
	urls := []string{p.source.ConnStringAs(bankName, "", bankName), p.target.ConnStringAs(bankName, "", bankName)}
	var flags []string
	if !s.Direct {
		pooler, err := p.startPooler(ctx, s.PgBouncer)
		if err != nil {
			return run, err
		}
		defer func() { err = errors.Join(err, pooler.Remove()) }()
		urls, flags = []string{pooler.ConnString(bankName, bankName)}, []string{"--pgbouncer", pooler.AdminURI()}
		if run.Pooler, err = poolerVersion(ctx, pooler); err != nil {
			return run, err
		}
	}
	statements := newStatementLog(p, o.statements)
	c := startClients(ctx, urls, o.clients, o.rate)
	err = p.backAndForth(ctx, o.handovers, flags, &run, statements)
	c.end()
	if err != nil {
		return run, errors.Join(err, c.firstError())
	}
	run.judge(c)
	run.Statements = statements.summary()
	return run, p.reckon(ctx, c, &run)
}

// backAndForth hands over under the clients' load.
func (p *pair) backAndForth(ctx context.Context, times int, flags []string, run *seriesRun, statements *statementLog) error {
	if err := rest(ctx, warmUp); err != nil {
		return err
	}
	for i := range times {
		for _, command := range []string{"switchover", "rollback"} {
			h, err := p.handOver(ctx, append([]string{command, "--yes"}, flags...))
			if err != nil {
				return err
			}
			say("  %2d %-10s pause %6.1f ms, of the database %6.1f ms", i+1, command, h.PauseMS, h.DatabasePauseMS)
			run.Handovers = append(run.Handovers, h)
			statements.read(h)
			if err := rest(ctx, restTime+rand.N(restTime)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pair) handOver(ctx context.Context, args []string) (h handoverRun, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, commandTime, fmt.Errorf("%s did not end within %s", args[0], commandTime))
	defer cancel()
	h.began = time.Now()
	u, err := p.run(ctx, &h.Result, nil, args...)
	h.ended, h.WallMS = time.Now(), u.Wall*1000
	return h, err
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// startPooler starts a PgBouncer in front of the source: transaction pooling, its
// own defaults otherwise.
func (p *pair) startPooler(ctx context.Context, version string) (*cluster.Pooler, error) {
	program, err := cluster.FindPooler("", version)
	if err != nil {
		return nil, err
	}
	return cluster.StartPooler(ctx, cluster.PoolerOptions{
		Program: program, Dir: p.dir, Users: map[string]string{bankName: ""}, Settings: map[string]string{"auth_type": "trust"},
		Databases: map[string]cluster.PoolerDatabase{bankName: {Host: p.source.Host(), Port: p.source.Port()}},
	})
}

func poolerVersion(ctx context.Context, pooler *cluster.Pooler) (version string, err error) {
	err = query(ctx, pooler.AdminURI()+"&default_query_exec_mode=simple_protocol", func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SHOW VERSION").Scan(&version)
	})
	return version, err
}

// reckon accounts for every transfer. As many rollbacks as switchovers: the source
// has the baton.
func (p *pair) reckon(ctx context.Context, c *clients, run *seriesRun) error {
	return query(ctx, p.source.ConnStringAs(bankName, "", bankName), func(conn *pgx.Conn) error {
		b, err := readBooks(ctx, conn)
		if err != nil {
			return err
		}
		ids := make([]int64, len(c.samples))
		for i, s := range c.samples {
			ids[i] = s.id
		}
		run.Reckoning = b.reckon(ids, c.open)
		return nil
	})
}
