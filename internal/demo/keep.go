package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/demo/shop"
)

// auditTimeout bounds the last look at what the user may have broken.
const auditTimeout = 15 * time.Second

// keep leaves all running, with a few shoppers, until ctx ends; then it holds
// their receipts against the database that the shop is at by then.
func (d *demo) keep(ctx context.Context) error {
	d.crowd = newCrowd(ctx, shop.ShopperOptions{
		URL: d.front.url, Shoppers: keptShoppers, Rate: keptOrdersPerSec, Counters: &shop.Counters{},
	})
	d.explainKept()
	<-ctx.Done()

	d.chapter("Stopping")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	ledger, err := d.crowd.stop()
	if errors.Is(err, context.Canceled) {
		return nil // before they had even looked around
	}
	if err != nil {
		return err
	}
	url, err := d.front.databaseURL()
	if err != nil {
		return err
	}
	var audit shop.AuditReport
	err = queryPooled(ctx, url, func(conn *pgx.Conn) error {
		audit, err = shop.Audit(ctx, conn, ledger)
		return err
	})
	if err != nil {
		return fmt.Errorf("look at the shop once more: %w", err)
	}
	all, failed := requests(d.crowd.counters)
	if !audit.OK() {
		return fmt.Errorf("the shop's database, by way of %s, does not hold what the shoppers were told since: %s", hostOf(url), faults(audit))
	}
	d.say("%s since, each of them there exactly once; %d of %s requests failed.",
		plural(audit.Acknowledged, "order", "orders"), failed, count(all))
	return nil
}

func (d *demo) explainKept() {
	d.chapter("All of it stays until you press Ctrl-C, with an order now and then.")
	d.fact("shop", "%s", d.report.ShopURL)
	d.fact("its admin page", "%sadmin", d.report.ShopURL)
	d.fact("settings and log", "%s, %s", d.front.path, d.front.log.Name())
	if d.pooler != nil {
		d.fact("PgBouncer's settings", "%s", d.pooler.IniPath())
	}
	d.fact("the source's log", "%s", d.source.LogFile())
	d.fact("the target's log", "%s", d.target.LogFile())
	d.fact("psql, source", "%s", shellWord(adminURL(d.source)))
	d.fact("psql, target", "%s", shellWord(adminURL(d.target)))
	d.fact("shoppers' receipts", "%s", filepath.Join(d.dir, "shoppers"))
	d.blank()
	d.say("Go on in another terminal: go back, forth again, and finish.")
	lines := []string{
		"export PGBATON_SOURCE=" + shellWord(adminURL(d.source)),
		"export PGBATON_TARGET=" + shellWord(adminURL(d.target)),
	}
	if d.pooler != nil {
		lines = append(lines, "export PGBATON_PGBOUNCER="+shellWord(d.pooler.AdminURI()))
	}
	for _, command := range [][]string{{"status"}, d.handoverCommand("rollback"), d.handoverCommand("switchover"), {"finish"}} {
		lines = append(lines, shellWords(append([]string{d.Executable}, command...)))
	}
	d.verbatim(strings.Join(lines, "\n"))
}
