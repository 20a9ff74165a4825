package phrase_test

import (
	"math"
	"testing"

	"pgbaton/internal/phrase"
)

func TestCount(t *testing.T) {
	for _, c := range []struct {
		n    int64
		noun string
		want string
	}{
		{0, "table", "0 tables"}, {1, "table", "1 table"}, {2, "table", "2 tables"},
		{1, "index", "1 index"}, {3, "index", "3 indexes"}, {2, "check constraint", "2 check constraints"},
	} {
		if got := phrase.Count(c.n, c.noun); got != c.want {
			t.Errorf("%d %s: %q, not %q", c.n, c.noun, got, c.want)
		}
	}
	for want, got := range map[string]string{
		"0 of 1 table": phrase.Of(0, 1, "table"), "1 of 2 tables": phrase.Of(1, 2, "table"), "0 of 0 tables": phrase.Of(0, 0, "table"),
	} {
		if got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

func TestRoughly(t *testing.T) {
	const minute, hour, day = 60.0, 3600.0, 86400.0
	for seconds, want := range map[float64]string{
		0: "0 s", 59.9: "59 s", 100: "1m40s", 40 * minute: "40m", 5*hour + 20*minute: "5h20m", 47 * hour: "47h0m",
		48 * hour: "2 days", 12*day + hour: "12 days", 89 * day: "89 days", 90 * day: "more than 90 days",
		1000 * day: "more than 90 days", math.Inf(1): "more than 90 days", 1e300: "more than 90 days",
	} {
		if got := phrase.Roughly(seconds); got != want {
			t.Errorf("%v s: %q, not %q", seconds, got, want)
		}
	}
}

func TestShell(t *testing.T) {
	for word, want := range map[string]string{"default": "default", "": "''", "The shop": "'The shop'", "it's": `'it'\''s'`, "größe_1": "größe_1", "$x": "'$x'"} {
		if got := phrase.Shell(word); got != want {
			t.Errorf("%q: %s, not %s", word, got, want)
		}
	}
}
