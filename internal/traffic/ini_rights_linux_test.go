package traffic

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/refusal"
)

// asOwner does something with the rights that the owner of a file has to files. When we are somebody
// else we are root.
func asOwner(t *testing.T, file string, do func()) {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine, and its rights with it
		owner := info.Sys().(*syscall.Stat_t)
		err := errors.Join(syscall.Setfsgid(int(owner.Gid)), syscall.Setfsuid(int(owner.Uid)))
		if err == nil {
			do()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestFileRights: a file that may not be read, or not be replaced, is found, and it is not any more when
// that was changed which the remedy names.
func TestFileRights(t *testing.T) {
	t.Parallel()
	pooler := pgtest.StartPooler(t, "", cluster.PoolerOptions{Databases: map[string]cluster.PoolerDatabase{"shop": {Port: 1}}})
	m := mover(t, pooler)
	end := Endpoint{Host: "127.0.0.1", Port: 1, Database: "shop"}
	finds := func() []refusal.Reason {
		t.Helper()
		f, ctx := &findings{}, within(t, 20*time.Second)
		asOwner(t, pooler.IniPath(), func() { m.all[0].check(ctx, "shop", Route{From: end, To: end}, 10*time.Second, f) })
		return f.reasons
	}
	for _, right := range []struct {
		path         string
		taken, given os.FileMode
		why, remedy  string
	}{
		{pooler.IniPath(), 0, 0o600, "permission denied", "run pgbaton on PgBouncer's host, as a user that may read the file"},
		{filepath.Dir(pooler.IniPath()), 0o555, 0o755, "cannot be replaced", "with write permission on its directory"},
	} {
		if err := os.Chmod(right.path, right.taken); err != nil {
			t.Fatal(err)
		}
		hasReason(t, finds(), right.why, right.remedy)
		if err := os.Chmod(right.path, right.given); err != nil {
			t.Fatal(err)
		}
		if reasons := finds(); len(reasons) > 0 {
			t.Errorf("%+v", reasons)
		}
	}
}
