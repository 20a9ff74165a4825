package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"pgbaton/internal/cluster"
	"pgbaton/internal/event"
	"pgbaton/internal/handover"
	"pgbaton/internal/postgres"
)

// hookFile is the command that points the shop at the side that took over,
// whichever it is.
const hookFile = "point-shop"

// The settings are replaced as a whole, and by a file as private as they were.
const hookText = `umask 077 && cd %s &&
sed "s|@[^?]*|@$PGBATON_TO_HOST:$PGBATON_TO_PORT/$PGBATON_TO_DATABASE|" shop.env > shop.env.new &&
mv shop.env.new shop.env &&
kill -HUP %d
`

// phases explains the parts of a handover. FROM and TO are the sides.
var phases = map[string]string{
	handover.PhaseReady:     "all changes stream, nothing is in the way",
	handover.PhasePrepare:   "what can be done before anyone waits",
	handover.PhaseFence:     "the FROM takes no more writes, proven",
	handover.PhaseDrain:     "the TO has applied the very last one, proven",
	handover.PhaseSequences: "counters set exactly as they were",
	handover.PhaseWayBack:   "the way back opens: the FROM will follow the TO",
	handover.PhasePass:      "one commit: from now on the TO counts",
	handover.PhaseOpen:      "the TO takes writes",
	handover.PhaseResume:    "the shop goes on",
	handover.PhaseSettle:    "tidied up",
}

// What holds the shop back and moves it: PgBouncer, or a hook.
var (
	poolerPhases = map[string]string{
		handover.PhasePause:  "PgBouncer lets nobody begin; the clock runs",
		handover.PhaseSwitch: "PgBouncer's configuration leads to the TO",
	}
	hookPhases = map[string]string{
		handover.PhasePause:  "the clock runs: the shop may have to wait",
		handover.PhaseSwitch: "the hook points the shop at the TO",
	}
)

func (d *demo) switchover(ctx context.Context) error {
	d.chapter("Switch over. Only now does anyone wait, and not for long.")
	if d.pooler == nil {
		if err := d.writeHook(); err != nil {
			return err
		}
	}
	return d.handOver(ctx, "switchover", postgres.Target)
}

func (d *demo) rollback(ctx context.Context) error {
	d.chapter("Sell a little; then go back, with all that was sold.")
	if err := d.crowd.await(ctx, stayOrders); err != nil {
		return err
	}
	return d.handOver(ctx, "rollback", postgres.Source)
}

func (d *demo) switchAgain(ctx context.Context) error {
	d.chapter("Sell a little; then switch over again. Nothing has to be copied anew.")
	if err := d.crowd.await(ctx, stayOrders); err != nil {
		return err
	}
	return d.handOver(ctx, "switchover", postgres.Target)
}

func (d *demo) writeHook() error {
	hook := fmt.Sprintf(hookText, shellWord(d.dir), os.Getpid())
	if err := os.WriteFile(filepath.Join(d.dir, hookFile), []byte(hook), 0o600); err != nil {
		return err
	}
	d.say("The shop finds its database in a file of settings, %s,", d.front.path)
	d.say("and reads it again on SIGHUP. The hook that does this, in the file %s:", hookFile)
	d.verbatim(hook)
	return nil
}

// handoverCommand is a handover as a user types it.
func (d *demo) handoverCommand(name string) []string {
	command := []string{name, "--yes"}
	if d.pooler == nil {
		command = append(command, "--on-switch", "sh "+shellWord(filepath.Join(d.dir, hookFile)))
	}
	return command
}

// handOver gives the baton to a side, and lets the shop go on selling there.
func (d *demo) handOver(ctx context.Context, command string, to postgres.Side) error {
	counters := d.crowd.counters
	_, failedBefore := requests(counters)
	h := Handover{Command: command, To: string(to), SlowestRequestBeforeMS: event.MS(counters.ResetMaxWait())}
	counters.ResetMaxLatency()
	var result handover.Result
	tell := func(kind string, line []byte) { d.tellHandover(kind, line, to, &h) }
	if err := d.narrate(ctx, d.handoverCommand(command), tell, &result); err != nil {
		return err
	}
	if result.Baton != to {
		return fmt.Errorf("pgbaton %s succeeded, and yet the baton is with the %s", command, result.Baton)
	}
	// Whoever had to wait has waited by the time that others have been served.
	if err := d.crowd.await(ctx, proofOrders); err != nil {
		return err
	}
	_, failed := requests(counters)
	h.PauseMS, h.DatabasePauseMS, h.FailedRequests = result.PauseMS, result.DatabasePauseMS, failed-failedBefore
	h.SlowestRequestMS, h.SlowestOrderMS = event.MS(counters.ResetMaxWait()), event.MS(counters.MaxLatency())
	d.say("The pause: %.0f ms; between the databases, %.0f ms. The longest that any shopper", h.PauseMS, h.DatabasePauseMS)
	d.say("waited for a page or an order: %.0f ms (before: %.0f ms). Failed requests: %d.",
		h.SlowestRequestMS, h.SlowestRequestBeforeMS, h.FailedRequests)
	err := d.visit(ctx, to, &h)
	d.report.Handovers = append(d.report.Handovers, h)
	if err == nil && h.FailedRequests > 0 {
		err = errors.New("requests of shoppers failed around the " + command)
	}
	return err
}

func (d *demo) tellHandover(kind string, line []byte, to postgres.Side, h *Handover) {
	if kind != (event.PhaseEnded{}.Type()) {
		d.tell(kind, line)
		return
	}
	e := decode[event.PhaseEnded](line)
	h.Phases = append(h.Phases, Phase{e.Phase, e.MS})
	if e.Phase == handover.PhaseFence {
		d.endStay(to.Other()) // until the other side is open, no order can be taken
	}
	what := phases[e.Phase]
	if what == "" {
		what = hookPhases[e.Phase]
		if d.pooler != nil {
			what = poolerPhases[e.Phase]
		}
	}
	what = strings.NewReplacer("FROM", string(to.Other()), "TO", string(to)).Replace(what)
	d.step(fmt.Sprintf("  %-10s %s", e.Phase, what), millis(e.MS))
}

// endStay notes how many orders a server has taken since it took over.
func (d *demo) endStay(side postgres.Side) {
	now := d.crowd.counters.Acknowledged.Load()
	d.report.Stays = append(d.report.Stays, Stay{Side: string(side), Version: d.version(side), Orders: now - d.ordersAt})
	d.ordersAt = now
}

func (d *demo) server(side postgres.Side) *cluster.Cluster {
	if side == postgres.Source {
		return d.source
	}
	return d.target
}

func (d *demo) version(side postgres.Side) string {
	if side == postgres.Source {
		return d.report.From
	}
	return d.report.To
}
