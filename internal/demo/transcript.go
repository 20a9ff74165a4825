package demo

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A transcript is the story as the reader sees it: headings, one line per step
// with the time it took, and pgbaton's commands with what they printed.
type transcript struct {
	failed func(error) // told of the first line that could not be written

	mu     sync.Mutex
	out    io.Writer
	broken bool
}

// width of a line with a time at its right end.
const width = 78

func (t *transcript) line(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken {
		return
	}
	if _, err := io.WriteString(t.out, strings.TrimRight(text, " ")+"\n"); err != nil {
		t.broken = true
		t.failed(err)
	}
}

func (t *transcript) blank() { t.line("") }

func (t *transcript) heading(format string, args ...any) {
	t.line(fmt.Sprintf(format, args...))
}

// chapter begins a part of the story.
func (t *transcript) chapter(title string) {
	t.blank()
	t.line(title)
}

func (t *transcript) say(format string, args ...any) {
	t.line("  " + fmt.Sprintf(format, args...))
}

// step is something done, and how long it took.
func (t *transcript) step(what string, took time.Duration) {
	t.line(aligned("  "+what, duration(took)))
}

// fact is a name and a value, in columns.
func (t *transcript) fact(name, format string, args ...any) {
	t.line(fmt.Sprintf("  %-26s", name) + fmt.Sprintf(format, args...))
}

// verbatim indents text that is to be read as it is.
func (t *transcript) verbatim(text string) {
	for line := range strings.Lines(strings.Trim(text, "\n")) {
		t.line("    " + strings.TrimRight(line, "\r\n"))
	}
}

// command is what a user would type after "pgbaton".
func (t *transcript) command(line string) { t.line("$ pgbaton " + line) }

func aligned(left, right string) string {
	gap := max(1, width-len([]rune(left))-len([]rune(right)))
	return left + strings.Repeat(" ", gap) + right
}

func shellWords(args []string) string {
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = shellWord(arg)
	}
	return strings.Join(words, " ")
}

// shellWord quotes what a shell would take apart.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:,=+@%", r)
	}
	if s != "" && strings.TrimFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// duration as people read it: 7 ms, 340 ms, 1.9 s.
func duration(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
func millis(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// megabytes as PostgreSQL prints them: of 1024 kB.
func megabytes(n float64) string { return fmt.Sprintf("%.1f MB", n/(1<<20)) }

// count prints 50000 as 50,000.
func count[N int | int64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func plural[N int | int64](n N, one, many string) string {
	if n == 1 {
		return count(n) + " " + one
	}
	return count(n) + " " + many
}

// A lineWriter hands on what is written to it line by line.
type lineWriter struct {
	each func(line []byte)
	rest []byte
}

// Write implements io.Writer.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		w.each(line)
		w.rest = rest
	}
}
