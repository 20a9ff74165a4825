package migrate

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"pgbaton/internal/event"
	"pgbaton/internal/phrase"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
	"pgbaton/internal/routine"
)

// This file watches the WAL that the source keeps for our slots while rows are
// copied (rule 7).

const (
	walEvery  = 2 * time.Second
	walWindow = time.Minute // over which its growth is measured
)

// walLimit is a bound of what the source keeps.
type walLimit struct {
	bytes int64 // retained, at which it is met
	of    string
}

// watchWAL watches until stop is called. What it returns in place of ctx ends with
// errRetained when --max-slot-wal is met.
func (st *start) watchWAL(ctx context.Context) (watched context.Context, stop func(), err error) {
	conn, err := st.Source.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	watched, cancel := context.WithCancelCause(ctx)
	end := make(chan struct{})
	watching := routine.Start(func() {
		defer conn.Close(context.WithoutCancel(ctx))
		tick := time.NewTicker(walEvery)
		defer tick.Stop()
		var samples []walSample
		for {
			bytes, err := st.retained(watched, conn)
			if err == nil {
				samples = append(samples, walSample{time.Now(), bytes})
				for len(samples) > 2 && time.Since(samples[1].at) > walWindow {
					samples = samples[1:]
				}
				st.reportWAL(watched, conn, samples)
				if st.MaxSlotWAL > 0 && bytes > st.MaxSlotWAL {
					cancel(fmt.Errorf("%w: the source keeps %d MB of WAL for the copy", errRetained, bytes>>20))
					return
				}
			}
			select {
			case <-tick.C:
			case <-end:
				return
			case <-watched.Done():
				return
			}
		}
	})
	return watched, func() { close(end); watching.Wait() }, nil
}

type walSample struct {
	at    time.Time
	bytes int64
}

// retained is what the source keeps for the slot that is furthest behind.
func (st *start) retained(ctx context.Context, conn *postgres.Session) (bytes int64, err error) {
	for _, g := range st.groups {
		slot, err := replication.ReadSlot(ctx, conn, g.Name())
		if err != nil {
			return 0, err
		}
		if slot != nil {
			bytes = max(bytes, slot.RetainedBytes)
		}
	}
	return bytes, nil
}

// reportWAL says how much is kept, how fast that grows, and when the nearest limit
// is met.
func (st *start) reportWAL(ctx context.Context, conn *postgres.Session, samples []walSample) {
	first, last := samples[0], samples[len(samples)-1]
	e := event.RetainedWAL{Bytes: last.bytes}
	if seconds := last.at.Sub(first.at).Seconds(); seconds > 0 {
		e.BytesPerSec = max(0, float64(last.bytes-first.bytes)/seconds)
	}
	limits := st.walLimits(ctx, conn, last.bytes)
	for _, l := range limits {
		if e.Limit == 0 || l.bytes < e.Limit {
			e.Limit, e.LimitOf = l.bytes, l.of
		}
	}
	e.SecondsLeft = secondsLeft(e)
	st.Observe(e)
}

// secondsLeft is when the limit is met if all goes on as it does. What is farther
// away than a forecast goes is none.
func secondsLeft(e event.RetainedWAL) float64 {
	if e.Limit == 0 || e.BytesPerSec <= 0 {
		return 0
	}
	left := float64(max(0, e.Limit-e.Bytes)) / e.BytesPerSec
	if left >= phrase.Farthest.Seconds() {
		return 0
	}
	return left
}

// walLimits are those that are known. A server does not tell how much room its
// disk has; that of a server on this machine can be seen.
func (st *start) walLimits(ctx context.Context, conn *postgres.Session, now int64) (limits []walLimit) {
	if st.MaxSlotWAL > 0 {
		limits = append(limits, walLimit{st.MaxSlotWAL, "--max-slot-wal"})
	}
	var keep int64 // MB; the view has no such row before 13
	err := conn.QueryRow(ctx, `SELECT coalesce((SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'), -1)`).Scan(&keep)
	if err == nil && keep >= 0 {
		limits = append(limits, walLimit{keep << 20, "max_slot_wal_keep_size"})
	}
	if free, ok := freeDisk(ctx, st.Source, conn); ok {
		limits = append(limits, walLimit{now + free, "free disk"})
	}
	return limits
}

// freeDisk is the room on the disk with the server's WAL, where that is a disk of
// this machine. A connection from this machine to itself may lead through a
// tunnel: the server's process must be here, in that directory.
func freeDisk(ctx context.Context, server *postgres.Server, conn *postgres.Session) (bytes int64, ok bool) {
	host := server.Host()
	if ip := net.ParseIP(host); !filepath.IsAbs(host) && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return 0, false
	}
	var dir string
	var pid int
	// The role may not be allowed to know.
	if err := conn.QueryRow(ctx, `SELECT pg_catalog.current_setting('data_directory'), pg_catalog.pg_backend_pid()`).Scan(&dir, &pid); err != nil {
		return 0, false
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != dir {
		return 0, false
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(filepath.Join(dir, "pg_wal"), &fs); err != nil {
		return 0, false
	}
	return int64(fs.Bavail) * int64(fs.Bsize), true
}
