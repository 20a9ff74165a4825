package cli_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"pgbaton/internal/pgtest"
)

// The size at which files end while the disk is "full": above a segment of WAL,
// which a server must be able to write to the end, below the table that grows.
const fullAt = 17 << 20

// limitFiles bounds the size of the files that a server's processes may write; ""
// lifts the bound. A write beyond it fails as it does on a full disk, with EFBIG
// for ENOSPC. As the server's own user: root without CAP_SYS_RESOURCE, as in many
// containers, may not do it to somebody else's process.
func (b *bed) limitFiles(side, bytes string, pids ...int32) {
	b.t.Helper()
	info, err := os.Stat(b.cluster(side).DataDir())
	if err != nil {
		b.t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	if bytes == "" {
		bytes = "unlimited"
	}
	// The postmaster first: whoever it starts from now on has its limit.
	for _, pid := range append([]int32{int32(b.cluster(side).PID())}, pids...) {
		// The soft limit alone, or it could not be lifted again.
		cmd := exec.Command("prlimit", "--pid", strconv.Itoa(int(pid)), "--fsize="+bytes+":")
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
		}
		if out, err := cmd.CombinedOutput(); err != nil && syscall.Kill(int(pid), 0) == nil {
			b.t.Fatalf("prlimit: %v\n%s", err, out)
		}
	}
}

// TestFaultDiskFull: the taker cannot write what the drain waits for, because its
// disk is full. The handover gives up within its budget, the holder serves, and
// when there is space again everything goes well.
func TestFaultDiskFull(t *testing.T) {
	t.Parallel()
	b := newBedWith(t, 13, 17, func(b *bed) {
		pgtest.Exec(t, b.app(source), `CREATE TABLE app.ballast (i int PRIMARY KEY, t text)`,
			`INSERT INTO app.ballast SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i`)
	})
	for n, holder := range []string{source, target} {
		if !b.in(t, commandTo(other(holder)), func(b *bed) {
			t := b.t
			b.holds(holder)
			d := b.begin("pause", holder, "--max-pause", "4s")
			workers := func(who string) []int32 {
				conn := pgtest.Connect(t, b.admin(d.taker))
				defer conn.Close(t.Context())
				return pgtest.QueryValue[[]int32](t, conn, `SELECT array_agg(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND `+who)
			}
			b.limitFiles(d.taker, strconv.Itoa(fullAt), workers(`backend_type LIKE 'logical replication%worker'`)...)
			pgtest.Exec(t, b.app(holder), fmt.Sprintf(`INSERT INTO app.ballast SELECT i, repeat('y', 1000) FROM generate_series(%d, %d) i`, 100000*(n+1), 100000*(n+1)+5000))
			d.release()
			r := d.p.Wait(t)
			if r.Code != 4 || !strings.Contains(r.Stdout, "phase drain") {
				t.Fatalf("%s", r)
			}
			if !strings.Contains(b.cluster(d.taker).Log(), "File too large") {
				t.Error("the disk was not full")
			}
			b.only(holder)
			b.writes(5)
			if s := b.status(holder, ""); s["lag_seconds_at_least"] != true {
				t.Errorf("status does not say that the taker is behind: %v", s)
			}
			b.limitFiles(d.taker, "", workers("true")...)
			b.done(d.taker)
		}) {
			return
		}
	}
	b.account(source)
}
