// Package ui renders events and reports. Its rules:
//
//   - Results go to standard output; what happens on the way goes to standard
//     error, so that a pipe gets the result alone. With --json everything goes to
//     standard output, one object per line, each with a type, the result last.
//   - A line says one thing. An error says what failed, on which side, then a
//     line that begins with "hint:".
//   - A terminal gets lines that are redrawn in place while a database is loaded;
//     anything else gets a plain line every few seconds.
//   - Names are other people's: no control character of theirs reaches a terminal.
package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"pgbaton/internal/event"
	"pgbaton/internal/outcome"
	"pgbaton/internal/phrase"
)

// Printer renders events as they come. Safe for concurrent use.
type Printer struct {
	out, err io.Writer
	json     bool
	size     func() (width, height int) // of the terminal; nil: there is none

	mu    sync.Mutex
	last  string // what was last said of steps and phases
	load  load   // that goes on
	block block  // how the terminal shows it
	said  said   // of it, where there is no terminal
}

// NewPrinter makes a printer; asJSON sends events to out as JSON lines.
func NewPrinter(out, err io.Writer, asJSON bool) *Printer {
	p := &Printer{out: out, err: err, json: asJSON}
	if f, ok := err.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		p.size = func() (int, int) {
			width, height, err := term.GetSize(int(f.Fd()))
			if err != nil || width <= 0 || height <= 0 { // a serial line may not know
				return 80, 24
			}
			return width, height
		}
	}
	return p
}

// JSON says whether output is JSON lines.
func (p *Printer) JSON() bool { return p.json }

// Observe renders one event.
func (p *Printer) Observe(e event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := e.(type) {
	case event.StepBegan:
		p.last = fmt.Sprintf("step %q", e.Step)
	case event.PhaseEnded:
		p.last = fmt.Sprintf("what comes after phase %q", e.Phase)
	case event.PhaseUndone:
		p.last = fmt.Sprintf("what comes after the undoing of phase %q", e.Phase)
	}
	if p.json {
		p.object(e.Type(), e)
		return
	}
	switch e := e.(type) {
	case event.Progress:
		p.load.progress = &e
		p.showProgress()
		return
	case event.RetainedWAL:
		p.load.wal = &e
		p.showWAL()
		return
	case event.StepBegan, event.StepEnded:
		p.load = load{} // what went on is over
	}
	switch line := clean(describe(e), true); {
	case line == "" && p.load.progress != nil: // nothing to show, nothing to take away
	case p.size != nil:
		p.redraw(line)
	case line != "":
		fmt.Fprintln(p.err, line)
	}
}

// Last says what was going on, as far as events tell: in which step, or after which
// phase of a handover; "" when nothing has begun, or p is nil.
func (p *Printer) Last() string {
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// Result prints the command's result as the last JSON object, with what to run next.
func (p *Printer) Result(v any, next outcome.Next) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.object("result", v, member{"next", next})
}

// member is one more member of an object.
type member struct {
	name  string
	value any
}

// Object prints one JSON object with a type.
func (p *Printer) Object(typ string, v any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.object(typ, v)
}

func (p *Printer) object(typ string, v any, more ...member) {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"type":%q`, typ)
	if body := marshal(v); len(body) > len("{}") {
		b.WriteByte(',')
		b.Write(body[1 : len(body)-1])
	}
	for _, m := range more {
		fmt.Fprintf(&b, `,%q:%s`, m.name, marshal(m.value))
	}
	fmt.Fprintf(p.out, "%s}\n", b.Bytes())
}

func marshal(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		return []byte("{}")
	}
	return body
}

// Close leaves the terminal tidy.
func (p *Printer) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.load = load{}
	if p.size != nil {
		p.redraw("")
	}
}

// describe is an event as a line for people, "" for none.
func describe(e event.Event) string {
	switch e := e.(type) {
	case event.StepEnded:
		if e.Skipped {
			return fmt.Sprintf("  %-40s done before", e.Step)
		}
		return fmt.Sprintf("  %-40s %8s", e.Step, Seconds(e.Seconds))
	case event.Waiting:
		line := fmt.Sprintf("  waiting on the %s for %s (%s)", e.Side, e.For, Seconds(e.Seconds))
		for _, b := range e.Behind {
			line += "\n    behind: " + b
		}
		return line
	case event.Working:
		return fmt.Sprintf("  %s: %s (%s)", e.Phase, e.Doing, Seconds(e.Seconds))
	case event.Warning:
		line := "warning: "
		if e.Side != "" {
			line += string(e.Side) + ": "
		}
		line += e.Text
		if e.Remedy != "" {
			line += "\n  hint: " + e.Remedy
		}
		return line
	case event.Forecast:
		line := fmt.Sprintf("  forecast: %s of WAL to apply at %s/s, marker round trip %.0f ms, %s, %s, %s; budget %s",
			Bytes(e.LagBytes), Bytes(int64(e.ApplyBytesPerSec)), e.RoundTripMS,
			phrase.Count(e.Tables, "table"), phrase.Count(e.Sequences, "sequence"), phrase.Count(e.Sessions, "session"), Seconds(e.MaxPauseMS/1000))
		for _, t := range e.OpenTransactions {
			line += "\n    open transaction: " + t
		}
		return line
	case event.PhaseEnded:
		return fmt.Sprintf("  %-12s %9.1f ms", e.Phase, e.MS)
	case event.PhaseUndone:
		return fmt.Sprintf("  %-12s    undone", e.Phase)
	}
	return ""
}

// Bytes prints a size as people read it.
func Bytes(n int64) string {
	const k = 1024
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	f, i := float64(n), 0
	for (f >= k || f <= -k) && i < len(units)-1 {
		f /= k
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// Seconds prints a duration as people read it.
func Seconds(s float64) string {
	switch d := time.Duration(s * float64(time.Second)); {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}
