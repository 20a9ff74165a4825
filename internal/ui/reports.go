package ui

import (
	"fmt"
	"io"
	"strings"

	"pgbaton/internal/handover"
	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/phrase"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
)

// Next prints what to run next.
func Next(w io.Writer, n outcome.Next) {
	if n.Command != "" {
		fmt.Fprintf(w, "Next: %s (%s)\n", n.Command, n.Why)
	}
}

// Check prints the findings of a check.
func Check(w io.Writer, r preflight.Report) {
	for _, f := range r.Findings {
		where := ""
		if f.Side != "" {
			where = string(f.Side) + ": "
		}
		fmt.Fprintf(w, "%-8s %s%s [%s]\n", f.Severity, where, f.Text, f.Code)
		for i, o := range f.Objects {
			if i == 10 {
				fmt.Fprintf(w, "           and %d more (all with --json)\n", len(f.Objects)-i)
				break
			}
			fmt.Fprintf(w, "           %s\n", o)
		}
		if f.Remedy != "" {
			fmt.Fprintf(w, "         hint: %s\n", strings.ReplaceAll(f.Remedy, "\n", "\n               "))
		}
	}
	if n := len(r.Blockers()); n > 0 {
		fmt.Fprintf(w, "\n%s: the migration cannot start. Nothing was changed.\n", phrase.Count(n, "blocker"))
		return
	}
	fmt.Fprintln(w, "\nNothing stands in the way. Nothing was changed.")
}

// Plan prints the steps with what each would run.
func Plan(w io.Writer, title string, steps []plan.Step) {
	fmt.Fprintf(w, "-- %s\n", title)
	for i, s := range steps {
		note := ""
		if s.Done {
			note = " (done)"
		}
		fmt.Fprintf(w, "\n-- %d. %s%s\n", i+1, s.Step, note)
		for _, a := range s.Actions {
			if a.Where == "operator" {
				fmt.Fprintf(w, "$ %s\n", a.Do)
				continue
			}
			fmt.Fprintf(w, "/* %s */ %s;\n", a.Where, strings.TrimSuffix(strings.TrimSpace(a.Do), ";"))
		}
	}
}

// Status prints a status.
func Status(w io.Writer, s *migrate.Status, next outcome.Next) {
	line := func(label, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", label, fmt.Sprintf(format, args...))
	}
	line("migration", "%s", s.Migration)
	working := ""
	if s.Working {
		working = " (a pgbaton command is at work)"
	}
	line("phase", "%s%s", s.Phase, working)
	line("source", "%s", sideLine(s.Source, s.Baton == postgres.Source))
	line("target", "%s", sideLine(s.Target, s.Baton == postgres.Target))
	if s.TablesTotal > 0 {
		copied := fmt.Sprintf("%s, %s of %s", phrase.Of(s.TablesCopied, s.TablesTotal, "table"), Bytes(s.BytesCopied), Bytes(s.BytesTotal))
		if s.Phase == migrate.PhaseCopying && s.BytesPerSec > 0 {
			copied += fmt.Sprintf(", %s/s, about %s left", Bytes(int64(s.BytesPerSec)), phrase.Roughly(s.ETASeconds))
		}
		line("copied", "%s", copied)
	}
	if s.Phase == migrate.PhaseCopying {
		for _, t := range s.Running {
			line("", "%s %s", t.What, t.Name)
		}
	}
	if s.LagBytes != nil || s.LagSeconds != nil {
		line("lag", "%s", lagLine(s))
	}
	for _, g := range s.Groups {
		name := "stream"
		if g.Direction == "reverse" {
			name = "way back"
		}
		line(name, "group %d: subscription %s, %s ready", g.Number, g.Subscription, phrase.Of(g.TablesReady, g.Tables, "table"))
	}
	for _, slot := range s.Slots {
		state := "in use"
		if !slot.Active {
			state = "not in use"
		}
		if slot.Lost {
			state = "LOST"
		}
		if slot.Failover {
			state += ", standbys can carry it on"
		}
		line("slot", "%s on the %s: %s, holds back %s of WAL", slot.Name, slot.Side, state, Bytes(slot.RetainedBytes))
	}
	if s.XminAge > 0 {
		line("vacuum", "the slot holds back the catalog xmin by %s", phrase.Count(s.XminAge, "transaction"))
	}
	for _, n := range s.Findings {
		line("attention", "%s", n.Text)
		if n.Remedy != "" {
			line("", "hint: %s", n.Remedy)
		}
	}
	line("next", "%s: %s", next.Command, next.Why)
}

func sideLine(s migrate.SideStatus, baton bool) string {
	text := s.Address
	if s.Version != "" {
		text += " (PostgreSQL " + s.Version + ")"
	}
	if baton {
		text += ", has the baton"
	}
	if s.Fenced {
		text += ", fenced"
	}
	if !s.Reachable {
		text += ", cannot be reached: " + s.Error
	}
	return text
}

func lagLine(s *migrate.Status) string {
	var parts []string
	if s.LagBytes != nil {
		parts = append(parts, Bytes(*s.LagBytes))
	}
	if s.LagSeconds != nil {
		at := ""
		if s.LagSecondsAtLeast {
			at = "at least "
		}
		parts = append(parts, fmt.Sprintf("%s%.1f s", at, *s.LagSeconds))
	}
	if s.RoundTripMS != nil {
		parts = append(parts, fmt.Sprintf("a marker took %.0f ms", *s.RoundTripMS))
	}
	return strings.Join(parts, ", ")
}

// Handover prints how a handover went; its phases were printed as they ended.
func Handover(w io.Writer, r handover.Result) {
	switch {
	case r.Already:
		fmt.Fprintf(w, "The baton is on the %s already.\n", r.Baton)
		return
	case r.Forced:
		fmt.Fprintf(w, "The baton is on the %s, by force.\n", r.Baton)
		return
	case r.Resumed:
		fmt.Fprintf(w, "The baton is on the %s; an earlier handover was completed.\n", r.Baton)
		return
	}
	fmt.Fprintf(w, "The baton is on the %s. Pause: %.1f ms.\n", r.Baton, r.PauseMS)
}

// Rehearsal prints what a handover would probably cost.
func Rehearsal(w io.Writer, r handover.Rehearsal) {
	for _, p := range r.Parts {
		fmt.Fprintf(w, "  %-14s %8.1f ms  %s\n", p.Phase, p.MS, p.How)
	}
	fmt.Fprintf(w, "A %s would pause applications for about %.0f ms (--max-pause %.0f ms). Nobody waited, nothing was changed.\n",
		r.Command, r.ForecastMS, r.MaxPauseMS)
}

// Clean prints what finish or reset did.
func Clean(w io.Writer, r migrate.CleanResult) {
	for _, d := range r.Removed {
		fmt.Fprintf(w, "  removed  %s\n", d)
	}
	for _, l := range r.Left {
		fmt.Fprintf(w, "  left     %s\n           hint: %s\n", l.Text, l.Remedy)
	}
	if r.Fenced != "" {
		fmt.Fprintf(w, "\nThe %s stays fenced. This lifts its fence:\n\n", r.Fenced)
		for _, sql := range r.Unfence {
			fmt.Fprintf(w, "  %s;\n", sql)
		}
	}
}
