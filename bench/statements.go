package main

import (
	"bufio"
	"cmp"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// With --statements the servers log every statement of pgbaton with its time. It
// shows what each phase consists of, and makes all of them somewhat slower.

// logSettings are for servers whose log is read.
var logSettings = map[string]string{"log_min_duration_statement": "0", "log_line_prefix": "%n [%p] %a: "}

// statement is what one statement took within a phase, on the median over the
// handovers of a direction.
type statement struct {
	Command string  `json:"command"`
	Phase   string  `json:"phase"`
	Side    string  `json:"side"`
	SQL     string  `json:"sql"`
	Calls   float64 `json:"calls"` // in one handover
	MS      float64 `json:"ms"`    // of all of them, by the server's clock
}

// spent is one statement in one handover.
type spent struct {
	calls int
	ms    float64
}

type statementKey struct{ command, phase, side, sql string }

// statementLog reads the servers' logs. One that is nil reads nothing.
type statementLog struct {
	files    map[string]string // by side
	offsets  map[string]int64
	found    map[statementKey][]spent // one for each handover of its direction
	handover map[string]int           // by command: how many were read
	order    []statementKey
}

func newStatementLog(p *pair, wanted bool) *statementLog {
	if !wanted {
		return nil
	}
	return &statementLog{files: map[string]string{"source": p.source.LogFile(), "target": p.target.LogFile()},
		offsets: map[string]int64{}, found: map[statementKey][]spent{}, handover: map[string]int{}}
}

// logLine is: epoch [pid] pgbaton: LOG:  duration: MS ms  parse|bind|execute NAME|statement: SQL
// The lines of a statement that has several follow with a tab.
var logLine = regexp.MustCompile(`(?s)^(\d+\.\d+) \[\d+\] pgbaton: LOG:  duration: ([\d.]+) ms  (parse|bind|execute|statement)[^:]*: (.*)$`)

// read takes what has been logged since the last time, by the phases of the
// handover that has just ended.
func (l *statementLog) read(h handoverRun) {
	if l == nil {
		return
	}
	n := l.handover[h.Command]
	l.handover[h.Command]++
	for _, side := range []string{"source", "target"} {
		f, err := os.Open(l.files[side])
		if err != nil {
			continue
		}
		_, _ = f.Seek(l.offsets[side], io.SeekStart)
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 16<<20)
		entry := ""
		for lines.Scan() {
			line := lines.Text()
			l.offsets[side] += int64(len(line)) + 1
			if strings.HasPrefix(line, "\t") {
				entry += " " + line
				continue
			}
			l.take(n, side, h, entry)
			entry = line
		}
		l.take(n, side, h, entry)
		f.Close()
	}
}

// take adds an entry of a log to the n-th handover of its direction. Parse and
// bind count for the statement, but are no call.
func (l *statementLog) take(n int, side string, h handoverRun, entry string) {
	m := logLine.FindStringSubmatch(entry)
	if m == nil {
		return
	}
	seconds, _ := strconv.ParseFloat(m[1], 64)
	ms, _ := strconv.ParseFloat(m[2], 64)
	phase := h.phaseAt(time.UnixMicro(int64(seconds * 1e6)).Add(time.Millisecond / 2)) // the log cuts off at milliseconds
	if phase == "" {
		return
	}
	key := statementKey{h.Command, phase, side, shorten(m[4])}
	if _, known := l.found[key]; !known {
		l.order = append(l.order, key)
	}
	for len(l.found[key]) <= n {
		l.found[key] = append(l.found[key], spent{})
	}
	s := &l.found[key][n]
	s.ms += ms
	if m[3] == "execute" || m[3] == "statement" {
		s.calls++
	}
}

var (
	space   = regexp.MustCompile(`\s+`)
	strange = regexp.MustCompile(`'[^']*'`)
)

// shorten makes statements that differ in literals alone the same.
func shorten(sql string) string {
	sql = strange.ReplaceAllString(space.ReplaceAllString(strings.TrimSpace(sql), " "), "'…'")
	if r := []rune(sql); len(r) > 110 {
		sql = string(r[:110]) + "…"
	}
	return sql
}

// summary lists the statements, by direction and phase the longest first.
func (l *statementLog) summary() (all []statement) {
	if l == nil {
		return nil
	}
	for _, key := range l.order {
		var calls, ms []float64
		for i := range l.handover[key.command] {
			var s spent
			if i < len(l.found[key]) {
				s = l.found[key][i]
			}
			calls, ms = append(calls, float64(s.calls)), append(ms, s.ms)
		}
		all = append(all, statement{key.command, key.phase, key.side, key.sql, median(calls), median(ms)})
	}
	slices.SortStableFunc(all, func(a, b statement) int { return cmp.Compare(b.MS, a.MS) })
	return all
}
