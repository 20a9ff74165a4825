package ui

import (
	"strconv"
	"strings"
	"unicode"
)

// clean makes a text that others have written harmless for a terminal: what
// cannot be seen is spelled out, be it an escape sequence or what reverses the
// direction of writing. lines keeps line ends and tabs.
func clean(s string, lines bool) string {
	hidden := func(r rune) bool { return !strconv.IsPrint(r) && !(lines && (r == '\n' || r == '\t')) }
	if strings.IndexFunc(s, hidden) < 0 {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// wide are the characters that take two columns, roughly: East Asian Wide and
// Fullwidth of Unicode's EastAsianWidth.txt, with what lies between. Taking one
// for wider than it is costs a column, the opposite wraps a line.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115F, 1}, {0x231A, 0x231B, 1}, {0x2329, 0x232A, 1}, {0x23E9, 0x23F3, 1}, {0x25FD, 0x25FE, 1},
		{0x2600, 0x27BF, 1}, {0x2B1B, 0x2B1C, 1}, {0x2B50, 0x2B55, 1}, {0x2E80, 0xA4CF, 1}, {0xA960, 0xA97F, 1},
		{0xAC00, 0xD7A3, 1}, {0xF900, 0xFAFF, 1}, {0xFE10, 0xFE19, 1}, {0xFE30, 0xFE6F, 1}, {0xFF00, 0xFF60, 1},
		{0xFFE0, 0xFFE6, 1},
	},
	R32: []unicode.Range32{{0x16FE0, 0x1B2FF, 1}, {0x1F000, 0x1FAFF, 1}, {0x20000, 0x3FFFD, 1}},
}

// columns is how many a character takes. A variation selector may make the one
// before it wide.
func columns(r rune) int {
	switch {
	case r < unicode.MaxLatin1 || r == 0xFE0F:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me) || 0x1160 <= r && r <= 0x11FF: // the latter join a Hangul syllable
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}

// textWidth is how many columns a clean text takes.
func textWidth(s string) (n int) {
	for _, r := range s {
		n += columns(r)
	}
	return n
}

const ellipsis = ".."

// cut shortens a clean text to so many columns.
func cut(s string, width int) string {
	if textWidth(s) <= width {
		return s
	}
	if width <= len(ellipsis) {
		return head(s, width)
	}
	return head(s, width-len(ellipsis)) + ellipsis
}

// cutMiddle does so for a name, whose end tells partitions apart.
func cutMiddle(s string, width int) string {
	if textWidth(s) <= width {
		return s
	}
	tail := []rune(s)
	for room := (width - len(ellipsis)) / 2; ; tail = tail[1:] {
		if textWidth(string(tail)) <= room {
			break
		}
	}
	return head(s, width-len(ellipsis)-textWidth(string(tail))) + ellipsis + string(tail)
}

// head is as much of the beginning as fits.
func head(s string, width int) string {
	for i, r := range s {
		if width -= columns(r); width < 0 {
			return s[:i]
		}
	}
	return s
}

func pad(s string, width int) string { return s + strings.Repeat(" ", max(0, width-textWidth(s))) }
