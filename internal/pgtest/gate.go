package pgtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// This file holds a program up at an exact place, without anything in the program that helps: it waits
// for a lock that a session of the test holds, or in a command that it runs and that reads from a pipe.

// Held is a session that holds what others wait for.
type Held struct {
	conn *pgx.Conn
	once sync.Once
}

// Hold opens a session that may write, fence or not, and runs statements in a transaction that stays open
// until Release, at the end of the test at the latest.
func Hold(t testing.TB, connString string, sql ...string) *Held {
	t.Helper()
	config, err := pgx.ParseConfig(connString)
	if err != nil {
		t.Fatal(err)
	}
	// As the session's own setting from its first moment: the database's default is read-only.
	config.RuntimeParams["default_transaction_read_only"] = "off"
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatalf("connect to %s: %v", connString, err)
	}
	h := &Held{conn: conn}
	t.Cleanup(h.Release)
	for _, s := range append([]string{"BEGIN"}, sql...) {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	return h
}

// Release rolls back and ends the session; its server may be gone.
func (h *Held) Release() {
	h.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, _ = h.conn.Exec(ctx, "ROLLBACK") // when this has returned the locks are free
		_ = h.conn.Close(ctx)
	})
}

// Until asks again and again until a condition holds; the test fails when that takes too long.
func Until(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, within)
		}
		if t.Context().Err() != nil {
			t.Fatalf("%s: %v", what, t.Context().Err())
		}
	}
}

// UntilTrue is Until for a query, in a session of its own.
func UntilTrue(t testing.TB, connString string, within time.Duration, what, sql string, args ...any) {
	t.Helper()
	conn := Connect(t, connString)
	Until(t, within, what, func() bool { return QueryValue[bool](t, conn, sql, args...) })
	_ = conn.Close(t.Context())
}

// AwaitWaiting waits until a session that a condition on pg_stat_activity picks waits for a lock.
func AwaitWaiting(t testing.TB, connString, who string) {
	t.Helper()
	UntilTrue(t, connString, time.Minute, "a session that waits for a lock: "+who,
		`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND `+who+`)`)
}

// Fifo is a named pipe at which commands wait. It is open for writing as long as the test runs: nobody
// waits for the other end, and at the end of the test whoever still reads gets its end.
type Fifo struct {
	name string
	file *os.File
}

// NewFifo makes one.
func NewFifo(t testing.TB) *Fifo {
	t.Helper()
	f := &Fifo{name: filepath.Join(t.TempDir(), "gate")}
	err := syscall.Mkfifo(f.name, 0o600)
	if err == nil {
		f.file, err = os.OpenFile(f.name, os.O_RDWR, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.file.Close() })
	return f
}

// Command is a shell command that prints a text and waits at the gate.
func (f *Fifo) Command(text string) string { return fmt.Sprintf("echo %s; read _ <%s", text, f.name) }

// Open lets n commands through, those that come later too.
func (f *Fifo) Open(t testing.TB, n int) {
	t.Helper()
	for range n {
		if _, err := f.file.WriteString("go\n"); err != nil {
			t.Error(err)
		}
	}
}
