// Package demo tells the whole story of a migration on this machine: two
// throw-away servers, a shop under load on the first, pgbaton moving it to the
// second, and the proof that no order was lost.
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
	PostgresDir string // holds MAJOR/bin; empty looks in the usual places, see cluster.FindBinDir
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
	password       string // of the role shop, on both servers
	front          *front
	crowd          *crowd
}

// Run performs the demo. When it returns, servers, storefront, shoppers and
// files are gone, whatever happened: SIGINT and SIGTERM end it early, and so
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
	for _, act := range []func(context.Context) error{
		d.startServers,
		d.loadShop,
		d.openShop,
		d.letShoppersIn,
		d.check,
		d.start,
		d.status,
		d.switchover,
		d.status,
		d.showNewServer,
		d.prove,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	if d.Keep {
		d.conclude()
		return d.keep(ctx)
	}
	if err := d.finish(ctx); err != nil {
		return err
	}
	d.conclude()
	return nil
}

// cleanUp removes all that perform has made so far.
func (d *demo) cleanUp() error {
	began := time.Now()
	var errs []error
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
			d.step("Cleaned up: servers, storefront and files are gone", time.Since(began))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}
