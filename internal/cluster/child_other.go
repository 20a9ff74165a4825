//go:build !linux

package cluster

import (
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

// dieWithParent has no counterpart outside Linux: there a server outlives a parent that was killed,
// and is ended by the next use of its port or by hand.
func dieWithParent(*syscall.SysProcAttr) {}

// childrenOf lists the processes whose parent is pid.
func childrenOf(pid int) ([]int, error) {
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
	if err != nil {
		return nil, fmt.Errorf("list the server's processes: %w", err)
	}
	var children []int
	for line := range bytes.Lines(out) {
		f := bytes.Fields(line)
		if len(f) == 2 && string(f[1]) == strconv.Itoa(pid) {
			if p, err := strconv.Atoi(string(f[0])); err == nil {
				children = append(children, p)
			}
		}
	}
	return children, nil
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
