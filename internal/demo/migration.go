package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pgbaton/internal/event"
)

func (d *demo) check(ctx context.Context) error {
	d.chapter("Is everything as a migration needs it? Nothing is changed by asking.")
	return d.show(ctx, "check", "--pg-bin", d.PgBin)
}

// start copies the database while the shop sells, and leaves replication on.
func (d *demo) start(ctx context.Context) error {
	d.chapter("Copy everything to the new server, and follow the old one from there. The\nshop sells meanwhile; nobody waits.")
	before := d.crowd.counters.Acknowledged.Load()
	var result struct {
		BytesCopied    int64   `json:"bytes_copied"`
		TablesCopied   int     `json:"tables_copied"`
		Seconds        float64 `json:"seconds"`
		BytesPerSecond float64 `json:"bytes_per_second"`
	}
	err := d.narrate(ctx, []string{"start", "--pg-bin", d.PgBin}, d.tellStart, &result)
	if err != nil {
		return err
	}
	r := &d.report
	r.OrdersDuringStart = d.crowd.counters.Acknowledged.Load() - before
	r.BytesCopied, r.TablesCopied = result.BytesCopied, result.TablesCopied
	r.StartSeconds, r.BytesPerSecond = result.Seconds, result.BytesPerSecond
	d.step(fmt.Sprintf("In all: %s, %s; the shop took %s meanwhile", plural(r.TablesCopied, "table", "tables"),
		megabytes(float64(r.BytesCopied)), plural(r.OrdersDuringStart, "order", "orders")), seconds(r.StartSeconds))
	return nil
}

func (d *demo) tellStart(kind string, line []byte) {
	switch kind {
	case event.StepEnded{}.Type():
		if e := decode[event.StepEnded](line); !e.Skipped {
			d.step("  "+e.Step, seconds(e.Seconds))
		}
	default:
		d.tell(kind, line)
	}
}

// tell is what every command may have to say.
func (d *demo) tell(kind string, line []byte) {
	switch kind {
	case event.Warning{}.Type():
		e := decode[event.Warning](line)
		d.say("  warning: %s", strings.TrimPrefix(e.Side+": "+e.Text, ": "))
	case event.PhaseUndone{}.Type():
		d.say("  undone: %s", decode[event.PhaseUndone](line).Phase)
	}
}

// decode reads an event; of one that it cannot read it has the zero value.
func decode[E event.Event](line []byte) (e E) {
	_ = json.Unmarshal(line, &e)
	return e
}

func (d *demo) status(ctx context.Context) error {
	return d.show(ctx, "status")
}

// hookFile is the command that points the shop at the side that took over,
// whichever it is.
const hookFile = "point-shop"

// The settings are replaced as a whole, and by a file as private as they were.
const hookText = `umask 077 && cd %s &&
sed "s|@[^?]*|@$PGBATON_TO_HOST:$PGBATON_TO_PORT/$PGBATON_TO_DATABASE|" shop.env > shop.env.new &&
mv shop.env.new shop.env &&
kill -HUP %d
`

// hook is what --on-switch is given.
func (d *demo) hook() string { return "sh " + shellWord(filepath.Join(d.dir, hookFile)) }

// phases explains the parts of a handover to those who see their first.
var phases = map[string]string{
	"ready":     "all changes stream, nothing is in the way",
	"prepare":   "what can be done before anyone waits",
	"pause":     "the clock runs: the shop may have to wait",
	"fence":     "the old server takes no more writes, proven",
	"drain":     "the new server has applied the very last one, proven",
	"sequences": "counters set exactly as they were",
	"way back":  "the new server stops following the old one",
	"pass":      "one commit: from now on the new server counts",
	"open":      "the new server takes writes",
	"switch":    "the hook points the shop there",
	"resume":    "the shop goes on",
	"settle":    "tidied up",
}

func (d *demo) switchover(ctx context.Context) error {
	d.chapter("Switch over. Only now does anyone wait, and not for long.")
	hook := fmt.Sprintf(hookText, shellWord(d.dir), os.Getpid())
	if err := os.WriteFile(filepath.Join(d.dir, hookFile), []byte(hook), 0o600); err != nil {
		return err
	}
	d.say("The shop finds its database in a file of settings, %s,", d.front.path)
	d.say("and reads it again on SIGHUP. The hook that does this, in the file %s:", hookFile)
	d.verbatim(hook)

	counters := d.crowd.counters
	d.report.SlowestRequestBeforeMS = event.MS(d.front.resetSlowest())
	counters.ResetMaxLatency()
	var result struct {
		PauseMS float64 `json:"pause_ms"`
		Baton   string  `json:"baton"`
	}
	if err := d.narrate(ctx, []string{"switchover", "--yes", "--on-switch", d.hook()}, d.tellSwitchover, &result); err != nil {
		return err
	}
	if result.Baton != "target" {
		return fmt.Errorf("pgbaton switchover succeeded, and yet the baton is with the %s", result.Baton)
	}
	d.report.PauseMS = result.PauseMS
	// Whoever had to wait has waited by the time that others have been served.
	began := time.Now()
	if err := d.crowd.await(ctx, proofOrders); err != nil {
		return err
	}
	r := &d.report
	r.SlowestRequestMS, r.SlowestOrderMS = event.MS(d.front.resetSlowest()), event.MS(counters.MaxLatency())
	_, failed := requests(counters)
	d.step(fmt.Sprintf("%d more orders on the new server", proofOrders), time.Since(began))
	d.say("The pause: %.0f ms. Slowest page or order around it: %.0f ms (before: %.0f ms).",
		r.PauseMS, r.SlowestRequestMS, r.SlowestRequestBeforeMS)
	d.say("Failed requests: %d.", failed)
	return nil
}

func (d *demo) tellSwitchover(kind string, line []byte) {
	switch kind {
	case event.PhaseEnded{}.Type():
		e := decode[event.PhaseEnded](line)
		d.report.Phases = append(d.report.Phases, Phase{e.Phase, e.MS})
		d.step(fmt.Sprintf("  %-10s %s", e.Phase, phases[e.Phase]), millis(e.MS))
	default:
		d.tell(kind, line)
	}
}

func (d *demo) finish(ctx context.Context) error {
	d.chapter("Done for good: remove what pgbaton made on both servers.")
	return d.show(ctx, "finish", "--yes")
}
