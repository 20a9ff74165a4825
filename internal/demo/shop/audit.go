package shop

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"
)

//go:embed sql/unbalanced_orders.sql
var unbalancedOrdersSQL string

// An AuditReport compares what shoppers were told with what a database holds.
type AuditReport struct {
	Acknowledged int // orders that shoppers hold a receipt for
	Found        int // of these, orders that are there once, with that number and total

	Missing          []Entry  // acknowledged, and not there
	Altered          []Entry  // acknowledged, and there with another number or total
	Doubled          []string // tokens that are there more than once
	Denied           []Entry  // failed, the shop had said, and yet there
	Invented         []string // numbers of orders of these shoppers that none of them sent
	DuplicateNumbers []string // order numbers that are there more than once
	Unbalanced       []string // numbers of orders whose lines or payments do not add up

	// Orders of unknown outcome: either way is right.
	UnknownPresent []Entry
	UnknownAbsent  []Entry
}

// OK is whether no order was lost, changed, doubled or invented.
func (r AuditReport) OK() bool {
	return r.Found == r.Acknowledged &&
		len(r.Missing) == 0 &&
		len(r.Altered) == 0 &&
		len(r.Doubled) == 0 &&
		len(r.Denied) == 0 &&
		len(r.Invented) == 0 &&
		len(r.DuplicateNumbers) == 0 &&
		len(r.Unbalanced) == 0
}

const (
	shoppersOrdersSQL = `
SELECT token::text, number, total_cents
FROM   shop.orders
WHERE  shopper = ANY ($1::text[])`

	duplicateNumbersSQL = `
SELECT number
FROM   shop.orders
GROUP  BY number
HAVING count(*) > 1
ORDER  BY number`
)

type foundOrder struct {
	Token      string
	Number     string
	TotalCents int64
}

// Audit holds a ledger against the database of conn, in one snapshot. The
// shoppers must have finished; orders that are not theirs are only checked for
// duplicate numbers and for sums.
func Audit(ctx context.Context, conn *pgx.Conn, ledger *Ledger) (AuditReport, error) {
	var report AuditReport
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, conn, snapshot, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, shoppersOrdersSQL, ledger.Shoppers)
		orders, err := pgx.CollectRows(rows, pgx.RowToStructByPos[foundOrder])
		if err != nil {
			return fmt.Errorf("shop: audit: read orders: %w", err)
		}
		report.compare(ledger, orders)

		rows, _ = tx.Query(ctx, duplicateNumbersSQL)
		if report.DuplicateNumbers, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return fmt.Errorf("shop: audit: find duplicate numbers: %w", err)
		}
		rows, _ = tx.Query(ctx, unbalancedOrdersSQL)
		if report.Unbalanced, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return fmt.Errorf("shop: audit: add up orders: %w", err)
		}
		return nil
	})
	return report, err
}

func (r *AuditReport) compare(ledger *Ledger, orders []foundOrder) {
	byToken := make(map[string][]foundOrder, len(orders))
	for _, order := range orders {
		byToken[order.Token] = append(byToken[order.Token], order)
	}
	for _, entry := range ledger.Entries {
		found := byToken[entry.Token]
		delete(byToken, entry.Token)
		if len(found) > 1 {
			r.Doubled = append(r.Doubled, entry.Token)
		}
		switch {
		case entry.Outcome == Acknowledged:
			r.Acknowledged++
			switch {
			case len(found) == 0:
				r.Missing = append(r.Missing, entry)
			case found[0].Number != entry.Number || found[0].TotalCents != entry.TotalCents:
				r.Altered = append(r.Altered, entry)
			case len(found) == 1:
				r.Found++
			}
		case entry.Outcome == Failed && len(found) > 0:
			r.Denied = append(r.Denied, entry)
		case entry.Outcome == Unknown && len(found) > 0:
			r.UnknownPresent = append(r.UnknownPresent, entry)
		case entry.Outcome == Unknown:
			r.UnknownAbsent = append(r.UnknownAbsent, entry)
		}
	}
	// What is left over has a token that nobody sent.
	for _, order := range orders {
		if _, left := byToken[order.Token]; left {
			r.Invented = append(r.Invented, order.Number)
		}
	}
}
