package shop_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/demo/shop"
	"pgbaton/internal/pgtest"
)

func audit(t *testing.T, conn *pgx.Conn, ledger *shop.Ledger) shop.AuditReport {
	t.Helper()
	report, err := shop.Audit(t.Context(), conn, ledger)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestShoppersAndAudit(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 15)
	db := load(t, server, "shop", shop.Size{Orders: 300})
	store, c := open(t, db.url, shop.Options{})

	logs := t.TempDir()
	var counters shop.Counters
	ledger, err := shop.RunShoppers(t.Context(), shop.ShopperOptions{
		URL: c.url, Shoppers: 4, MaxOrders: 60, LogDir: logs, Counters: &counters,
	})
	if err != nil {
		t.Fatal(err)
	}
	report := audit(t, db.conn, ledger)
	if !report.OK() || report.Acknowledged != 60 || ledger.Count(shop.Acknowledged) != 60 {
		t.Fatalf("after an undisturbed run: %+v", report)
	}
	if counters.Acknowledged.Load() != 60 || counters.Pages.Load() != 120 || counters.PagesFailed.Load() != 0 {
		t.Errorf("counters: %d orders, %d pages, %d failed",
			counters.Acknowledged.Load(), counters.Pages.Load(), counters.PagesFailed.Load())
	}
	if wait := counters.ResetMaxWait(); wait < counters.MaxLatency() || counters.ResetMaxWait() != 0 {
		t.Error("the longest wait was not kept, or not reset")
	}
	if counters.ResetMaxLatency() == 0 || counters.MaxLatency() != 0 {
		t.Error("the longest latency was not kept, or not reset")
	}

	direct, err := shop.RunShoppers(t.Context(), shop.ShopperOptions{Store: store, Shoppers: 3, Rate: 400, MaxOrders: 30})
	if err != nil {
		t.Fatal(err)
	}
	if report := audit(t, db.conn, direct); !report.OK() || report.Acknowledged != 30 {
		t.Errorf("direct shoppers: %+v", report)
	}

	t.Run("logs", func(t *testing.T) {
		read, err := shop.ReadLedger(logs)
		if err != nil {
			t.Fatal(err)
		}
		if report := audit(t, db.conn, read); !report.OK() || report.Acknowledged != 60 {
			t.Errorf("from the files: %+v", report)
		}
		// A shopper that died between sending and hearing, in mid-line.
		name := filepath.Join(logs, "shopper-099.jsonl")
		dead := `{"shopper":"dead/001","token":"3f0c1d5e-0000-4000-8000-0000000000dd","outcome":"sent"}` + "\n" + `{"shopper":"de`
		if err := os.WriteFile(name, []byte(dead), 0o600); err != nil {
			t.Fatal(err)
		}
		if read, err = shop.ReadLedger(logs); err != nil {
			t.Fatal(err)
		}
		if report := audit(t, db.conn, read); !report.OK() || len(report.UnknownAbsent) != 1 {
			t.Errorf("with a dead shopper: %+v", report)
		}
	})

	// Each damage is done to a copy of its own.
	store.Close()
	db.conn.Close(t.Context())
	super := connect(t, server.ConnString("postgres"))
	victim := ledger.Entries[7]
	for i, damage := range []struct {
		name  string
		sql   string
		found func(shop.AuditReport) int
	}{
		{"order lost", `
			DELETE FROM shop.line_items WHERE order_id = (SELECT id FROM shop.orders WHERE token = '%[1]s');
			DELETE FROM shop.payments   WHERE order_id = (SELECT id FROM shop.orders WHERE token = '%[1]s');
			DELETE FROM shop.orders     WHERE token = '%[1]s'`,
			func(r shop.AuditReport) int { return len(r.Missing) }},
		{"order doubled", `
			ALTER TABLE shop.orders DROP CONSTRAINT orders_token_key;
			INSERT INTO shop.orders (token, shopper, user_id, address_id, total_cents)
			SELECT token, shopper, user_id, address_id, 0 FROM shop.orders WHERE token = '%[1]s'`,
			func(r shop.AuditReport) int { return len(r.Doubled) }},
		{"order invented", `
			INSERT INTO shop.orders (token, shopper, user_id, address_id, total_cents)
			SELECT '3f0c1d5e-0000-4000-8000-0000000000ee', shopper, user_id, address_id, 0 FROM shop.orders WHERE token = '%[1]s'`,
			func(r shop.AuditReport) int { return len(r.Invented) }},
		{"total changed", `
			UPDATE shop.orders SET total_cents = total_cents + 1 WHERE token = '%[1]s'`,
			func(r shop.AuditReport) int { return len(r.Altered) }},
		{"line lost", `
			DELETE FROM shop.line_items
			WHERE  id = (SELECT max(id) FROM shop.line_items WHERE order_id = (SELECT id FROM shop.orders WHERE token = '%[1]s'))`,
			func(r shop.AuditReport) int { return len(r.Unbalanced) }},
		{"payment doubled", `
			INSERT INTO shop.payments (order_id, state, amount_cents)
			SELECT id, 'captured', total_cents FROM shop.orders WHERE token = '%[1]s'`,
			func(r shop.AuditReport) int { return len(r.Unbalanced) }},
		{"number doubled", `
			ALTER TABLE shop.orders DROP CONSTRAINT orders_number_key;
			UPDATE shop.orders SET number = 'R100000001' WHERE token = '%[1]s'`,
			func(r shop.AuditReport) int { return len(r.DuplicateNumbers) }},
	} {
		t.Run(damage.name, func(t *testing.T) {
			copied := fmt.Sprintf("damaged_%d", i)
			exec(t, super, fmt.Sprintf(`CREATE DATABASE %s TEMPLATE shop OWNER shop`, copied))
			conn := connect(t, as(t, server, "shop", copied))
			if report := audit(t, conn, ledger); !report.OK() {
				t.Fatalf("before: %+v", report)
			}
			exec(t, conn, fmt.Sprintf(damage.sql, victim.Token))
			report := audit(t, conn, ledger)
			if report.OK() || damage.found(report) != 1 {
				t.Errorf("not found: %+v", report)
			}
		})
	}

	t.Run("order denied", func(t *testing.T) {
		denied := *ledger
		denied.Entries = slices.Clone(ledger.Entries)
		denied.Entries[7].Outcome = shop.Failed
		conn := connect(t, as(t, server, "shop", "shop"))
		if report := audit(t, conn, &denied); report.OK() || len(report.Denied) != 1 {
			t.Errorf("not found: %+v", report)
		}
	})
}
