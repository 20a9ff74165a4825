package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is who the server runs as: ourselves, or, since postgres refuses to run as root, an
// unprivileged user of the system.
type account struct {
	name     string
	uid, gid uint32
	switched bool // another user than ourselves
}

func serverAccount() (account, error) {
	if uid := os.Geteuid(); uid != 0 {
		return account{name: "user " + strconv.Itoa(uid), uid: uint32(uid), gid: uint32(os.Getegid())}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return account{}, fmt.Errorf("user %s: %w", name, err)
		}
		return account{name: "user " + name, uid: uint32(uid), gid: uint32(gid), switched: true}, nil
	}
	return account{}, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as; start this as another user")
}

func (a account) credential() *syscall.Credential {
	if !a.switched {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

// makeDir makes a new directory for the account below parent.
func (a account) makeDir(parent, prefix string) (string, error) {
	if parent == "" {
		parent = os.TempDir()
	}
	parent, err := filepath.Abs(parent)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return "", err
	}
	if a.switched {
		if err := os.Chown(dir, int(a.uid), int(a.gid)); err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// writeFile writes a file that the account, and nobody else, can read.
func (a account) writeFile(name, text string) error {
	err := os.WriteFile(name, []byte(text), 0o600)
	if err == nil && a.switched {
		err = os.Chown(name, int(a.uid), int(a.gid))
	}
	return err
}

// mustReach returns an error with the remedy when the account lacks the permission to enter one of the
// directories above path, or path itself. Only another user's account is looked at: our own finds out
// by trying.
func (a account) mustReach(path, remedy string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if !a.switched {
		return nil
	}
	for p := path; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		if !a.mayExecute(info) {
			return fmt.Errorf("PostgreSQL has to run as %s, who may not enter %s (mode %v); %s", a.name, p, info.Mode().Perm(), remedy)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

func (a account) mayExecute(info fs.FileInfo) bool {
	perm := info.Mode().Perm()
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && st.Uid == a.uid:
		return perm&0o100 != 0
	case ok && st.Gid == a.gid:
		return perm&0o010 != 0
	default:
		return perm&0o001 != 0
	}
}
