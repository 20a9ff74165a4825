package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTicks is USER_HZ, which Linux fixes at 100 for all that /proc shows.
const clockTicks = 100

// lookInterval is rare enough to take nothing from what is measured: a look every
// 5 ms took 2.5 % of two cores.
const lookInterval = 50 * time.Millisecond

// watch looks at a process until the function it returns is called, after the
// process has ended: peak memory in bytes, and CPU seconds of the children that
// it waited for. Both only grow, so that the last look counts.
//
// The peak is VmHWM and not ru_maxrss: that one starts with the memory of
// whoever forked, which would be ours. Without /proc both are 0.
func watch(pid int) func() (peak int64, children float64) {
	stop, done := make(chan struct{}), make(chan struct{})
	var peak int64
	var children float64
	go func() {
		defer close(done)
		tick := time.NewTicker(lookInterval)
		defer tick.Stop()
		for {
			if b, err := os.ReadFile(procFile(pid, "status")); err == nil {
				peak = max(peak, statusKB(b, "VmHWM:")*1024)
			}
			_, waited, _ := cpuSeconds(pid)
			children = max(children, waited)
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return func() (int64, float64) {
		close(stop)
		<-done
		return peak, children
	}
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// statusKB reads a line like "VmHWM:  12345 kB".
func statusKB(status []byte, key string) int64 {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(key)); ok {
			if f := bytes.Fields(rest); len(f) > 0 {
				n, _ := strconv.ParseInt(string(f[0]), 10, 64)
				return n
			}
		}
	}
	return 0
}

// cpuSeconds reads what a process has used, and what those of its children have
// that it waited for.
func cpuSeconds(pid int) (own, children float64, parent int) {
	b, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return 0, 0, 0
	}
	return parseStat(b)
}

// parseStat reads /proc/PID/stat. The command's name, in parentheses, may
// contain anything.
func parseStat(b []byte) (own, children float64, parent int) {
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const ppid, utime, stime, cutime, cstime = 1, 11, 12, 13, 14 // proc_pid_stat(5), counted from the state
	if len(f) <= cstime {
		return 0, 0, 0
	}
	ticks := func(i int) float64 {
		n, _ := strconv.ParseFloat(f[i], 64)
		return n / clockTicks
	}
	parent, _ = strconv.Atoi(f[ppid])
	return ticks(utime) + ticks(stime), ticks(cutime) + ticks(cstime), parent
}

// serverCPU is the CPU that a server has used so far: the postmaster, the
// children that have ended, and those alive. ok is false without /proc.
func serverCPU(postmaster int) (seconds float64, ok bool) {
	own, children, parent := cpuSeconds(postmaster)
	if parent == 0 {
		return 0, false
	}
	seconds = own + children
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, false
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if own, children, parent := cpuSeconds(pid); parent == postmaster {
			seconds += own + children
		}
	}
	return seconds, true
}

// maxRSS is the peak as wait4 knows it, where there is no /proc.
func maxRSS(u *syscall.Rusage) int64 {
	if runtime.GOOS == "darwin" {
		return int64(u.Maxrss) // bytes there
	}
	return int64(u.Maxrss) * 1024
}
