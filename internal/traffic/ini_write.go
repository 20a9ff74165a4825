package traffic

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// replacement writes a new version of a file beside it, to take its place at
// once. PgBouncer, or a machine that loses power, finds the old file or the new
// one, never a part.
type replacement struct {
	path string // the file itself, no symbolic link
	temp *os.File
}

// newReplacement opens a file that may replace another: in the same directory,
// with the same mode, owner and group. A symbolic link stays, what it leads to
// is replaced.
func newReplacement(name string) (r *replacement, err error) {
	path, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil, err
	}
	old, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !old.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".pgbaton-")
	if err != nil {
		return nil, err
	}
	r = &replacement{path: path, temp: temp}
	if err := r.likeOld(old); err != nil {
		return nil, errors.Join(err, r.discard())
	}
	return r, nil
}

// likeOld gives the new file the old one's owner and mode: in this order, as a
// change of owner clears bits of the mode.
func (r *replacement) likeOld(old fs.FileInfo) error {
	info, err := r.temp.Stat()
	if err != nil {
		return err
	}
	was, ok1 := old.Sys().(*syscall.Stat_t)
	is, ok2 := info.Sys().(*syscall.Stat_t)
	if ok1 && ok2 && (was.Uid != is.Uid || was.Gid != is.Gid) {
		if err := r.temp.Chown(int(was.Uid), int(was.Gid)); err != nil {
			return fmt.Errorf("keeping the owner %d and group %d of %s: %w", was.Uid, was.Gid, r.path, err)
		}
	}
	return r.temp.Chmod(old.Mode())
}

func (r *replacement) discard() error {
	return errors.Join(r.temp.Close(), os.Remove(r.temp.Name()))
}

// commit writes the text and puts the new file into the old one's place.
func (r *replacement) commit(text []byte) error {
	_, err := r.temp.Write(text)
	if err == nil {
		err = r.temp.Sync()
	}
	if err != nil {
		return errors.Join(err, r.discard())
	}
	if err := r.temp.Close(); err != nil {
		return errors.Join(err, os.Remove(r.temp.Name()))
	}
	if err := os.Rename(r.temp.Name(), r.path); err != nil {
		return errors.Join(err, os.Remove(r.temp.Name()))
	}
	dir, err := os.Open(filepath.Dir(r.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// tryReplacement finds out whether a file can be replaced, without doing it.
func tryReplacement(name string) error {
	r, err := newReplacement(name)
	if err != nil {
		return err
	}
	return r.discard()
}

// repointFile makes the entry of a database lead elsewhere, in the file that
// holds it. Every other byte stays. Nothing is written when it leads there
// already.
func repointFile(ini, workDir, database string, to destination) (file string, changed bool, err error) {
	config, err := readIni(ini, workDir)
	if err != nil {
		return ini, false, err
	}
	entry, ok := config.database(database)
	if !ok {
		return ini, false, fmt.Errorf("%s holds no entry %s in [databases]", ini, quoteName(database))
	}
	value, err := repoint(database, entry.value, to)
	if err != nil {
		return entry.file, false, fmt.Errorf("%s, entry %s: %w", entry.file, quoteName(database), err)
	}
	if value == entry.value {
		return entry.file, false, nil
	}
	r, err := newReplacement(entry.file)
	if err != nil {
		return entry.file, false, err
	}
	text, err := os.ReadFile(r.path)
	if err == nil && (entry.end > len(text) || string(text[entry.start:entry.end]) != entry.value) {
		err = fmt.Errorf("%s is being changed by somebody else", r.path)
	}
	if err != nil {
		return entry.file, false, errors.Join(err, r.discard())
	}
	fresh := append([]byte{}, text[:entry.start]...)
	fresh = append(fresh, value...)
	return entry.file, true, r.commit(append(fresh, text[entry.end:]...))
}
