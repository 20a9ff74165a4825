package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"pgbaton/internal/demo/shop"
	"pgbaton/internal/routine"
)

// How busy the shop is: enough to have orders in flight at any moment, and
// little enough to leave the two servers on a small machine their work.
//
// The shop stays five seconds on a side, because a server starts the worker of
// a subscription at most every wal_retrieve_retry_interval (5 s) before version
// 16: the way back of a handover that followed sooner would begin late.
const (
	shoppers      = 8
	ordersPerSec  = 40
	warmUpOrders  = 40
	proofOrders   = 40  // after a handover, before it is judged
	stayOrders    = 160 // after that, before the next
	ordersTimeout = 30 * time.Second

	keptShoppers     = 2
	keptOrdersPerSec = 2
)

// A crowd is shoppers that shop until they are stopped.
type crowd struct {
	counters *shop.Counters
	cancel   context.CancelFunc
	running  *routine.Routine

	ledger *shop.Ledger // valid after running
	err    error
}

func newCrowd(ctx context.Context, o shop.ShopperOptions) *crowd {
	ctx, cancel := context.WithCancel(ctx)
	c := &crowd{counters: o.Counters, cancel: cancel}
	c.running = routine.Start(func() { c.ledger, c.err = shop.RunShoppers(ctx, o) })
	return c
}

// stop lets every shopper have the answer to its last order, and returns what
// they know. It may be called again.
func (c *crowd) stop() (*shop.Ledger, error) {
	c.cancel()
	c.running.Wait()
	if c.err != nil {
		return nil, fmt.Errorf("shoppers: %w", c.err)
	}
	return c.ledger, nil
}

// await returns when n more orders have been acknowledged.
func (c *crowd) await(ctx context.Context, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, ordersTimeout)
	defer cancel()
	enough := c.counters.Acknowledged.Load() + n
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for c.counters.Acknowledged.Load() < enough {
		select {
		case <-tick.C:
		case <-c.running.Done():
			return fmt.Errorf("the shoppers have left: %w", errors.Join(c.err, ctx.Err()))
		case <-ctx.Done():
			return fmt.Errorf("wait for %d more orders in the shop: %w", n, ctx.Err())
		}
	}
	return nil
}

// requests is how many there were, and how many of them failed.
func requests(c *shop.Counters) (all, failed int64) {
	failed = c.Failed.Load() + c.Unknown.Load() + c.PagesFailed.Load()
	return c.Acknowledged.Load() + c.Pages.Load() + failed, failed
}

func (d *demo) letShoppersIn(ctx context.Context) error {
	began := time.Now()
	logs := filepath.Join(d.dir, "shoppers")
	if err := os.Mkdir(logs, 0o700); err != nil {
		return err
	}
	d.crowd = newCrowd(ctx, shop.ShopperOptions{
		URL: d.front.url, Shoppers: shoppers, Rate: ordersPerSec, LogDir: logs, Counters: &shop.Counters{},
	})
	if err := d.crowd.await(ctx, warmUpOrders); err != nil {
		return err
	}
	d.step(fmt.Sprintf("%d shoppers, %d orders a second; they stay until the end", shoppers, ordersPerSec), time.Since(began))
	return nil
}
