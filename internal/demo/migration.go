package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"pgbaton/internal/event"
)

func (d *demo) check(ctx context.Context) error {
	d.chapter("Is everything as a migration needs it? Nothing is changed by asking.")
	where := "PGBATON_SOURCE and PGBATON_TARGET"
	if d.pooler != nil {
		where = "PGBATON_SOURCE, PGBATON_TARGET and PGBATON_PGBOUNCER"
	}
	d.say("pgbaton finds its way by %s.", where)
	return d.grep(ctx, "^[^ ]", "check")
}

// start copies the database while the shop sells, and leaves replication on.
func (d *demo) start(ctx context.Context) error {
	d.chapter("Copy everything to the target, and follow the source from there")
	before := d.crowd.counters.Acknowledged.Load()
	var result struct {
		BytesCopied    int64   `json:"bytes_copied"`
		TablesCopied   int     `json:"tables_copied"`
		Seconds        float64 `json:"seconds"`
		BytesPerSecond float64 `json:"bytes_per_second"`
	}
	var short brief
	err := d.narrate(ctx, []string{"start"}, func(kind string, line []byte) { d.tellStart(kind, line, &short) }, &result)
	if err != nil {
		return err
	}
	if short.steps > 0 {
		d.step(fmt.Sprintf("  and %s", plural(short.steps, "shorter step", "shorter steps")), short.took)
	}
	r := &d.report
	r.OrdersDuringStart = d.crowd.counters.Acknowledged.Load() - before
	r.BytesCopied, r.TablesCopied = result.BytesCopied, result.TablesCopied
	r.StartSeconds, r.BytesPerSecond = result.Seconds, result.BytesPerSecond
	d.step(fmt.Sprintf("In all: %s, %s; the shop took %s meanwhile", plural(r.TablesCopied, "table", "tables"),
		megabytes(float64(r.BytesCopied)), plural(r.OrdersDuringStart, "order", "orders")), seconds(r.StartSeconds))
	return nil
}

// brief sums up what is not worth a line.
type brief struct {
	steps int
	took  time.Duration
}

// worthALine is how long a step of start takes to be told of.
const worthALine = 200 * time.Millisecond

func (d *demo) tellStart(kind string, line []byte, short *brief) {
	if kind != (event.StepEnded{}.Type()) {
		d.tell(kind, line)
		return
	}
	e := decode[event.StepEnded](line)
	took := seconds(e.Seconds)
	if took < worthALine {
		short.steps++
		short.took += took
		return
	}
	d.step("  "+e.Step, took)
}

// tell is what every command may have to say.
func (d *demo) tell(kind string, line []byte) {
	switch kind {
	case event.Warning{}.Type():
		e := decode[event.Warning](line)
		d.say("  warning: %s", strings.TrimPrefix(string(e.Side)+": "+e.Text, ": "))
	case event.PhaseUndone{}.Type():
		d.say("  undone: %s", decode[event.PhaseUndone](line).Phase)
	}
}

// decode reads an event; of one that it cannot read it has the zero value.
func decode[E event.Event](line []byte) (e E) {
	_ = json.Unmarshal(line, &e)
	return e
}

// status shows where the baton is, and how far the side without it is behind.
func (d *demo) status(ctx context.Context) error {
	return d.grep(ctx, "has the baton|^lag|^stream|^way back", "status")
}

func (d *demo) rehearse(ctx context.Context) error {
	return d.grep(ctx, "would pause", "rehearse")
}

// tellReport shows what the two databases remember of it.
func (d *demo) tellReport(ctx context.Context) error {
	d.chapter("What the databases themselves remember of it")
	return d.grep(ctx, "^. [0-9]", "report")
}

func (d *demo) finish(ctx context.Context) error {
	d.chapter("Done for good: remove what pgbaton made on both servers.")
	var result struct {
		Removed []string `json:"removed"`
		Fenced  string   `json:"fenced"`
	}
	began := time.Now()
	if err := d.narrate(ctx, []string{"finish", "--yes"}, d.tell, &result); err != nil {
		return err
	}
	what := fmt.Sprintf("  %s removed", plural(len(result.Removed), "thing", "things"))
	if result.Fenced != "" {
		what += fmt.Sprintf("; the %s stays fenced, and it tells how to open it", result.Fenced)
	}
	d.step(what, time.Since(began))
	return nil
}
