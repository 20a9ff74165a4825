package ui

import (
	"fmt"
	"io"
	"strings"
	"time"

	"pgbaton/internal/handover"
	"pgbaton/internal/migrate"
	"pgbaton/internal/phrase"
)

const millis = "2006-01-02 15:04:05.000"

// Report writes a migration's report as Markdown.
func Report(w io.Writer, r *migrate.Report) {
	p := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	p("# Migration %s", markdown(r.Migration))
	p("")
	p("| | server | |")
	p("|---|---|---|")
	for _, side := range []struct {
		name  string
		baton bool
		migrate.SideStatus
	}{{"source", r.Baton == "source", r.Source}, {"target", r.Baton == "target", r.Target}} {
		what := "PostgreSQL " + side.Version
		if !side.Reachable {
			what = "out of reach"
		}
		if side.baton {
			what += ", has the baton"
		}
		p("| %s | %s | %s |", side.name, markdown(side.Address), what)
	}
	p("")
	p("Times are UTC; this report was made at %s.", r.At.Format(millis))
	p("")
	p("| when | what |")
	p("|---|---|")
	p("| %s | the migration was started, method %s |", r.Began.Format(millis), r.Method)
	if r.Loaded != nil {
		p("| %s | %s, %s, complete on the target: %s after the start |", r.Loaded.Format(millis), phrase.Count(r.Tables, "table"), Bytes(r.Bytes),
			Seconds(r.Loaded.Sub(r.Began).Seconds()))
	}
	for _, h := range r.Handovers {
		p("| %s | %s |", h.Began.UTC().Format(millis), howItWent(h))
	}
	for _, h := range r.Handovers {
		reportHandover(p, h)
	}
	if r.Fenced != "" {
		p("\n## The %s is fenced\n\nThis lifts its fence, once nothing depends on it any more:\n\n```sql", r.Fenced)
		for _, sql := range r.Unfence {
			p("%s;", sql)
		}
		p("```")
	}
}

func howItWent(h handover.Result) string {
	who := h.Command
	if h.Guardian {
		who = "the guardian of a " + h.Command
	}
	switch {
	case h.Aborted != "":
		return fmt.Sprintf("%s: aborted in phase %s, the %s went on", who, h.Aborted, h.From)
	case h.Forced:
		return fmt.Sprintf("%s by force: the baton is on the %s, the %s was lost", who, h.To, h.From)
	case h.Resumed:
		return fmt.Sprintf("%s: an interrupted handover was completed, the baton is on the %s", who, h.To)
	}
	return fmt.Sprintf("%s: the baton is on the %s, pause %.1f ms", who, h.To, h.PauseMS)
}

func reportHandover(p func(string, ...any), h handover.Result) {
	p("\n## %s of %s\n", strings.ToUpper(h.Command[:1])+h.Command[1:], h.Began.UTC().Format(millis))
	p("%s.", strings.ToUpper(howItWent(h)[:1])+howItWent(h)[1:])
	if h.Reason != "" {
		p("Reason: %s.", markdown(h.Reason))
	}
	if h.DatabasePauseMS > 0 {
		p("Between the last write on the %s and the first possible on the %s: at most %.1f ms.", h.From, h.To, h.DatabasePauseMS)
	}
	p("\n| phase | began | took |\n|---|---|---|")
	for _, phase := range h.Phases {
		began := h.Began.Add(time.Duration(phase.AtMS * float64(time.Millisecond)))
		p("| %s | %s | %.1f ms |", phase.Name, began.UTC().Format("15:04:05.000"), phase.MS)
	}
}

// markdown keeps a text from being read as markup.
func markdown(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "`", "\\`", "*", `\*`, "_", `\_`, "\n", " ").Replace(s)
}
