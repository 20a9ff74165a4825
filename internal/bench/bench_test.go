package main

import (
	"strings"
	"testing"
)

func TestMedianAndSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   string
	}{
		{nil, "0.0"},
		{[]float64{3}, "3.0"},
		{[]float64{3, 1, 2}, "2.0 (1.0–3.0)"},
		{[]float64{4, 1, 2, 3}, "2.5 (1.0–4.0)"},
	} {
		if got := spread("%.1f", c.values); got != c.want {
			t.Errorf("spread(%v) = %q, want %q", c.values, got, c.want)
		}
	}
}

func TestParseStat(t *testing.T) {
	own, children, parent := parseStat([]byte("42 (a ) (b) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 1000 200 20 0 1 0 9"))
	if own != 2 || children != 12 || parent != 7 {
		t.Errorf("own %v, children %v, parent %d", own, children, parent)
	}
}

func TestParse(t *testing.T) {
	if _, err := parse([]string{"--methods", "stream,teleport"}); err == nil || !strings.Contains(err.Error(), "teleport") {
		t.Errorf("an unknown method: %v", err)
	}
	if o, err := parse(nil); err != nil || len(o.methods) != 3 {
		t.Errorf("no flags: %+v, %v", o, err)
	}
}

func TestMarkdown(t *testing.T) {
	r := report{DatabaseBytes: 300 << 20, Starts: []startRun{
		{Method: "stream", usage: usage{Wall: 4}, Steps: map[string]float64{"copy rows": 2}},
		{Method: "native", usage: usage{Wall: 8}, Steps: map[string]float64{"copy rows": 6}},
	}, Handovers: []handoverRun{{PauseMS: 40}, {Load: true, PauseMS: 60, SlowestMS: 70}}}
	text := r.markdown()
	for _, want := range []string{"## start, 300 MB", "| native | 8.0 | 2.00 |", "| stream | copy rows 2.0 |", "| idle | 40 |", "| load | 60 |"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}
