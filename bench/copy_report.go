package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// of collects a figure over the runs of a contestant.
func (s *copySet) of(name string, figure func(copyRun) float64) (values []float64) {
	for _, r := range s.Runs {
		if r.Contestant == name {
			values = append(values, figure(r))
		}
	}
	return values
}

// cpu is all that a run took.
func (r copyRun) cpu() float64 { return r.SourceCPU + r.TargetCPU + r.ClientCPU }

func wallOf(r copyRun) float64 { return r.Wall }

// ran lists contestants in the order in which they are known.
func (s *copySet) ran() (names []string) {
	for _, name := range contestantNames() {
		if len(s.of(name, wallOf)) > 0 {
			names = append(names, name)
		}
	}
	return names
}

func (r *report) copyTables(b *strings.Builder) {
	for i := range r.Copies {
		s := &r.Copies[i]
		fmt.Fprintf(b, "\n## %s, %s\n\n", s.Database, strings.Replace(s.Pair, "-", " → ", 1))
		fmt.Fprintf(b, "%s. Here: %s on disk with its indexes, %d tables, %d rows, %d indexes. Source %s, target %s; %.2f ms per fsync.",
			s.What, megabytes(s.Bytes), s.Tables, s.Rows, s.Indexes, s.Source, s.Target, s.FsyncMS)
		if s.PGCopyDB != "" {
			fmt.Fprintf(b, " %s.", s.PGCopyDB)
		}
		fmt.Fprintf(b, " Load average before the runs: %s.\n\n", s.loads())
		s.table(b)
		s.stepTable(b)
		s.estimates(b)
		s.killTable(b)
	}
	if len(r.Copies) == 0 {
		return
	}
	b.WriteString("\nWall: until the target holds all rows, indexes, constraints and statistics, ready to be subscribed. " +
		"CPU in seconds, that of clients with all programs that they start. " +
		"Wall ÷ (CPU ÷ cores): how many times longer it took than its CPU time on cores that are all busy to the end; 1 is the least. " +
		"What arrived was compared after each contestant's first run: rows of all tables, valid indexes and constraints.\n\n")
	for _, c := range contestants {
		if slices.ContainsFunc(r.Copies, func(s copySet) bool { return len(s.of(c.name, wallOf)) > 0 }) {
			fmt.Fprintf(b, "- %s: %s.\n", c.name, c.what)
		}
	}
}

// loads is the range of the load averages of one minute.
func (s *copySet) loads() string {
	var all []float64
	for _, r := range s.Runs {
		one, _, _ := strings.Cut(r.Load, " ")
		if load, err := strconv.ParseFloat(one, 64); err == nil {
			all = append(all, load)
		}
	}
	return spread("%.1f", all)
}

func (s *copySet) table(b *strings.Builder) {
	b.WriteString("| contestant | wall s | ratio to pgbaton | servers CPU s (source + target) | client CPU s | wall ÷ (CPU ÷ cores) | pgbaton peak RSS |\n")
	b.WriteString("|---|---|---|---|---|---|---|\n")
	ours := median(s.of("pgbaton", wallOf))
	for _, name := range s.ran() {
		of := func(figure func(copyRun) float64) []float64 { return s.of(name, figure) }
		ratio, rss := "", ""
		if ours > 0 {
			ratio = fmt.Sprintf("%.2f", median(of(wallOf))/ours)
		}
		if peak := median(of(func(r copyRun) float64 { return float64(r.PeakRSS) })); peak > 0 {
			rss = megabytes(int64(peak))
		}
		idle := of(func(r copyRun) float64 { return r.Wall * float64(s.Cores) / max(r.cpu(), 0.001) })
		fmt.Fprintf(b, "| %s | %s | %s | %.1f + %.1f | %s | %.2f | %s |\n", name, spread("%.1f", of(wallOf)), ratio,
			median(of(func(r copyRun) float64 { return r.SourceCPU })), median(of(func(r copyRun) float64 { return r.TargetCPU })),
			spread("%.1f", of(func(r copyRun) float64 { return r.ClientCPU })), median(idle), rss)
	}
}

