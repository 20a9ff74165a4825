// Package phrase puts figures into the words in which people read them.
package phrase

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Count is a number with its noun: "1 table", "2 tables". The noun's last word is
// the one that takes the plural.
func Count[N int | int32 | int64](n N, noun string) string {
	return fmt.Sprintf("%d %s", n, agree(int64(n), noun))
}

// Of is a part of a whole with the whole's noun: "0 of 1 table", "1 of 3 tables".
func Of[N int | int64](n, whole N, noun string) string {
	return fmt.Sprintf("%d of %s", n, Count(whole, noun))
}

func agree(n int64, noun string) string {
	switch {
	case n == 1:
		return noun
	case strings.HasSuffix(noun, "x"), strings.HasSuffix(noun, "s"):
		return noun + "es"
	}
	return noun + "s"
}

// Farthest is how far ahead a forecast is worth being made: what goes on by now
// says nothing about what comes later.
const Farthest = 90 * 24 * time.Hour

// Roughly is a time, in seconds, that need not be exact: "40m", "5h20m", "12 days".
func Roughly(seconds float64) string {
	if seconds >= Farthest.Seconds() {
		return fmt.Sprintf("more than %d days", int(Farthest.Hours())/24)
	}
	switch d := time.Duration(seconds * float64(time.Second)); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 10*time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return Count(int(d.Hours())/24, "day")
	}
}

// Shell is a word as it has to be written for a shell.
func Shell(word string) string {
	plain := func(r rune) bool {
		return strings.ContainsRune("_-+=./:@%,", r) || unicode.IsLetter(r) || unicode.IsDigit(r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
