package ui

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgbaton/internal/event"
	"pgbaton/internal/phrase"
)

const (
	redrawEvery = 250 * time.Millisecond
	plainEvery  = 5 * time.Second  // a progress line where there is no terminal
	walEvery    = time.Minute      // a line about WAL there
	warnEvery   = 30 * time.Second // the same when a limit is near
	walNear     = 10 * time.Minute // what is near, whenever the load ends
)

// load is what is known of a load that goes on.
type load struct {
	progress *event.Progress
	wal      *event.RetainedWAL
}

// block is what stands on the terminal: lines, and the cursor at the beginning of
// the line below, from where a terminal that has become narrower and wrapped them
// can still be told how far up they begin.
type block struct {
	widths []int // of the lines
	drawn  time.Time
	timer  *time.Timer // set while a redraw is due
}

// said is when something was last printed where there is no terminal.
type said struct{ progress, wal, warning time.Time }

func (p *Printer) showProgress() {
	if p.size != nil {
		p.redrawSoon()
		return
	}
	if time.Since(p.said.progress) >= plainEvery {
		p.said.progress = time.Now()
		fmt.Fprintf(p.err, "  %s\n", totals(p.load.progress))
	}
}

func (p *Printer) showWAL() {
	if p.size != nil {
		p.redrawSoon()
		return
	}
	now := time.Now()
	if p.said.wal.IsZero() { // most loads end before there is something to say
		p.said.wal = now
	}
	switch near := p.load.walNear(); {
	case near && now.Sub(p.said.warning) >= warnEvery:
		p.said.warning, p.said.wal = now, now
		fmt.Fprintf(p.err, "warning: %s\n", walLine(p.load.wal))
	case !near && now.Sub(p.said.wal) >= walEvery:
		p.said.wal = now
		fmt.Fprintf(p.err, "  %s\n", walLine(p.load.wal))
	}
}

// redrawSoon redraws now or, if that was done a moment ago, when it is time.
func (p *Printer) redrawSoon() {
	wait := redrawEvery - time.Since(p.block.drawn)
	if wait <= 0 {
		p.redraw("")
		return
	}
	if p.block.timer == nil {
		p.block.timer = time.AfterFunc(wait, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.load.progress != nil {
				p.redraw("")
			}
		})
	}
}

// redraw prints text, if there is any, where the block stands, and the block as
// it is now below. It is one write, so that nobody sees the moment between.
func (p *Printer) redraw(text string) {
	if p.block.timer != nil {
		p.block.timer.Stop()
		p.block.timer = nil
	}
	width, height := p.size()
	lines := p.load.lines(width-1, height) // the last column would make some terminals wrap
	if text == "" && len(lines)+len(p.block.widths) == 0 {
		return
	}
	var b strings.Builder
	if rows := p.block.rows(width); rows > 0 {
		// Row by row: to clear the screen from its top would push it into the history.
		b.WriteString("\r" + strings.Repeat("\x1b[A\x1b[2K", rows))
	}
	if text != "" {
		b.WriteString(text + "\n")
	}
	p.block.widths = p.block.widths[:0]
	for _, line := range lines {
		b.WriteString(line + "\n")
		p.block.widths = append(p.block.widths, textWidth(line))
	}
	b.WriteString("\x1b[J")
	if len(lines) > 0 {
		p.block.drawn = time.Now()
	}
	fmt.Fprint(p.err, b.String())
}

// rows is how many the block takes on a terminal of a width, which may be less
// than when it was drawn.
func (b *block) rows(width int) (n int) {
	for _, w := range b.widths {
		n += max(1, (w+width-1)/width)
	}
	return n
}

// lines are the block for a terminal: totals, what runs, WAL.
func (l *load) lines(width, height int) (lines []string) {
	const above = 3 // lines of the past that stay in view
	if l.progress == nil || width < 1 || height < 2 {
		return nil
	}
	lines = append(lines, totalsWithBar(l.progress, width))
	wal := ""
	if l.wal != nil && height > 2 {
		wal = "  " + walLine(l.wal)
		if l.walNear() {
			wal = "warning: " + walLine(l.wal)
		}
	}
	room := height - above - len(lines) - 1 // the cursor has a line of its own
	if wal != "" {
		room--
	}
	tasks := slices.Clone(l.progress.Running)
	slices.SortStableFunc(tasks, func(a, b event.Task) int {
		return cmp.Or(cmp.Compare(b.Seconds, a.Seconds), cmp.Compare(b.Total, a.Total), cmp.Compare(a.Name, b.Name))
	})
	more := 0
	if len(tasks) > room {
		more = len(tasks) - max(0, room-1)
		tasks = tasks[:len(tasks)-more]
	}
	lines = append(lines, taskLines(tasks, width)...)
	if more > 0 && room > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", more))
	}
	if wal != "" {
		lines = append(lines, wal)
	}
	for i := range lines {
		lines[i] = cut(lines[i], width)
	}
	return lines
}

