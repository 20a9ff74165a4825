package main

import (
	"strings"
	"testing"
	"time"

	"pgbaton/internal/handover"
	"pgbaton/internal/pgtest"
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
	}, Series: []seriesRun{{series: allSeries[0], Pooler: "PgBouncer 1.26.1", Handovers: []handoverRun{
		{Result: handover.Result{Command: "switchover", PauseMS: 40, Phases: []handover.PhaseTime{{Name: "pause", MS: 7}}}, seen: seen{LongestMS: 45}},
	}}}}
	text := r.markdown()
	for _, want := range []string{"## start, 300 MB", "| native | 8.0 | 2.00 |", "| stream | copy rows 2.0 |", "| 12-15 | switchover | 1 | 40 | 0 | 45 |", "| pause | 7.0 |"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

func TestLargeTable(t *testing.T) {
	run := func(streaming string, pause, drain float64) largeRun {
		return largeRun{Streaming: streaming, Commit: largeWithin, Load: "1.5 2 3",
			Result: handover.Result{PauseMS: pause, Phases: []handover.PhaseTime{{Name: "ready", MS: 9}, {Name: "drain", MS: drain}}}}
	}
	r := report{Large: []largeSet{{Pair: "17-18", Rows: 5, Made: "p", Runs: []largeRun{run(largeOff, 400, 380), run(largeAsMade, 40, 7), run(largeAsMade, 60, 9)}}}}
	text := r.markdown()
	for _, want := range []string{"## A transaction of 5 rows, 17 → 18", "| in prepare | off | 1 | 380 | 400 | 9 | 1.000 | 1.5 |",
		"| in prepare | parallel | 2 | 8 (7–9) | 50 (40–60) | 9 (9–9) | 0.125 | 1.5 1.5 |"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

func TestLook(t *testing.T) {
	began := time.Now()
	at := func(ms float64) time.Time { return began.Add(duration(ms)) }
	h := handoverRun{Result: handover.Result{Began: began, PauseMS: 40, Phases: []handover.PhaseTime{{Name: "pause", AtMS: 100}}}, began: began, ended: at(200)}
	h.look([]sample{
		{intended: at(50), ended: at(56)},   // before the pause
		{intended: at(90), ended: at(105)},  // let through by the pause
		{intended: at(98), ended: at(150)},  // held back
		{intended: at(120), ended: at(151)}, // held back
		{intended: at(500), ended: at(599)}, // of no interest
	})
	if want := (seen{LongestMS: 52, PauseLongestMS: 52, BeforeMS: 2, AfterMS: 10, SilenceMS: 49, OutsideMS: 6}); h.seen != want {
		t.Errorf("%+v, want %+v", h.seen, want)
	}
}

func TestReckoning(t *testing.T) {
	b := books{ids: map[int64]int{1: 1, 2: 2, 4: 1, 5: 1}, numbers: 4, history: 7, accounts: 7, tellers: 7, branches: 8}
	got := b.reckon([]int64{1, 2, 3}, map[int64]bool{4: true})
	if want := (reckoning{Acknowledged: 3, Missing: 1, Doubled: 1, Unasked: 1, Numbers: 1, Balances: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestHandoverSmoke hands over there and back, once through a PgBouncer and once
// without. It makes no claim on times.
func TestHandoverSmoke(t *testing.T) {
	pgtest.Pooler(t, "")
	pgtest.BinDir(t, 12)
	pgtest.BinDir(t, 15)
	for _, s := range []series{{Name: "pooler", From: 12, To: 15, Sequences: 100}, {Name: "direct", From: 12, To: 15, Sequences: 100, Direct: true}} {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			o := options{pgbaton: pgtest.Build(t), handovers: 1, clients: 4, rate: 50, statements: true}
			run, err := measureSeries(t.Context(), o, s)
			if err != nil {
				t.Fatal(err)
			}
			if len(run.Handovers) != 2 || run.Failed > 0 || !run.Reckoning.right() || run.Reckoning.Acknowledged < 100 {
				t.Errorf("%d handovers, failed %d, %+v, %q", len(run.Handovers), run.Failed, run.Reckoning, run.Errors)
			}
			if len(run.Statements) == 0 {
				t.Error("no statements")
			}
			for _, h := range run.Handovers {
				if h.PauseMS <= 0 || h.SilenceMS <= 0 || h.LongestMS <= 0 {
					t.Errorf("%+v", h)
				}
			}
		})
	}
}
