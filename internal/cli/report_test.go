package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// TestReport: every handover is told, the aborted one too, whichever side remembers
// it; finish keeps the report, with what lifts the fence.
func TestReport(t *testing.T) {
	t.Parallel()
	m, w := streaming(t, 13, 15)
	m.run(4, "switchover", "--yes", "--on-pause", "echo 'no | <b>way</b>'; exit 1")
	m.handOver(t.Context(), w, "switchover", m.target.ConnStringAs("app", "", m.db))
	m.handOver(t.Context(), w, "rollback", m.source.ConnStringAs("app", "", m.db))
	m.run(0, "rollback", "--yes") // nothing was left to do: nothing to tell
	w.Stop()
	r := m.result(0, "report")
	handovers := r["handovers"].([]any)
	if len(handovers) != 3 || r["baton"] != "source" || r["fenced"] != "target" || r["source"].(map[string]any)["generation"] != 2.0 {
		t.Fatalf("%v", r)
	}
	for i, want := range []map[string]any{
		{"command": "switchover", "aborted": "pause", "to": "target"},
		{"command": "switchover", "baton": "target", "aborted": nil},
		{"command": "rollback", "baton": "source", "to": "source"},
	} {
		h := handovers[i].(map[string]any)
		for k, v := range want {
			if h[k] != v {
				t.Errorf("handover %d: %s is %v, want %v", i, k, h[k], v)
			}
		}
		if phases := h["phases"].([]any); i > 0 && (len(phases) != 12 || h["pause_ms"].(float64) <= 0 || h["database_pause_ms"].(float64) <= 0) {
			t.Errorf("handover %d: %v", i, h)
		}
	}
	text := m.run(0, "report").Stdout
	for _, want := range []string{"# Migration default", "aborted in phase pause", `no \| &lt;b>way`, "## Rollback of ", "| drain | ", "GRANT CONNECT"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	m.run(2, "report", "--format", "pdf")

	file := filepath.Join(t.TempDir(), "report.md")
	m.run(1, "finish", "--yes", "--report", filepath.Join(t.TempDir(), "no such directory", "report.md"))
	m.run(0, "finish", "--yes", "--report", file)
	kept, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(kept), "## Rollback of ") || !strings.Contains(string(kept), "## The target is fenced") {
		t.Errorf("%v\n%s", err, kept)
	}
	m.run(3, "report")
}

// TestBackTo10: PostgreSQL 10 neither publishes a TRUNCATE nor survives one as a
// subscriber. The way back to it carries rows; a truncated table closes it.
func TestBackTo10(t *testing.T) {
	t.Parallel()
	m, w := streaming(t, 10, 15)
	onSource, onTarget := m.source.ConnStringAs("app", "", m.db), m.target.ConnStringAs("app", "", m.db)
	there := func(command, uri string) {
		t.Helper()
		m.result(0, command, "--yes")
		w.Switch(uri)
		if err := w.Await(t.Context(), 20); err != nil {
			t.Fatal(err)
		}
	}
	there("switchover", onTarget)
	there("rollback", onSource)
	there("switchover", onTarget)
	w.Stop()
	if problems := w.Check(t.Context(), pgtest.Connect(t, m.targetURI())); len(problems) > 0 {
		t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
	}
	pgtest.Exec(t, m.targetURI(), `TRUNCATE app.filler`)
	if r := m.run(3, "rollback", "--yes"); !strings.Contains(r.Stderr, "truncated or rewritten") || !strings.Contains(r.Stderr, "pgbaton finish") {
		t.Errorf("%s", r)
	}
	if r := m.run(0, "status"); !strings.Contains(r.Stdout, "truncated or rewritten") {
		t.Errorf("status does not say that the way back is closed:\n%s", r)
	}
	source := pgtest.Connect(t, m.sourceURI())
	if n := pgtest.QueryValue[int](t, source, `SELECT count(*)::int FROM pg_stat_subscription WHERE pid IS NOT NULL`); n != 1 {
		t.Errorf("%d workers run on the source", n)
	}
	m.run(0, "finish", "--yes")
}
