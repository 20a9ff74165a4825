package shop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"pgbaton/internal/routine"
)

// ShopperOptions say who shops where, how fast and for how long.
type ShopperOptions struct {
	URL   string // of a storefront; the shoppers speak HTTP
	Store *Store // instead of URL: the shoppers go straight to its database

	Shoppers  int           // how many at a time; 0 means 8
	Rate      float64       // orders per second, all shoppers together; 0 is as fast as it goes
	Duration  time.Duration // 0 is until the context ends
	MaxOrders int64         // 0 is no limit

	Timeout  time.Duration // of one request; 0 means 30 s
	LogDir   string        // existing directory for one log per shopper; empty keeps none
	Counters *Counters     // to be watched meanwhile; nil keeps them private
	Logger   *slog.Logger  // hears of every request that failed; nil hears nothing
}

// Counters can be read while shoppers run.
type Counters struct {
	Acknowledged atomic.Int64 // orders with a receipt
	Failed       atomic.Int64 // orders that the shop said it did not place
	Unknown      atomic.Int64 // orders without a usable answer
	Pages        atomic.Int64 // pages read
	PagesFailed  atomic.Int64 // pages that could not be read

	maxLatency atomic.Int64
	maxWait    atomic.Int64
}

// MaxLatency is the longest that an order took since the last reset.
func (c *Counters) MaxLatency() time.Duration { return time.Duration(c.maxLatency.Load()) }

// ResetMaxLatency returns the longest latency and starts over.
func (c *Counters) ResetMaxLatency() time.Duration { return time.Duration(c.maxLatency.Swap(0)) }

// ResetMaxWait returns the longest that a shopper waited for an answer, to an
// order or to a page, since the last reset, and starts over.
func (c *Counters) ResetMaxWait() time.Duration { return time.Duration(c.maxWait.Swap(0)) }

func (c *Counters) waited(d time.Duration) { raise(&c.maxWait, d) }

func raise(most *atomic.Int64, d time.Duration) {
	for seen := most.Load(); int64(d) > seen; seen = most.Load() {
		if most.CompareAndSwap(seen, int64(d)) {
			return
		}
	}
}

func (c *Counters) count(outcome Outcome, latency time.Duration) {
	switch outcome {
	case Acknowledged:
		c.Acknowledged.Add(1)
	case Failed:
		c.Failed.Add(1)
	default:
		c.Unknown.Add(1)
	}
	raise(&c.maxLatency, latency)
	c.waited(latency)
}

// A counterpart is where a shopper shops.
type counterpart interface {
	offers(ctx context.Context) ([]offer, error)
	browse(ctx context.Context, slug string) (pages int, err error)
	PlaceOrder(ctx context.Context, order Order) (Receipt, error)
}

// RunShoppers lets shoppers browse and order until the context ends, the
// duration is over or there are orders enough. It returns when every shopper
// has had an answer, or a timeout, for its last order: the ledger is complete.
// Orders that fail are in the ledger and are no error.
func RunShoppers(ctx context.Context, options ShopperOptions) (*Ledger, error) {
	if options.Shoppers == 0 {
		options.Shoppers = 8
	}
	if options.Timeout == 0 {
		options.Timeout = 30 * time.Second
	}
	if options.Counters == nil {
		options.Counters = &Counters{}
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	var where counterpart
	switch {
	case options.URL != "" && options.Store == nil:
		front := newStorefront(options.URL, options.Shoppers, options.Counters.waited)
		defer front.client.CloseIdleConnections()
		where = front
	case options.Store != nil && options.URL == "":
		where = direct{options.Store}
	default:
		return nil, errors.New("shop: shoppers need a URL or a store, and not both")
	}
	offers, err := where.offers(ctx)
	if err != nil {
		return nil, fmt.Errorf("shop: list products: %w", err)
	}
	if len(offers) == 0 {
		return nil, errors.New("shop: there is nothing to buy")
	}
	if options.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, options.Duration)
		defer cancel()
	}

	// A name of its own tells the orders of this run from those of others.
	run := "run-" + newToken()[:8]
	crowd := &crowd{ShopperOptions: options, where: where, offers: offers, pace: &pace{rate: options.Rate}}
	shoppers := make([]*shopper, options.Shoppers)
	for i := range shoppers {
		log, err := openLog(options.LogDir, i+1)
		if err != nil {
			closeLogs(shoppers[:i])
			return nil, err
		}
		shoppers[i] = &shopper{
			crowd: crowd,
			name:  fmt.Sprintf("%s/%03d", run, i+1),
			log:   log,
			dice:  rand.New(rand.NewPCG(1, uint64(i))),
		}
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(shoppers))
	var running routine.Group
	for i, s := range shoppers {
		running.Go(func() error {
			if errs[i] = s.shop(ctx); errs[i] != nil {
				stop() // without its log a shopper proves nothing
			}
			return nil
		})
	}
	_ = running.Wait() // errs has them

	ledger := &Ledger{}
	for _, s := range shoppers {
		ledger.Shoppers = append(ledger.Shoppers, s.name)
		ledger.Entries = append(ledger.Entries, s.log.entries...)
	}
	return ledger, errors.Join(append(errs, closeLogs(shoppers))...)
}