// totals says how far a load is.
func totals(e *event.Progress) string {
	text := fmt.Sprintf("copied %s of %s in %s, %s/s", Bytes(e.BytesCopied), Bytes(e.BytesTotal),
		phrase.Of(e.TablesCopied, e.TablesTotal, "table"), Bytes(int64(e.BytesPerSec)))
	if e.IndexesTotal > 0 {
		text += fmt.Sprintf(", indexes %d of %d", e.IndexesBuilt, e.IndexesTotal)
	}
	if e.ETASeconds > 0 {
		text += ", about " + phrase.Roughly(e.ETASeconds) + " left"
	}
	return text
}

// totalsWithBar is totals in fewer words where a bar would not fit otherwise.
func totalsWithBar(e *event.Progress, width int) string {
	const indent, least, most = 2, 6, 24
	text := totals(e)
	if indent+most/2+4+textWidth(text) > width {
		text = fmt.Sprintf("%s/%s, %d/%s, %s/s", Bytes(e.BytesCopied), Bytes(e.BytesTotal),
			e.TablesCopied, phrase.Count(e.TablesTotal, "table"), Bytes(int64(e.BytesPerSec)))
		if e.IndexesTotal > 0 {
			text += fmt.Sprintf(", %d/%s", e.IndexesBuilt, phrase.Count(e.IndexesTotal, "index"))
		}
		if e.ETASeconds > 0 {
			text += ", " + phrase.Roughly(e.ETASeconds) + " left"
		}
	}
	room := min(most, width-indent-4-textWidth(text))
	if room < least {
		return "  " + text
	}
	return "  " + bar(e.BytesCopied, e.BytesTotal, room) + "  " + text
}

// taskLines are tasks as a table: what, name, bar, how far.
func taskLines(tasks []event.Task, width int) []string {
	barWidth := 20
	switch {
	case width < 60:
		barWidth = 0
	case width < 100:
		barWidth = 10
	}
	what, longest, far := 0, 0, 0
	names, amounts := make([]string, len(tasks)), make([]string, len(tasks))
	for i, t := range tasks {
		names[i], amounts[i] = clean(t.Name, false), amount(t)
		what, longest, far = max(what, textWidth(clean(t.What, false))), max(longest, textWidth(names[i])), max(far, textWidth(amounts[i]))
	}
	const indent, gap, leastName = 2, 2, 12
	room := width - indent - what - gap - gap - far
	if barWidth > 0 {
		room -= barWidth + 2 + gap
	}
	longest = min(longest, max(leastName, room))
	lines := make([]string, len(tasks))
	for i, t := range tasks {
		lines[i] = fmt.Sprintf("  %s  %s  ", pad(clean(t.What, false), what), pad(cutMiddle(names[i], longest), longest))
		if barWidth > 0 {
			lines[i] += barOf(t, barWidth) + "  "
		}
		lines[i] += amounts[i]
	}
	return lines
}

// barOf is a task's bar, or room for one: of many nobody knows how much they are.
func barOf(t event.Task, width int) string {
	if t.Total <= 0 {
		return strings.Repeat(" ", width+2)
	}
	return bar(t.Done, t.Total, width)
}

// amount says in words how far a task is.
func amount(t event.Task) string {
	var parts []string
	switch {
	case t.What == "copy" && t.Total > 0:
		parts = append(parts, Bytes(t.Done)+" of "+Bytes(t.Total))
	case t.What == "copy":
		parts = append(parts, Bytes(t.Done))
	default:
		phase := clean(strings.TrimPrefix(t.Phase, "building index: "), false)
		if t.Total > 0 {
			phase = strings.TrimSpace(fmt.Sprintf("%s %d%%", phase, int(100*fraction(t.Done, t.Total))))
		}
		if phase != "" {
			parts = append(parts, phase)
		}
	}
	return strings.Join(append(parts, phrase.Roughly(t.Seconds)), ", ")
}

// walNear says whether the limit of what the source keeps is met before the load
// ends, or soon.
func (l *load) walNear() bool {
	e := l.wal
	switch {
	case e == nil || e.Limit <= 0:
		return false
	case e.Bytes >= e.Limit:
		return true
	case e.SecondsLeft <= 0:
		return false
	}
	return e.SecondsLeft < walNear.Seconds() || l.progress != nil && e.SecondsLeft < l.progress.ETASeconds
}

func walLine(e *event.RetainedWAL) string {
	text := fmt.Sprintf("source keeps %s of WAL for the slot", Bytes(e.Bytes))
	if e.BytesPerSec > 0 {
		text += fmt.Sprintf(", growing %s/s", Bytes(int64(e.BytesPerSec)))
	}
	limit := clean(e.LimitOf, false) + " is met"
	if e.LimitOf == "free disk" {
		limit = "its disk is full"
	}
	switch {
	case e.Limit > 0 && e.Bytes >= e.Limit:
		text += "; " + limit
	case e.Limit > 0 && e.SecondsLeft > 0:
		text += "; " + limit + " in about " + phrase.Roughly(e.SecondsLeft)
	}
	return text
}

func fraction(done, total int64) float64 {
	if total <= 0 {
		return 0
	}
	return min(1, max(0, float64(done)/float64(total)))
}

func bar(done, total int64, width int) string {
	n := int(fraction(done, total) * float64(width))
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "]"
}
