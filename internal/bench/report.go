package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// report is everything that was measured.
type report struct {
	At            time.Time     `json:"at"`
	Machine       machine       `json:"machine"`
	FsyncMS       float64       `json:"fsync_ms"` // median for one page
	Options       []string      `json:"options"`
	Source        string        `json:"source_version"`
	Target        string        `json:"target_version"`
	DatabaseBytes int64         `json:"database_bytes,omitempty"` // of the shop that start copied
	Starts        []startRun    `json:"starts"`
	Handovers     []handoverRun `json:"handovers"`
}

// write prints the report and keeps it in two files.
func (r *report) write(dir string, out io.Writer) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	body, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	text := r.markdown()
	for name, b := range map[string][]byte{"start.json": append(body, '\n'), "start.md": []byte(text)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	_, err = io.WriteString(out, text)
	return err
}

// spread prints the median, and the extremes behind it.
func spread(format string, values []float64) string {
	f := func(v float64) string { return fmt.Sprintf(format, v) }
	if len(values) < 2 {
		return f(median(values))
	}
	return fmt.Sprintf("%s (%s–%s)", f(median(values)), f(slices.Min(values)), f(slices.Max(values)))
}

func megabytes(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/(1<<20)) }

func (r *report) markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "Machine: %s, %d cores, %d MB memory, %s, kernel %s; %.2f ms per fsync; load average before: %s.\n",
		m.CPU, m.Cores, m.MemoryMB, m.System, m.Kernel, r.FsyncMS, m.Load)
	fmt.Fprintf(&b, "Source %s, target %s, both on this machine, fsync on; %s; %s.\n\n",
		r.Source, r.Target, m.Go, r.At.Format(time.DateTime)+" UTC")
	fmt.Fprintf(&b, "Options: `%s`. Median (smallest–largest).\n", strings.Join(r.Options, " "))
	if len(r.Starts) > 0 {
		r.startTable(&b)
		r.stepTable(&b)
	}
	if len(r.Handovers) > 0 {
		r.handoverTable(&b)
	}
	return b.String()
}

// methods lists those measured, in the order of their first run.
func (r *report) methods() (names []string) {
	for _, s := range r.Starts {
		if !slices.Contains(names, s.Method) {
			names = append(names, s.Method)
		}
	}
	return names
}

// of collects a figure over the runs of a method.
func (r *report) of(method string, figure func(startRun) float64) (values []float64) {
	for _, s := range r.Starts {
		if s.Method == method {
			values = append(values, figure(s))
		}
	}
	return values
}

func (r *report) startTable(b *strings.Builder) {
	fmt.Fprintf(b, "\n## start, %s\n\n", megabytes(r.DatabaseBytes))
	b.WriteString("| method | wall s | ratio | bytes copied | pgbaton CPU s | pg_dump, pg_restore CPU s | servers CPU s (source + target) | pgbaton peak RSS |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|\n")
	wall := func(s startRun) float64 { return s.Wall }
	methods := r.methods()
	first := median(r.of(methods[0], wall))
	for _, method := range methods {
		of := func(figure func(startRun) float64) []float64 { return r.of(method, figure) }
		fmt.Fprintf(b, "| %s | %s | %.2f | %s | %s | %s | %.1f + %.1f | %s |\n", method,
			spread("%.1f", of(wall)), median(of(wall))/first,
			megabytes(int64(median(of(func(s startRun) float64 { return float64(s.BytesCopied) })))),
			spread("%.2f", of(func(s startRun) float64 { return s.OwnCPU })),
			spread("%.2f", of(func(s startRun) float64 { return s.ToolsCPU })),
			median(of(func(s startRun) float64 { return s.SourceCPU })), median(of(func(s startRun) float64 { return s.TargetCPU })),
			megabytes(int64(median(of(func(s startRun) float64 { return float64(s.PeakRSS) })))))
	}
	b.WriteString("\nBytes copied are those of the COPY streams for stream, and of the tables on disk for native and dump.\n")
}

func (r *report) stepTable(b *strings.Builder) {
	b.WriteString("\nSeconds of the steps that take some, medians:\n\n| method | steps |\n|---|---|\n")
	for _, method := range r.methods() {
		steps := map[string][]float64{}
		for _, s := range r.Starts {
			if s.Method == method {
				for name, seconds := range s.Steps {
					steps[name] = append(steps[name], seconds)
				}
			}
		}
		var parts []string
		for name, seconds := range steps {
			if m := median(seconds); m >= 0.05 {
				parts = append(parts, fmt.Sprintf("%s %.1f", name, m))
			}
		}
		slices.SortFunc(parts, func(a, c string) int { return strings.Compare(a, c) })
		fmt.Fprintf(b, "| %s | %s |\n", method, strings.Join(parts, ", "))
	}
}

func (r *report) handoverTable(b *strings.Builder) {
	fmt.Fprintf(b, "\n## switchover\n\nUnder load: %d shoppers on direct connections, %d orders a second.\n\n", shoppers, ordersPerSec)
	b.WriteString("| | pause ms | slowest order ms, before | slowest order ms, around | failed orders |\n|---|---|---|---|---|\n")
	phases := map[bool]map[string][]float64{false: {}, true: {}}
	var order []string
	for _, load := range []bool{false, true} {
		var pause, before, around []float64
		var failed int64
		for _, h := range r.Handovers {
			if h.Load != load {
				continue
			}
			pause, before, around = append(pause, h.PauseMS), append(before, h.SlowestBeforeMS), append(around, h.SlowestMS)
			failed += h.FailedOrders
			for _, p := range h.Phases {
				if !slices.Contains(order, p.Name) {
					order = append(order, p.Name)
				}
				phases[load][p.Name] = append(phases[load][p.Name], p.MS)
			}
		}
		if !load {
			fmt.Fprintf(b, "| idle | %s | – | – | – |\n", spread("%.0f", pause))
			continue
		}
		fmt.Fprintf(b, "| load | %s | %s | %s | %d |\n", spread("%.0f", pause), spread("%.0f", before), spread("%.0f", around), failed)
	}
	b.WriteString("\n| phase | idle ms | load ms |\n|---|---|---|\n")
	for _, name := range order {
		fmt.Fprintf(b, "| %s | %s | %s |\n", name, spread("%.1f", phases[false][name]), spread("%.1f", phases[true][name]))
	}
}