// stepTable says where the time went, as far as a contestant tells.
func (s *copySet) stepTable(b *strings.Builder) {
	var rows []string
	for _, name := range s.ran() {
		var order []string
		seconds := map[string][]float64{}
		for _, r := range s.Runs {
			if r.Contestant != name {
				continue
			}
			for _, step := range r.Steps {
				if !slices.Contains(order, step.Name) {
					order = append(order, step.Name)
				}
				seconds[step.Name] = append(seconds[step.Name], step.Seconds)
			}
		}
		var parts []string
		for _, step := range order {
			if m := median(seconds[step]); m >= 0.05 {
				parts = append(parts, fmt.Sprintf("%s %.1f", step, m))
			}
		}
		if len(parts) > 0 {
			rows = append(rows, fmt.Sprintf("| %s | %s |\n", name, strings.Join(parts, ", ")))
		}
	}
	if len(rows) > 0 {
		b.WriteString("\n| contestant | seconds of the steps that take some, medians |\n|---|---|\n" + strings.Join(rows, ""))
	}
}

// leastLeft is how many seconds must be left for an estimate of them to count.
const leastLeft = 3

// missed returns by what part of the time that was left an estimate in the second half
// of the run was wrong, either way.
func (r copyRun) missed() (parts []float64) {
	for _, e := range r.Estimates {
		if left := r.Wall - e.At; e.At >= r.Wall/2 && left >= leastLeft {
			parts = append(parts, math.Abs(e.ETA-left)/left)
		}
	}
	return parts
}

// estimates says how well pgbaton knew how long it would take still.
func (s *copySet) estimates(b *strings.Builder) {
	var medians, within []float64
	for _, r := range s.Runs {
		if missed := r.missed(); len(missed) > 0 {
			good := 0
			for _, part := range missed {
				if part <= 0.2 {
					good++
				}
			}
			medians, within = append(medians, 100*median(missed)), append(within, 100*float64(good)/float64(len(missed)))
		}
	}
	if len(medians) > 0 {
		fmt.Fprintf(b, "\nThe time that pgbaton said was left, in the second half of the run while %d s or more were left: wrong by %s %% (median of each run); %s %% of the estimates were wrong by no more than a fifth.\n",
			leastLeft, spread("%.0f", medians), spread("%.0f", within))
	}
}

func (s *copySet) killTable(b *strings.Builder) {
	if len(s.Kills) == 0 {
		return
	}
	of := func(percent int, figure func(killRun) float64) (values []float64) {
		for _, k := range s.Kills {
			if k.Percent == percent && (percent == 0 || k.At > 0) {
				values = append(values, figure(k))
			}
		}
		return values
	}
	alone := median(of(0, killRun.total))
	b.WriteString("\n`pgbaton start` killed with SIGKILL while the application writes, then the same command again until the target is ready:\n\n")
	b.WriteString("| killed at | until killed s | then s | together s | lost s | copied when killed | of it kept | foreign keys left to the switchover |\n|---|---|---|---|---|---|---|---|\n")
	fmt.Fprintf(b, "| left alone | | | %s | | | | |\n", spread("%.1f", of(0, killRun.total)))
	for _, percent := range killPercents[1:] {
		total := of(percent, killRun.total)
		if len(total) == 0 {
			fmt.Fprintf(b, "| %d %% | was done before | | | | | | |\n", percent)
			continue
		}
		fmt.Fprintf(b, "| %.0f %% | %.1f | %.1f | %s | %.1f | %s | %s | %.0f |\n", median(of(percent, func(k killRun) float64 { return k.At })),
			median(of(percent, func(k killRun) float64 { return k.First })), median(of(percent, func(k killRun) float64 { return k.Second })),
			spread("%.1f", total), median(total)-alone, megabytes(int64(median(of(percent, func(k killRun) float64 { return float64(k.Copied) })))),
			megabytes(int64(median(of(percent, func(k killRun) float64 { return float64(k.Kept) })))),
			median(of(percent, func(k killRun) float64 { return float64(k.Later) })))
	}
	var writes int
	var rows int64
	for _, k := range s.Kills {
		writes, rows = writes+k.Writes, max(rows, k.Rows)
	}
	fmt.Fprintf(b, "\nAfter each, the subscription was enabled, and once the target had applied everything its rows (up to %d) were equal to the source's, and so were indexes and constraints, but for the foreign keys named; %d transactions had been written meanwhile in all.\n", rows, writes)
}
