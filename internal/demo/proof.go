package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/demo/shop"
	"pgbaton/internal/postgres"
)

// prove ends the shopping, and holds what shoppers were told against what the
// target has, which is where the shop has moved to in the end.
func (d *demo) prove(ctx context.Context) error {
	d.chapter("Is every order there, once? The shoppers leave, and their receipts are counted.")
	began := time.Now()
	ledger, err := d.crowd.stop()
	if err != nil {
		return err
	}
	d.endStay(postgres.Target)
	r := &d.report
	r.Requests, r.FailedRequests = requests(d.crowd.counters)
	audit, err := d.audit(ctx, ledger, d.shopURL(d.target))
	if err != nil {
		return err
	}
	r.OrdersAcknowledged, r.OrdersFound, r.AuditOK = audit.Acknowledged, audit.Found, audit.OK()
	d.step(fmt.Sprintf("%s, of which %s are on PostgreSQL %s exactly once",
		plural(r.OrdersAcknowledged, "receipt", "receipts"), count(r.OrdersFound), r.To), time.Since(began))
	if !r.AuditOK {
		return fmt.Errorf("the target does not hold what the shoppers were told: %s", faults(audit))
	}
	d.say("None missing, doubled, altered or invented. Requests: %s, failed: %d.", count(r.Requests), r.FailedRequests)
	d.say("Taken by PostgreSQL %s.", strings.Join(d.stays(), ", "))
	return d.compareCounts(ctx)
}

// stays tells who took the orders, as "12.22: 70".
func (d *demo) stays() (all []string) {
	for _, s := range d.report.Stays {
		all = append(all, fmt.Sprintf("%s: %s", s.Version, count(s.Orders)))
	}
	return all
}

func (d *demo) audit(ctx context.Context, ledger *shop.Ledger, url string) (report shop.AuditReport, err error) {
	err = query(ctx, url, func(conn *pgx.Conn) error {
		report, err = shop.Audit(ctx, conn, ledger)
		return err
	})
	return report, err
}

// faults names what an audit found.
func faults(r shop.AuditReport) string {
	var all []string
	for _, f := range []struct {
		what string
		n    int
	}{
		{"missing", len(r.Missing)},
		{"altered", len(r.Altered)},
		{"doubled", len(r.Doubled)},
		{"there although the shop denied it", len(r.Denied)},
		{"invented", len(r.Invented)},
		{"with a number that is there twice", len(r.DuplicateNumbers)},
		{"that do not add up", len(r.Unbalanced)},
	} {
		if f.n > 0 {
			all = append(all, fmt.Sprintf("%d orders %s", f.n, f.what))
		}
	}
	return strings.Join(all, ", ")
}

// compareCounts shows that the source, which takes no orders any more, has heard
// of all of them: that is the way back.
func (d *demo) compareCounts(ctx context.Context) (err error) {
	r := &d.report
	if r.OrdersOnTarget, err = countOrders(ctx, adminURL(d.target)); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, ordersTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if r.OrdersOnSource, err = countOrders(ctx, adminURL(d.source)); err != nil {
			return err
		}
		if r.OrdersOnSource == r.OrdersOnTarget {
			break
		}
		select {
		case <-tick.C:
		case <-waiting.Done():
			return fmt.Errorf("the target has %s orders, and the source, which should follow it, %s: %w",
				count(r.OrdersOnTarget), count(r.OrdersOnSource), waiting.Err())
		}
	}
	d.say("All orders on the target: %s; on the source, which follows: %s.",
		count(r.OrdersOnTarget), count(r.OrdersOnSource))
	return nil
}

func countOrders(ctx context.Context, url string) (n int64, err error) {
	err = query(ctx, url, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT count(*) FROM shop.orders`).Scan(&n)
	})
	return n, err
}
