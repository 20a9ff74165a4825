// Package demo tells the whole story of a migration on this machine: two
// throw-away servers, a shop under load on the first, pgbaton moving it to the
// second, back and there again, and the proof that no order was lost.
//
// It uses pgbaton as its users do: as a program, with arguments and an
// environment, reading what it prints.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"pgbaton/internal/cluster"
)

// Defaults of [Options].
const (
	DefaultFrom   = 12
	DefaultTo     = 15
	DefaultPort   = 4000
	DefaultOrders = 50_000
)

// Options say what to show. Every zero value has a default.
type Options struct {
	From, To    int    // major versions; 0 means DefaultFrom, DefaultTo
	Keep        bool   // after the switchover, leave all running until the context ends
	Direct      bool   // let the shop connect to the servers itself, even where there is a PgBouncer
	PostgresDir string // holds MAJOR/bin and tools; empty looks in the usual places, see cluster.FindBinDir
	PgBin       string // holds pg_dump and pg_restore; empty means those of the newer server
	Port        int    // of the storefront; where it is taken the next free one; 0 means DefaultPort
	Orders      int    // history of the shop; 0 means DefaultOrders
	Executable  string // the pgbaton to run; empty means this program

	Out io.Writer // gets the story; nil discards it
}

func (o Options) withDefaults() (Options, error) {
	o.From = cmp.Or(o.From, DefaultFrom)
	o.To = cmp.Or(o.To, DefaultTo)
	o.Port = cmp.Or(o.Port, DefaultPort)
	o.Orders = cmp.Or(o.Orders, DefaultOrders)
	if o.Out == nil {
		o.Out = io.Discard
	}
	var err error
	if o.Executable == "" {
		if o.Executable, err = os.Executable(); err != nil {
			return o, fmt.Errorf("find this program's own path: %w", err)
		}
	}
	// pgbaton runs in another directory.
	if o.Executable, err = filepath.Abs(o.Executable); err != nil {
		return o, err
	}
	return o, nil
}

// demo is one performance.
type demo struct {
	Options
	*transcript
	began  time.Time
	report Report

	dir            string // everything we write
	source, target *cluster.Cluster
	password       string          // of the role shop, on both servers
	pooler         *cluster.Pooler // nil: the shop connects to the servers itself
	front          *front
	crowd          *crowd

	guardian int   // pid of the one that may still run; 0: none
	ordersAt int64 // how many had been acknowledged when the present server took over
}

// Run performs the demo. When it returns, servers, PgBouncer, storefront, shoppers
// and files are gone, whatever happened: SIGINT and SIGTERM end it early, and so
// does an Out that can no longer be written to. With Keep it stays after the
// switchover until it is ended so, and that is no error.
//
// SIGHUP makes the storefront read its settings again; until Run returns it
// does not end the process.
func Run(ctx context.Context, o Options) (Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Report{}, err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A pipe or terminal that is gone ends us by the next line that cannot be
	// written, and so by way of cleaning up, not by these signals.
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, syscall.SIGPIPE, syscall.SIGHUP)
	defer signal.Stop(ignored)

	d := &demo{
		Options: o,
		began:   time.Now(),
		transcript: &transcript{out: o.Out, failed: func(err error) {
			cancel(fmt.Errorf("write the story: %w", err))
		}},
	}
	err = d.perform(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("the demo was ended early: %w", context.Cause(ctx))
	}
	return d.report, errors.Join(err, d.cleanUp())
}

// perform is the story, in order.
func (d *demo) perform(ctx context.Context) error {
	d.heading("pgbaton demo: a shop moves from PostgreSQL %d to PostgreSQL %d while it sells", d.From, d.To)
	acts := []func(context.Context) error{
		d.startServers,
		d.loadShop,
		d.startPooler,
		d.openShop,
		d.letShoppersIn,
		d.check,
		d.start,
		d.status,
		d.rehearse,
		d.switchover,
		d.status,
	}
	if d.Keep {
		acts = append(acts, d.prove, d.conclude, d.keep)
	} else {
		acts = append(acts, d.rollback, d.status, d.switchAgain, d.status, d.tellReport, d.prove, d.finish, d.conclude)
	}
	for _, act := range acts {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

// cleanUp removes all that perform has made so far.
func (d *demo) cleanUp() error {
	began := time.Now()
	var errs []error
	if d.guardian != 0 {
		// Of a command that did not end well: nothing of what it guards stays.
		if err := syscall.Kill(d.guardian, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("end the guardian, pid %d: %w", d.guardian, err))
		}
	}
	if d.pooler != nil {
		// First: it may hold back the storefront's connections, which could not end.
		errs = append(errs, d.pooler.Remove())
	}
	if d.front != nil {
		errs = append(errs, d.front.close())
	}
	if d.crowd != nil {
		_, err := d.crowd.stop()
		errs = append(errs, err)
	}
	for _, c := range []*cluster.Cluster{d.source, d.target} {
		if c != nil {
			errs = append(errs, c.Remove())
		}
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
		if errors.Join(errs...) == nil {
			d.blank()
			d.step("Cleaned up: servers, processes and files are gone", time.Since(began))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}
