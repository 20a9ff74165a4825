package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// report is everything that was measured.
type report struct {
	At            time.Time   `json:"at"`
	Machine       machine     `json:"machine"`
	FsyncMS       float64     `json:"fsync_ms,omitempty"` // median for one page
	Options       []string    `json:"options"`
	Source        string      `json:"source_version,omitempty"`
	Target        string      `json:"target_version,omitempty"`
	DatabaseBytes int64       `json:"database_bytes,omitempty"` // of the shop that start copied
	Starts        []startRun  `json:"starts,omitempty"`
	Series        []seriesRun `json:"series,omitempty"` // of handovers
	Copies        []copySet   `json:"copies,omitempty"`
	Large         []largeSet  `json:"large,omitempty"` // transactions right before a switchover
}

// write prints the report and keeps it in two files, which are named by what was
// measured.
func (r *report) write(dir, name string, out io.Writer) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	body, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	text := r.markdown()
	for suffix, b := range map[string][]byte{".json": append(body, '\n'), ".md": []byte(text)} {
		if err := os.WriteFile(filepath.Join(dir, name+suffix), b, 0o644); err != nil {
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
	fmt.Fprintf(&b, "Machine: %s, %d cores, %d MB memory, %s, kernel %s, %s; load average before: %s; %s UTC.\n",
		m.CPU, m.Cores, m.MemoryMB, m.System, m.Kernel, m.Go, m.Load, r.At.Format(time.DateTime))
	fmt.Fprintf(&b, "All servers, pgbaton and the load on this machine, fsync on; %s.\n\n", describeSettings())
	fmt.Fprintf(&b, "Options: `%s`. Median (smallest–largest).\n", strings.Join(r.Options, " "))
	if len(r.Starts) > 0 {
		fmt.Fprintf(&b, "Source %s, target %s; %.2f ms per fsync.\n", r.Source, r.Target, r.FsyncMS)
		r.startTable(&b)
		r.stepTable(&b)
	}
	if len(r.Series) > 0 {
		r.handoverTables(&b)
	}
	r.copyTables(&b)
	r.largeTables(&b)
	return b.String()
}

func describeSettings() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		parts = append(parts, name+" "+settings[name])
	}
	return strings.Join(parts, ", ")
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
