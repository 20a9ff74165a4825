// Package ui renders events and reports. Its rules:
//
//   - Results go to standard output; what happens on the way goes to standard
//     error, so that a pipe gets the result alone. With --json everything goes to
//     standard output, one object per line, each with a type, the result last.
//   - A line says one thing. An error says what failed, on which side, then a
//     line that begins with "hint:".
//   - A terminal gets a line that is redrawn while rows are copied; anything else
//     gets a plain line every few seconds.
package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"pgbaton/internal/event"
)

// plainEvery is how often a progress line is printed where there is no terminal.
const plainEvery = 5 * time.Second

// Printer renders events as they come. Safe for concurrent use.
type Printer struct {
	out, err io.Writer
	json     bool
	terminal bool

	mu      sync.Mutex
	drawn   bool // a progress line stands on the terminal
	printed time.Time
}

// NewPrinter makes a printer; asJSON sends events to out as JSON lines.
func NewPrinter(out, err io.Writer, asJSON bool) *Printer {
	p := &Printer{out: out, err: err, json: asJSON}
	if f, ok := err.(*os.File); ok {
		p.terminal = term.IsTerminal(int(f.Fd()))
	}
	return p
}

// JSON says whether output is JSON lines.
func (p *Printer) JSON() bool { return p.json }

// Observe renders one event.
func (p *Printer) Observe(e event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json {
		p.object(e.Type(), e)
		return
	}
	if progress, ok := e.(event.Progress); ok {
		p.progress(progress)
		return
	}
	if line := describe(e); line != "" {
		p.erase()
		fmt.Fprintln(p.err, line)
	}
}

// Result prints the command's result as the last JSON object.
func (p *Printer) Result(v any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.object("result", v)
}

// Object prints one JSON object with a type.
func (p *Printer) Object(typ string, v any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.object(typ, v)
}

func (p *Printer) object(typ string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		body = []byte("{}")
	}
	head := fmt.Sprintf(`{"type":%q`, typ)
	if string(body) != "{}" {
		head += ","
	}
	fmt.Fprintf(p.out, "%s%s\n", head, body[1:])
}

// Close leaves the terminal tidy.
func (p *Printer) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

func (p *Printer) erase() {
	if p.drawn {
		fmt.Fprint(p.err, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *Printer) progress(e event.Progress) {
	line := fmt.Sprintf("  copied %s of %s in %d of %d tables, %s/s", Bytes(e.BytesCopied), Bytes(e.BytesTotal),
		e.TablesCopied, e.TablesTotal, Bytes(int64(e.BytesPerSec)))
	if e.ETASeconds > 0 {
		line += ", about " + Seconds(e.ETASeconds) + " left"
	}
	if p.terminal {
		fmt.Fprintf(p.err, "\r\x1b[K%s%s", bar(e.BytesCopied, e.BytesTotal), line)
		p.drawn = true
		return
	}
	if time.Since(p.printed) >= plainEvery {
		p.printed = time.Now()
		fmt.Fprintln(p.err, line)
	}
}

func bar(done, total int64) string {
	const width = 24
	n := width
	if total > 0 {
		n = int(min(done, total) * width / total)
	}
	return "  [" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "]"
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
	case event.Warning:
		line := "warning: "
		if e.Side != "" {
			line += e.Side + ": "
		}
		line += e.Text
		if e.Remedy != "" {
			line += "\n  hint: " + e.Remedy
		}
		return line
	case event.Forecast:
		line := fmt.Sprintf("  forecast: %s of WAL to apply at %s/s, marker round trip %.0f ms, %d tables, %d sequences, %d sessions; budget %s",
			Bytes(e.LagBytes), Bytes(int64(e.ApplyBytesPerSec)), e.RoundTripMS, e.Tables, e.Sequences, e.Sessions, Seconds(e.MaxPauseMS/1000))
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