func closeLogs(shoppers []*shopper) error {
	var errs []error
	for _, s := range shoppers {
		errs = append(errs, s.log.close())
	}
	return errors.Join(errs...)
}

// A crowd is what all shoppers of a run share.
type crowd struct {
	ShopperOptions
	where   counterpart
	offers  []offer
	pace    *pace
	started atomic.Int64 // orders
}

type shopper struct {
	*crowd
	name string
	log  *shopperLog
	dice *rand.Rand
}

// shop returns an error only when the log cannot be written.
func (s *shopper) shop(ctx context.Context) error {
	for s.pace.wait(ctx) {
		if n := s.started.Add(1); s.MaxOrders > 0 && n > s.MaxOrders {
			return nil
		}
		if err := s.buy(ctx); err != nil {
			return err
		}
	}
	return nil
}

// buy looks at a product and orders it, and perhaps a second one.
func (s *shopper) buy(ctx context.Context) error {
	// The end of the run must not cut off a request: an order whose answer
	// nobody waited for would be of unknown outcome for no good reason.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Timeout)
	defer cancel()

	first := s.offers[s.dice.IntN(len(s.offers))]
	pages, err := s.where.browse(ctx, first.ProductSlug)
	s.Counters.Pages.Add(int64(pages))
	if err != nil {
		s.Counters.PagesFailed.Add(1)
		s.Logger.Warn("page failed", "shopper", s.name, "error", err)
	}
	lines := []Line{{first.VariantID, 1 + s.dice.Int32N(2)}}
	if second := s.offers[s.dice.IntN(len(s.offers))]; s.dice.IntN(2) == 0 {
		lines = append(lines, Line{second.VariantID, 1})
	}

	entry := Entry{Shopper: s.name, Token: newToken(), At: time.Now()}
	if err := s.log.sent(entry); err != nil {
		return err
	}
	receipt, err := s.where.PlaceOrder(ctx, Order{
		Token: entry.Token, Shopper: s.name, Customer: s.customer(), Lines: lines,
	})
	entry.Latency = time.Since(entry.At)
	switch {
	case err == nil:
		entry.Outcome, entry.Number, entry.TotalCents = Acknowledged, receipt.Number, receipt.TotalCents
	case notPlaced(err):
		entry.Outcome, entry.Error = Failed, err.Error()
	default:
		entry.Outcome, entry.Error = Unknown, err.Error()
	}
	s.Counters.count(entry.Outcome, entry.Latency)
	if err != nil {
		s.Logger.Warn("order without receipt", "shopper", s.name, "token", entry.Token, "outcome", entry.Outcome, "error", err)
	}
	return s.log.done(entry)
}

// notPlaced tells an error that promises that there is no order from all
// others.
func notPlaced(err error) bool {
	var request *requestError
	return !errors.Is(err, ErrOutcomeUnknown) && (errors.Is(err, ErrUnavailable) || errors.As(err, &request))
}

func (s *shopper) customer() Customer {
	return Customer{
		Name: "Shopper " + s.name[len(s.name)-3:], Email: s.name + "@shoppers.example",
		Street: "Loop 1", Postcode: "00001", City: "Testville", Country: "Nowhere",
	}
}

// pace hands out moments to start an order at, evenly spaced over all
// shoppers. After a standstill it goes on as before: no burst makes up for it.
type pace struct {
	rate float64

	mu   sync.Mutex
	next time.Time
}

// wait returns false when the run is over.
func (p *pace) wait(ctx context.Context) bool {
	if p.rate <= 0 {
		return ctx.Err() == nil
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	start := p.next
	p.next = p.next.Add(time.Duration(float64(time.Second) / p.rate))
	p.mu.Unlock()

	select {
	case <-time.After(time.Until(start)):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// direct shoppers use the database of a store without its website.
type direct struct{ *Store }

func (d direct) browse(ctx context.Context, slug string) (int, error) { return 0, nil }
