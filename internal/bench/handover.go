package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"pgbaton/internal/demo/shop"
)

// handoverRun is one switchover.
type handoverRun struct {
	Load    bool    `json:"load"` // shoppers were ordering
	PauseMS float64 `json:"pause_ms"`
	Phases  []struct {
		Name string  `json:"name"`
		MS   float64 `json:"ms"`
	} `json:"phases"`
	// Of the shoppers, 0 when there were none.
	OrdersBefore    int64   `json:"orders_before,omitempty"`
	SlowestBeforeMS float64 `json:"slowest_order_before_ms,omitempty"`
	SlowestMS       float64 `json:"slowest_order_ms,omitempty"` // around the handover
	FailedOrders    int64   `json:"failed_orders"`
}

// The load of a handover: enough to have orders in flight at any moment.
const (
	shoppers     = 8
	ordersPerSec = 200
	loadOrders   = 400 // before the handover, and after it
)

// measureHandovers hands over again and again, idle and under load in turns.
func measureHandovers(ctx context.Context, o options, r *report) (err error) {
	say("handovers of a shop of %d orders …", o.handoverOrders)
	p, err := startPair(ctx, o, o.handoverOrders, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	for i := range o.handovers {
		for _, load := range []bool{false, true} {
			h, err := p.measureHandover(ctx, load)
			if err != nil {
				return err
			}
			say("  run %d, %-5s pause %6.1f ms", i+1, kind(load), h.PauseMS)
			r.Handovers = append(r.Handovers, h)
		}
	}
	return nil
}

func kind(load bool) string {
	if load {
		return "load"
	}
	return "idle"
}

// measureHandover starts afresh, hands over, and tidies up so that the source
// can be handed over once more.
func (p *pair) measureHandover(ctx context.Context, load bool) (h handoverRun, err error) {
	if _, err := p.run(ctx, nil, nil, "start", "--pg-bin", p.pgBin); err != nil {
		return h, err
	}
	if err := p.settle(ctx); err != nil {
		return h, err
	}
	handOver := func(ctx context.Context, extra ...string) error {
		_, err := p.run(ctx, &h, nil, append([]string{"switchover", "--yes"}, extra...)...)
		return err
	}
	if load {
		err = p.underLoad(ctx, &h, handOver)
	} else {
		err = handOver(ctx)
	}
	if err != nil {
		return h, err
	}
	if _, err := p.run(ctx, nil, nil, "finish", "--yes", "--unfence"); err != nil {
		return h, err
	}
	return h, p.dropTarget(ctx)
}

// underLoad lets shoppers order while the handover takes place. They use a pool
// of direct connections, which the hook --on-switch points at the target.
func (p *pair) underLoad(ctx context.Context, h *handoverRun, handOver func(context.Context, ...string) error) (err error) {
	h.Load = true
	store, err := shop.NewStore(p.source.ConnStringAs(role, "", database), shop.Options{RetryFor: 20 * time.Second, MaxConns: 10})
	if err != nil {
		return err
	}
	defer store.Close()
	switched := make(chan os.Signal, 1)
	signal.Notify(switched, syscall.SIGUSR1)
	defer signal.Stop(switched)

	ctx, cancel := context.WithCancel(ctx)
	counters := &shop.Counters{}
	var others sync.WaitGroup
	var shopErr, repointErr error
	others.Go(func() {
		_, shopErr = shop.RunShoppers(ctx, shop.ShopperOptions{Store: store, Shoppers: shoppers, Rate: ordersPerSec, Counters: counters})
		cancel()
	})
	others.Go(func() {
		select {
		case <-switched:
			repointErr = store.Repoint(p.target.ConnStringAs(role, "", database))
		case <-ctx.Done():
		}
	})
	defer func() {
		cancel()
		others.Wait()
		err = errors.Join(err, shopErr, repointErr)
	}()

	if err := await(ctx, counters, loadOrders); err != nil {
		return err
	}
	h.OrdersBefore = counters.Acknowledged.Load()
	h.SlowestBeforeMS = milliseconds(counters.ResetMaxLatency())
	if err := handOver(ctx, "--on-switch", fmt.Sprintf("kill -USR1 %d", os.Getpid())); err != nil {
		return err
	}
	// Whoever had to wait has waited by the time that others have been served.
	if err := await(ctx, counters, loadOrders); err != nil {
		return err
	}
	h.SlowestMS = milliseconds(counters.MaxLatency())
	h.FailedOrders = counters.Failed.Load() + counters.Unknown.Load()
	return nil
}

// await returns when n more orders have been acknowledged.
func await(ctx context.Context, c *shop.Counters, n int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("the shop did not take %d more orders within a minute", n))
	defer cancel()
	enough := c.Acknowledged.Load() + n
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for c.Acknowledged.Load() < enough {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
