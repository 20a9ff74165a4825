package ui

import (
	"strings"
	"sync"
	"testing"
	"unicode"
)

// screen is a terminal as far as the printer uses one; anything else that is
// written to it is an error. A character's width is what the test says it is.
type screen struct {
	t             *testing.T
	mu            sync.Mutex // a timer writes too
	width, height int
	lines         []line // all there are, those scrolled out of view first
	top           int    // first one in view
	row, col      int    // row counts from lines[0]
	writes        int
}

// line is one row. A row that the terminal wrapped goes on in the next one.
type line struct {
	cells   []string // a wide character leaves the cell after it empty
	wrapped bool
}

func newScreen(t *testing.T, width, height int) *screen {
	return &screen{t: t, width: width, height: height, lines: make([]line, 1)}
}

func (s *screen) size() (int, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.width, s.height
}

// written is how many writes there were.
func (s *screen) written() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	for text := string(b); text != ""; {
		r := []rune(text)[0]
		text = text[len(string(r)):]
		switch {
		case r == '\r':
			s.col = 0
		case r == '\n':
			s.col = 0
			s.down(false)
		case r == '\x1b':
			end := strings.IndexFunc(text, func(r rune) bool { return r >= '@' && r != '[' })
			if end < 0 {
				s.t.Fatalf("an escape sequence without an end: %q", text)
			}
			s.control(text[:end+1])
			text = text[end+1:]
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r):
			s.t.Errorf("%U reached the terminal", r)
		default:
			s.put(r)
		}
	}
	return len(b), nil
}

func (s *screen) control(sequence string) {
	switch l := &s.lines[s.row]; {
	case sequence == "[2K":
		*l = line{}
	case sequence == "[J":
		l.cells = l.cells[:min(len(l.cells), s.col)]
		l.wrapped = false
		s.lines = s.lines[:s.row+1]
	case sequence == "[A":
		s.row = max(s.top, s.row-1)
	default:
		s.t.Errorf("escape sequence %q", sequence)
	}
}

func (s *screen) put(r rune) {
	width := 1
	switch {
	case unicode.Is(unicode.Mn, r):
		width = 0
	case unicode.In(r, unicode.Han, unicode.Hangul) || r > 0x1F000:
		width = 2
	}
	if s.col+width > s.width {
		s.lines[s.row].wrapped = true
		s.col = 0
		s.down(true)
	}
	l := &s.lines[s.row]
	if width == 0 {
		l.cells[s.col-1] += string(r)
		return
	}
	for len(l.cells) < s.col+width {
		l.cells = append(l.cells, " ")
	}
	l.cells[s.col] = string(r)
	if width == 2 {
		l.cells[s.col+1] = ""
	}
	s.col += width
}

func (s *screen) down(fresh bool) {
	s.row++
	if s.row == len(s.lines) {
		s.lines = append(s.lines, line{})
	}
	if fresh {
		s.lines[s.row].cells = nil
	}
	s.top = max(s.top, s.row-s.height+1)
}

// resize wraps lines anew, as most terminals do.
func (s *screen) resize(width, height int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []line
	at := 0 // row of the cursor, which is at the beginning of a line of its own
	for i := 0; i < len(s.lines); i++ {
		if i == s.row {
			at = len(lines)
		}
		cells := s.lines[i].cells
		for s.lines[i].wrapped {
			i++
			cells = append(cells, s.lines[i].cells...)
		}
		for len(cells) > width {
			lines = append(lines, line{cells: cells[:width:width], wrapped: true})
			cells = cells[width:]
		}
		lines = append(lines, line{cells: cells})
	}
	s.lines, s.row, s.width, s.height = lines, at, width, height
	s.top = max(0, len(lines)-height)
}

// text is everything, as a person would see it who scrolls back.
func (s *screen) text() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var texts []string
	for i := 0; i < len(s.lines); i++ {
		text := strings.Join(s.lines[i].cells, "")
		for s.lines[i].wrapped {
			i++
			text += strings.Join(s.lines[i].cells, "")
		}
		texts = append(texts, text)
	}
	for len(texts) > 0 && texts[len(texts)-1] == "" {
		texts = texts[:len(texts)-1]
	}
	return texts
}

// view is what is in view, row by row, to that of the cursor.
func (s *screen) view() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows []string
	for _, l := range s.lines[s.top:] {
		rows = append(rows, strings.Join(l.cells, ""))
	}
	return rows
}
