package main

import (
	"fmt"
	"slices"
	"strings"
)

// The directions, in the order of the tables.
var directions = []string{"switchover", "rollback"}

// of collects a figure over the handovers of a direction.
func (run *seriesRun) of(command string, figure func(handoverRun) float64) (values []float64) {
	for _, h := range run.Handovers {
		if h.Command == command {
			values = append(values, figure(h))
		}
	}
	return values
}

func (r *report) handoverTables(b *strings.Builder) {
	first := r.Series[0]
	fmt.Fprintf(b, "\n## Handovers\n\n%d tables. Load: %d clients, %g transactions a second in all, at a fixed rate; each BEGIN, five statements in the extended protocol, COMMIT.\n",
		bankTables, first.Clients, first.PerSec)
	fmt.Fprintf(b, "Waits count from the moment at which a transaction should have begun. wal_retrieve_retry_interval is %s.\n\n", quickWorkers["wal_retrieve_retry_interval"])
	b.WriteString("| series | servers | pooler | sequences | fsync ms | load average |\n|---|---|---|---|---|---|\n")
	for _, s := range r.Series {
		pooler := "none"
		if !s.Direct {
			pooler = s.Pooler
		}
		fmt.Fprintf(b, "| %s | %s, %s | %s | %d | %.2f | %s |\n", s.Name, s.Source, s.Target, pooler, s.Sequences, s.FsyncMS, s.Load)
	}
	r.pauseTable(b)
	r.proofTable(b)
	for _, command := range directions {
		r.phaseTable(b, command)
	}
	r.waitTable(b)
	for _, s := range r.Series {
		s.statementTable(b)
	}
}

func (r *report) pauseTable(b *strings.Builder) {
	b.WriteString("\n| series | direction | n | pause_ms | database_pause_ms | longest wait of a client ms | no client served for ms | longest wait outside the pause ms |\n|---|---|---|---|---|---|---|---|\n")
	for i := range r.Series {
		s := &r.Series[i]
		for _, command := range directions {
			col := func(figure func(handoverRun) float64) string { return spread("%.0f", s.of(command, figure)) }
			pauses := s.of(command, func(h handoverRun) float64 { return h.PauseMS })
			if len(pauses) == 0 {
				continue
			}
			fmt.Fprintf(b, "| %s | %s | %d | %s | %s | %s | %s | %s |\n", s.Name, command, len(pauses), spread("%.0f", pauses),
				col(func(h handoverRun) float64 { return h.DatabasePauseMS }), col(func(h handoverRun) float64 { return h.LongestMS }),
				col(func(h handoverRun) float64 { return h.SilenceMS }), col(func(h handoverRun) float64 { return h.OutsideMS }))
		}
	}
}

func (r *report) proofTable(b *strings.Builder) {
	b.WriteString("\n| series | transactions a second | between handovers: p50, p99, max ms | failed queries | connections ended by KILL | reconnects | acknowledged | lost | doubled | unasked for | numbers twice | wrong balances |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, s := range r.Series {
		k := s.Reckoning
		fmt.Fprintf(b, "| %s | %.0f | %.1f, %.1f, %.0f | %d | %d | %d | %d | %d | %d | %d | %d | %d |\n", s.Name, s.Achieved, s.Quiet.P50MS, s.Quiet.P99MS, s.Quiet.MaxMS,
			s.Failed, s.Ended, s.Reconnects, k.Acknowledged, k.Missing, k.Doubled, k.Unasked, k.Numbers, k.Balances)
	}
	for _, s := range r.Series {
		for _, e := range s.Errors {
			fmt.Fprintf(b, "\n%s: `%s`\n", s.Name, e)
		}
	}
}

// phaseTable has a column for each series.
func (r *report) phaseTable(b *strings.Builder, command string) {
	var names []string
	for _, s := range r.Series {
		for _, h := range s.Handovers {
			for _, p := range h.Phases {
				if h.Command == command && !slices.Contains(names, p.Name) {
					names = append(names, p.Name)
				}
			}
		}
	}
	if len(names) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s, phase by phase, ms:\n\n| phase |", command)
	for _, s := range r.Series {
		b.WriteString(" " + s.Name + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(r.Series)) + "\n")
	row := func(name string, figure func(handoverRun) float64) {
		fmt.Fprintf(b, "| %s |", name)
		for i := range r.Series {
			fmt.Fprintf(b, " %s |", spread("%.1f", r.Series[i].of(command, figure)))
		}
		b.WriteString("\n")
	}
	for _, name := range names {
		row(name, func(h handoverRun) (ms float64) {
			for _, p := range h.Phases {
				if p.Name == name {
					ms = p.MS
				}
			}
			return ms
		})
	}
	row("whole command", func(h handoverRun) float64 { return h.WallMS })
}

func (r *report) waitTable(b *strings.Builder) {
	b.WriteString("\nThe longest wait that the pause touched, ms: it had begun before the pause, is the pause, and goes on after it.\n\n")
	b.WriteString("| series | direction | wait | before the pause | pause_ms | after the pause | wait − pause |\n|---|---|---|---|---|---|---|\n")
	for i := range r.Series {
		s := &r.Series[i]
		for _, command := range directions {
			col := func(figure func(handoverRun) float64) string { return spread("%.1f", s.of(command, figure)) }
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s |\n", s.Name, command,
				col(func(h handoverRun) float64 { return h.PauseLongestMS }), col(func(h handoverRun) float64 { return h.BeforeMS }),
				col(func(h handoverRun) float64 { return h.PauseMS }), col(func(h handoverRun) float64 { return h.AfterMS }),
				col(func(h handoverRun) float64 { return h.PauseLongestMS - h.PauseMS }))
		}
	}
}

// statementTable lists, phase by phase, what the servers say that they worked on.
func (s *seriesRun) statementTable(b *strings.Builder) {
	if len(s.Statements) == 0 {
		return
	}
	for _, command := range directions {
		fmt.Fprintf(b, "\nStatements of a %s, %s, by the servers' clocks:\n\n| phase | ms | calls | side | statement |\n|---|---|---|---|---|\n", command, s.Name)
		var names []string
		for _, h := range s.Handovers {
			for _, p := range h.Phases {
				if h.Command == command && !slices.Contains(names, p.Name) {
					names = append(names, p.Name)
				}
			}
		}
		for _, name := range names {
			for _, t := range s.Statements {
				if t.Command == command && t.Phase == name {
					fmt.Fprintf(b, "| %s | %.2f | %g | %s | `%s` |\n", name, t.MS, t.Calls, t.Side, strings.ReplaceAll(t.SQL, "|", "¦"))
				}
			}
		}
	}
}
