package cluster

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// dieWithParent asks the kernel for an immediate shutdown of the server when its parent thread dies.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }

// childrenOf lists the processes whose parent is pid.
func childrenOf(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list the server's processes: %w", err)
	}
	var children []int
	for _, e := range entries {
		p, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if state, parent := processStat(p); parent == pid && state != 'Z' {
			children = append(children, p)
		}
	}
	return children, nil
}

// alive says whether a process still runs. A zombie does not: who inherits it may never wait for it.
func alive(pid int) bool {
	state, _ := processStat(pid)
	return state != 0 && state != 'Z' && state != 'X'
}

// processStat reads state and parent from /proc/PID/stat; 0 when there is no such process. The
// command's name, in parentheses, may contain anything, parentheses included.
func processStat(pid int) (state byte, parent int) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 2 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(string(f[1]))
	return f[0][0], parent
}
