package ui

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgbaton/internal/event"
	"pgbaton/internal/outcome"
)

const giga = 1 << 30

// onTerminal runs a test of a printer on a terminal, in time that passes at once.
func onTerminal(t *testing.T, width, height int, f func(t *testing.T, p *Printer, s *screen)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(t, width, height)
		p := NewPrinter(io.Discard, s, false)
		p.size = s.size
		f(t, p, s)
	})
}

// pass lets time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// lines is the block as it is now.
func (p *Printer) lines(width, height int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.load.lines(width-1, height)
}

func expect(t *testing.T, s *screen, lines ...string) {
	t.Helper()
	if got := s.text(); !slices.Equal(got, lines) {
		t.Errorf("the terminal shows\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}

// halfway is a load with one of everything.
func halfway() event.Progress {
	return event.Progress{TablesTotal: 20, TablesCopied: 5, BytesTotal: 4 * giga, BytesCopied: giga, BytesPerSec: 100 << 20,
		IndexesTotal: 40, IndexesBuilt: 3, ETASeconds: 200, Running: []event.Task{
			{What: "statistics", Name: `"public"."new"`, Seconds: 1},
			{What: "index", Name: `"public"."orders_i"`, Done: 43, Total: 100, Phase: "building index: scanning table", Seconds: 12},
			{What: "copy", Name: `"public"."orders"`, Done: giga / 2, Total: giga, Seconds: 61},
			{What: "key", Name: `"public"."orders_pkey"`, Phase: "initializing", Seconds: 2},
			{What: "copy", Name: `"public"."empty"`, Seconds: 0.2},
		}}
}

// TestBlock: a terminal shows totals and tasks, which are redrawn in place; what
// else happens is above, and when the step ends they are gone.
func TestBlock(t *testing.T) {
	t.Parallel()
	onTerminal(t, 130, 24, func(t *testing.T, p *Printer, s *screen) {
		p.Observe(event.StepEnded{Step: "schema", Seconds: 1})
		p.Observe(event.StepBegan{Step: "rows"})
		done := "  schema                                      1.0 s"
		expect(t, s, done)
		p.Observe(halfway())
		block := []string{
			"  [######..................]  copied 1.0 GB of 4.0 GB in 5 of 20 tables, 100.0 MB/s, indexes 3 of 40, about 3m20s left",
			`  copy        "public"."orders"       [##########..........]  512.0 MB of 1.0 GB, 1m1s`,
			`  index       "public"."orders_i"     [########............]  scanning table 43%, 12 s`,
			`  key         "public"."orders_pkey"                          initializing, 2 s`,
			`  statistics  "public"."new"                                  1 s`,
			`  copy        "public"."empty"                                0 B, 0 s`,
		}
		expect(t, s, append([]string{done}, block...)...)

		p.Observe(event.Warning{Side: "source", Text: "look", Remedy: "do\nthat"})
		past := []string{done, "warning: source: look", "  hint: do", "that"}
		expect(t, s, append(past, block...)...)
		p.Observe(event.RetainedWAL{Bytes: 2 * giga, BytesPerSec: 3 << 20, Limit: 10 * giga, LimitOf: "max_slot_wal_keep_size", SecondsLeft: 2400})
		pass(redrawEvery)
		block = append(block, "  source keeps 2.0 GB of WAL for the slot, growing 3.0 MB/s; max_slot_wal_keep_size is met in about 40m")
		expect(t, s, append(past, block...)...)

		less := halfway()
		less.Running = less.Running[:1]
		pass(time.Second)
		p.Observe(less)
		expect(t, s, append(past, block[0], `  statistics  "public"."new"                          1 s`, block[6])...)
		p.Observe(event.TableCopied{Table: "t"}) // is not told
		p.Observe(event.StepEnded{Step: "rows", Seconds: 60})
		past = append(past, "  rows                                         1m0s")
		expect(t, s, past...)

		// What is late comes to nothing, and Close takes away what is there.
		p.Observe(event.RetainedWAL{Bytes: 1})
		pass(time.Second)
		expect(t, s, past...)
		p.Observe(halfway())
		p.Close()
		p.Close()
		pass(time.Second)
		expect(t, s, past...)
	})
}

// TestPace: however often something changes, it is drawn four times a second,
// and the last change is drawn.
func TestPace(t *testing.T) {
	t.Parallel()
	onTerminal(t, 100, 24, func(t *testing.T, p *Printer, s *screen) {
		var e event.Progress
		for i := range 999 {
			e = event.Progress{TablesTotal: 1000, TablesCopied: i + 1}
			p.Observe(e)
			p.Observe(event.TableCopied{Table: "t"})
			pass(time.Millisecond)
		}
		if n := s.written(); n > 4 {
			t.Errorf("%d redraws in a second", n)
		}
		pass(redrawEvery)
		if text := s.text(); !strings.Contains(text[0], "in 999 of 1000 tables") {
			t.Errorf("the last change is missing: %q", text)
		}
		// A redraw that is due when all is over is none.
		p.Observe(e)
		p.Close()
		pass(time.Second)
		expect(t, s)
	})
}

// TestResize: a terminal that becomes narrower wraps what stands there; the next
// redraw finds all of it, and nothing but it.
func TestResize(t *testing.T) {
	t.Parallel()
	const past = "  schema                                      1.0 s"
	onTerminal(t, 130, 99, func(t *testing.T, p *Printer, s *screen) {
		p.Observe(event.StepEnded{Step: "schema", Seconds: 1})
		p.Observe(halfway())
		for _, width := range []int{70, 41, 20, 200, 60, 130, 61, 10, 80, 130} {
			s.resize(width, 99)
			pass(redrawEvery)
			p.Observe(halfway())
			lines := p.lines(width, 99)
			expect(t, s, append([]string{past}, lines...)...)
			for _, l := range lines {
				if len(l) >= width {
					t.Errorf("%d columns: too long: %q", width, l)
				}
			}
		}
		p.Close()
		expect(t, s, past)
	})
	// What a lower terminal has pushed out of view, nobody can take away; what is
	// in view is right.
	onTerminal(t, 130, 24, func(t *testing.T, p *Printer, s *screen) {
		p.Observe(event.StepEnded{Step: "schema", Seconds: 1})
		for _, size := range [][2]int{{130, 24}, {130, 9}, {130, 5}, {130, 3}, {130, 2}, {130, 1}, {3, 9}, {1, 24}, {130, 24}} {
			s.resize(size[0], size[1])
			pass(redrawEvery)
			p.Observe(event.RetainedWAL{Bytes: 1})
			p.Observe(halfway())
			pass(redrawEvery)
			lines := p.lines(size[0], size[1])
			if view := s.view(); len(lines) >= size[1] || !slices.Equal(view[max(0, len(view)-len(lines)-1):], append(lines, "")) {
				t.Errorf("%v: in view is\n%s\nnot\n%s", size, strings.Join(view, "\n"), strings.Join(lines, "\n"))
			}
		}
		if s.text()[0] != past {
			t.Errorf("what was printed is gone: %q", s.text())
		}
	})
}

// TestManyTasks: those that have run longest are shown, and how many others there
// are; the block never fills the terminal.
func TestManyTasks(t *testing.T) {
	t.Parallel()
	onTerminal(t, 80, 24, func(t *testing.T, p *Printer, s *screen) {
		e := halfway()
		e.Running = nil
		for i := range 300 {
			e.Running = append(e.Running, event.Task{What: "copy", Name: fmt.Sprintf(`"t%d"`, i), Total: giga, Seconds: float64(i)})
		}
		for range 3 {
			p.Observe(event.RetainedWAL{Bytes: giga})
			p.Observe(e)
			pass(time.Second)
		}
		text := s.text()
		if len(text) != 20 || s.top != 0 {
			t.Fatalf("%d lines, %d out of view", len(text), s.top)
		}
		if text[0] != "  [##.......]  1.0 GB/4.0 GB, 5/20 tables, 100.0 MB/s, 3/40 indexes, 3m20s left" {
			t.Errorf("totals: %q", text[0])
		}
		if !strings.Contains(text[1], `"t299"`) || !strings.Contains(text[17], `"t283"`) {
			t.Errorf("not the longest ones: %q, %q", text[1], text[17])
		}
		if text[18] != "  and 283 more" || text[19] != "  source keeps 1.0 GB of WAL for the slot" {
			t.Errorf("the end: %q", text[18:])
		}
	})
}

// TestNames: what others have named reaches the terminal harmless and in one line.
func TestNames(t *testing.T) {
	t.Parallel()
	onTerminal(t, 80, 24, func(t *testing.T, p *Printer, s *screen) {
		e := halfway()
		e.Running = []event.Task{
			{What: "copy", Name: "\"a\x1b[2J\n\tb\u202e\u009b\x7f\"", Seconds: 5},
			{What: "copy", Name: `"` + strings.Repeat("long", 100) + `_2024_05"`, Done: 1, Total: 2, Seconds: 4},
			{What: "copy", Name: `"` + strings.Repeat("表", 100) + `"`, Done: 1, Total: 2, Seconds: 3},
			{What: "copy", Name: `"e` + strings.Repeat("\u0301", 300) + `"`, Done: 1, Total: 2, Seconds: 2},
			{What: "copy", Name: "\"broken \xff\"", Done: 1, Total: 2, Seconds: 1},
		}
		p.Observe(e)
		p.Observe(event.Warning{Text: "table \"\x1b]0;owned\x07\u202e\" is odd"})
		p.Observe(event.Waiting{For: "a lock", Side: "source", Behind: []string{"application \x1b[31m"}})
		text := s.text()
		if text[0] != `warning: table "\x1b]0;owned\a\u202e" is odd` || text[2] != `    behind: application \x1b[31m` {
			t.Errorf("%q", text[:3])
		}
		if tasks := text[4:]; len(tasks) != 5 || !strings.Contains(tasks[0], `"a\x1b[2J\n\tb\u202e\u009b\x7f"`) ||
			!strings.Contains(tasks[1], `_2024_05"`) || !strings.Contains(tasks[1], `"longlo`) ||
			!strings.Contains(tasks[2], `"表表`) || !strings.Contains(tasks[2], `表"`) ||
			!strings.Contains(tasks[3], "e\u0301") || !strings.Contains(tasks[4], "\"broken \uFFFD\"") {
			t.Errorf("names: %q", tasks)
		}
		at := strings.Index(text[5], "[")
		for i, l := range s.lines[5:8] { // bars begin in one column, whatever the characters' width
			if l.cells[at] != "[" {
				t.Errorf("the bar of line %d is somewhere else: %q", i, text[4+i])
			}
		}
	})
	var plain bytes.Buffer
	NewPrinter(io.Discard, &plain, false).Observe(event.Warning{Text: "\x1b[2J"})
	if plain.String() != "warning: \\x1b[2J\n" {
		t.Errorf("in a log: %q", plain.String())
	}
}

// TestZero: nothing is known yet.
func TestZero(t *testing.T) {
	t.Parallel()
	onTerminal(t, 100, 24, func(t *testing.T, p *Printer, s *screen) {
		p.Observe(event.Progress{})
		expect(t, s, "  [........................]  copied 0 B of 0 B in 0 of 0 tables, 0 B/s")
	})
}

// TestPlain: without a terminal there is a line every few seconds, and one about
// WAL every minute, or sooner when its limit is near.
func TestPlain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := NewPrinter(io.Discard, &out, false)
		next := func() []string {
			lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
			out.Reset()
			return lines
		}
		for range 25 {
			p.Observe(halfway())
			pass(time.Second)
		}
		const line = "  copied 1.0 GB of 4.0 GB in 5 of 20 tables, 100.0 MB/s, indexes 3 of 40, about 3m20s left"
		if got := next(); !slices.Equal(got, slices.Repeat([]string{line}, 5)) {
			t.Errorf("in 25 s: %q", got)
		}

		wal := event.RetainedWAL{Bytes: giga, BytesPerSec: 1 << 20}
		for range 130 {
			p.Observe(wal)
			pass(time.Second)
		}
		const quiet = "  source keeps 1.0 GB of WAL for the slot, growing 1.0 MB/s"
		if got := next(); !slices.Equal(got, []string{quiet, quiet}) {
			t.Errorf("in 130 s: %q", got)
		}
		wal.Limit, wal.LimitOf, wal.SecondsLeft = 2*giga, "free disk", 700
		p.Observe(wal) // longer than the load takes
		if out.Len() > 0 {
			t.Errorf("%q", next())
		}
		late := halfway()
		late.ETASeconds = 800
		p.Observe(late)
		next()
		for range 61 {
			p.Observe(wal)
			pass(time.Second)
		}
		const near = "warning: source keeps 1.0 GB of WAL for the slot, growing 1.0 MB/s; its disk is full in about 11m"
		if got := next(); !slices.Equal(got, []string{near, near, near}) {
			t.Errorf("in 61 s: %q", got)
		}

		p.Observe(event.StepEnded{Step: "rows"})
		pass(time.Minute)
		next()
		p.Observe(event.RetainedWAL{Bytes: 3 * giga, Limit: 2 * giga, LimitOf: "--max-slot-wal"})
		p.Observe(event.RetainedWAL{Bytes: giga, BytesPerSec: 1, Limit: 2 * giga, LimitOf: "--max-slot-wal", SecondsLeft: 1e300})
		if got := next(); !slices.Equal(got, []string{"warning: source keeps 3.0 GB of WAL for the slot; --max-slot-wal is met"}) {
			t.Errorf("met: %q", got)
		}
		p.Close()
		if out.Len() > 0 {
			t.Errorf("at the end: %q", out.String())
		}
	})
}

// TestJSON: a program gets every event, as it is.
func TestJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := NewPrinter(&out, io.Discard, true)
	for range 3 {
		p.Observe(event.Progress{TablesTotal: 1, Running: []event.Task{{What: "copy", Name: "\"a\x1b\""}}})
		p.Observe(event.RetainedWAL{Bytes: 5})
	}
	p.Result(map[string]int{"n": 1}, outcome.Next{Command: "pgbaton status", Why: "so"})
	p.Close()
	const progress = `{"type":"progress","tables_total":1,"tables_copied":0,"bytes_total":0,"bytes_copied":0,"bytes_per_second":0,"indexes_total":0,"indexes_built":0,"eta_seconds":0,"running":[{"what":"copy","name":"\"a\u001b\"","done":0,"total":0,"seconds":0}]}` + "\n"
	const wal = `{"type":"retained_wal","bytes":5,"bytes_per_second":0}` + "\n"
	if expected := strings.Repeat(progress+wal, 3) + `{"type":"result","n":1,"next":{"command":"pgbaton status","why":"so"}}` + "\n"; out.String() != expected {
		t.Errorf("got\n%s\nnot\n%s", out.String(), expected)
	}
}
