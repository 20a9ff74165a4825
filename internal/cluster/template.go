package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
)

// fromTemplate copies a data directory made earlier, making it first if there is none. Processes that
// start clusters at the same time agree by a lock on a file.
func (c *Cluster) fromTemplate(ctx context.Context) error {
	template, err := c.templateName()
	if err != nil {
		return err
	}
	if err := c.makeTemplate(ctx, template); err != nil {
		return err
	}
	if err := c.copyTree(template, c.DataDir()); err != nil {
		return err
	}
	return newSystemIdentifier(c.DataDir())
}

// templateName tells apart what may not be mixed: accounts, and builds of the server.
func (c *Cluster) templateName() (string, error) {
	program, err := os.Stat(filepath.Join(c.options.BinDir, "postgres"))
	if err != nil {
		return "", err
	}
	h := fnv.New64a()
	fmt.Fprint(h, c.options.BinDir, program.Size(), program.ModTime())
	return filepath.Join(c.options.TemplateDir, fmt.Sprintf("pg%d-%d-%x", c.options.Major, c.account.uid, h.Sum64())), nil
}

func (c *Cluster) makeTemplate(ctx context.Context, template string) error {
	if _, err := os.Stat(template); err == nil {
		return nil
	}
	lock, err := os.OpenFile(template+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() // unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(template); err == nil {
		return nil // another process was faster
	}
	made := filepath.Join(c.dir, "template")
	if err := c.initdb(ctx, made); err != nil {
		return err
	}
	// The copy gets its name only when it is whole: a template is complete or absent.
	half, err := os.MkdirTemp(c.options.TemplateDir, "half-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(half)
	if err := c.copyTree(made, filepath.Join(half, "data")); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(half, "data"), template); err != nil {
		return err
	}
	return os.RemoveAll(made)
}

// copyTree copies directories and regular files, and gives them to the account.
func (c *Cluster) copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if d.IsDir() {
			err = os.Mkdir(target, 0o700)
		} else {
			err = copyFile(path, target)
		}
		if err == nil && c.account.switched {
			err = os.Chown(target, int(c.account.uid), int(c.account.gid))
		}
		return err
	})
}

// copyFile lets the kernel copy, which on some file systems shares the blocks.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = out.ReadFrom(in)
	return errors.Join(err, out.Close())
}

// Where the system identifier stands in a fresh data directory, in every version from 10 to 19: at the
// beginning of the control file, and after the short header of the first page of WAL. The control
// file's checksum follows its last field, whose offset differs between versions.
const (
	controlFile      = "global/pg_control"
	firstSegment     = "pg_wal/000000010000000000000001"
	walIdentifierPos = 24
	maxControlData   = 512
)

// newSystemIdentifier makes a copied data directory a cluster of its own: two clusters with one
// identifier would look like one and the same, or like primary and standby.
func newSystemIdentifier(data string) error {
	control, err := os.OpenFile(filepath.Join(data, controlFile), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	b := make([]byte, maxControlData)
	if _, err := control.ReadAt(b, 0); err != nil {
		return err
	}
	pos, err := checksumPosition(b)
	if err != nil {
		return err
	}
	// As initdb's, but random where that has time and process id: positive, and never the same twice.
	id := make([]byte, 8)
	binary.NativeEndian.PutUint64(id, rand.Uint64()>>1)
	copy(b, id)
	binary.NativeEndian.PutUint32(b[pos:], crc32.Checksum(b[:pos], castagnoli))
	if _, err := control.WriteAt(b[:pos+4], 0); err != nil {
		return err
	}
	wal, err := os.OpenFile(filepath.Join(data, firstSegment), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = wal.WriteAt(id, walIdentifierPos)
	return errors.Join(err, wal.Close())
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksumPosition(control []byte) (int, error) {
	for pos := 8; pos+4 <= len(control); pos += 4 {
		if binary.NativeEndian.Uint32(control[pos:]) == crc32.Checksum(control[:pos], castagnoli) {
			return pos, nil
		}
	}
	return 0, errors.New("no checksum found in the control file of the template")
}
