package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// machine is where the figures come from. What cannot be found out is empty.
type machine struct {
	CPU      string `json:"cpu"`
	Cores    int    `json:"cores"`
	MemoryMB int64  `json:"memory_mb"`
	Kernel   string `json:"kernel"`
	System   string `json:"system"`
	Load     string `json:"load_average"` // before the first run
	Go       string `json:"go"`
}

func describeMachine() machine {
	m := machine{Cores: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		m.MemoryMB = statusKB(b, "MemTotal:") / 1024
	}
	m.Kernel = firstLine("/proc/sys/kernel/osrelease")
	m.Load = loadAverage()
	return m
}

// loadAverage is that of the last 1, 5 and 15 minutes.
func loadAverage() string {
	if f := strings.Fields(firstLine("/proc/loadavg")); len(f) >= 3 {
		return strings.Join(f[:3], " ")
	}
	return ""
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return string(line)
}

// fsyncMedian is how many milliseconds the disk takes to make one WAL page
// durable: each synchronous commit of a handover waits for it. 0 if it cannot
// be measured.
func fsyncMedian(dir string) float64 {
	f, err := os.OpenFile(filepath.Join(dir, "fsync"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 8192)
	var ms []float64
	for range 50 {
		began := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return 0
		}
		if err := syscall.Fsync(int(f.Fd())); err != nil {
			return 0
		}
		ms = append(ms, float64(time.Since(began).Microseconds())/1000)
	}
	return median(ms)
}

// quantile is the smallest value that a part q of all do not exceed.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[min(len(s)-1, max(0, int(math.Ceil(q*float64(len(s))))-1))]
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func describeOptions(o options) []string {
	return []string{
		"--from=" + strconv.Itoa(o.from), "--to=" + strconv.Itoa(o.to), "--orders=" + strconv.Itoa(o.orders),
		"--runs=" + strconv.Itoa(o.runs), "--methods=" + strings.Join(o.methods, ","), "--jobs=" + strconv.Itoa(o.jobs),
		"--handovers=" + strconv.Itoa(o.handovers), "--clients=" + strconv.Itoa(o.clients), fmt.Sprintf("--rate=%g", o.rate),
	}
}
