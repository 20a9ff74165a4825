package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// locate finds the configuration file, once.
func (b *pgBouncer) locate(ctx context.Context) error {
	if b.file != nil {
		return nil
	}
	var settings map[string]string
	if b.ini != "" {
		if _, err := readIni(b.ini, ""); !errors.Is(err, errRelativeInclude) {
			b.file = &iniFile{path: b.ini} // without asking a PgBouncer that may be down
			return nil
		}
	}
	err := b.reached(ctx, func(c *console) (err error) {
		settings, err = c.showConfig(ctx)
		return err
	})
	if err != nil && b.ini == "" {
		return fmt.Errorf("it cannot be asked for its configuration file (name it: --pgbouncer-ini): %w", err)
	}
	if err != nil {
		return fmt.Errorf("it cannot be asked for its working directory, which an %%include needs: %w", err)
	}
	b.file, err = b.find(settings)
	return err
}

// find says which file to work on. What the operator names is believed. What
// PgBouncer names is a file of the machine that PgBouncer runs on: a file of the
// same name here may well be another PgBouncer's.
func (b *pgBouncer) find(settings map[string]string) (*iniFile, error) {
	file := &iniFile{path: b.ini, workDir: workingDirectory(settings)}
	if file.path != "" {
		return file, nil
	}
	file.path = settings["conffile"]
	if file.path == "" {
		return nil, errors.New("it does not tell its configuration file")
	}
	if b.main != nil && !isHere(b.main.conn) {
		return nil, fmt.Errorf("it runs on another machine, and so its configuration file %s is there", file.path)
	}
	if !filepath.IsAbs(file.path) {
		if file.workDir == "" {
			return nil, fmt.Errorf("its configuration file %s is relative to its working directory, which is not known", file.path)
		}
		file.path = filepath.Join(file.workDir, file.path)
	}
	return file, nil
}

// isHere says whether a connection leads to this machine.
func isHere(conn net.Conn) bool {
	addr, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || addr.IP.IsLoopback() {
		return true // a Unix socket
	}
	ours, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range ours {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(addr.IP) {
			return true
		}
	}
	return false
}

// workingDirectory of the PgBouncer, where relative names in its configuration
// begin: by its pidfile, on Linux. Empty when that does not lead to a process
// that was started with its configuration file.
func workingDirectory(settings map[string]string) string {
	text, err := os.ReadFile(settings["pidfile"])
	if err != nil {
		return ""
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return ""
	}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	command, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil || !strings.Contains("\x00"+string(command), "\x00"+settings["conffile"]+"\x00") {
		return ""
	}
	dir, err := os.Readlink(filepath.Join(proc, "cwd"))
	if err != nil {
		return ""
	}
	return dir
}
