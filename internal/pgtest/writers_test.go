package pgtest

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestWritersCheck breaks what a few writers wrote, in every way that Check must see.
func TestWritersCheck(t *testing.T) {
	t.Parallel()
	c := Start(t, 12)
	uri := c.ConnString("postgres")
	Exec(t, uri, WriterSchema, "CREATE ROLE app LOGIN", "GRANT USAGE ON SCHEMA app TO app",
		"GRANT ALL ON ALL TABLES IN SCHEMA app TO app", "GRANT ALL ON ALL SEQUENCES IN SCHEMA app TO app")
	w := StartWriters(t.Context(), t, uri, 3, WritersOptions{Rate: 1000, Count: 50, User: "app", PGOptions: "-c work_mem=5MB"})
	w.Wait()
	conn := Connect(t, uri)
	if got := QueryValue[int](t, conn, "SELECT count(*) FROM app.writer_log"); got != 150 {
		t.Errorf("%d transactions", got)
	}
	if problems := w.Check(t.Context(), conn); len(problems) > 0 {
		t.Fatalf("problems in an untouched database: %q", problems)
	}
	for sql, want := range map[string]string{
		"DELETE FROM app.writer_log WHERE writer = 1 AND seq = 7":                                                                 "app.writer_log: writer 1 transaction 7 was acknowledged but is missing",
		"DELETE FROM app.writer_heap WHERE writer = 1 AND seq = 7":                                                                "app.writer_heap: writer 1 transaction 7 was acknowledged but is missing",
		"INSERT INTO app.writer_heap SELECT * FROM app.writer_heap WHERE writer = 2 AND seq = 9":                                  "app.writer_heap: writer 2 transaction 9 is there 2 times",
		"ALTER TABLE app.writer_log DROP CONSTRAINT writer_log_pkey; INSERT INTO app.writer_log SELECT * FROM app.writer_log":     "app.writer_log: writer 0 transaction 1 is there 2 times",
		"INSERT INTO app.writer_log VALUES (0, 51, '')":                                                                           "app.writer_log: writer 0 transaction 51 is present but was never sent",
		"UPDATE app.writer_slot SET seq = seq - 10 WHERE writer = 0 AND slot = 3":                                                 "app.writer_slot: writer 0 slot 3 shows transactions [33], not 43",
		"DELETE FROM app.writer_slot WHERE writer = 0 AND slot = 3":                                                               "app.writer_slot: writer 0 slot 3 shows transactions [], not 43",
		"INSERT INTO app.writer_slot (writer, slot, seq, payload) VALUES (9, 9, 9, '')":                                           "app.writer_slot: writer 9 slot 9 shows transactions [9], but none is in app.writer_log",
		"ALTER TABLE app.writer_slot DROP CONSTRAINT writer_slot_writer_slot_key; INSERT INTO app.writer_slot VALUES (0,0,3,1,0)": "app.writer_slot: writer 0 slot 3 shows transactions [43 1], not 43",
	} {
		Exec(t, uri, "DROP DATABASE IF EXISTS broken", "CREATE DATABASE broken")
		broken := c.ConnString("broken")
		Exec(t, broken, WriterSchema)
		copyWriterTables(t, uri, broken)
		Exec(t, broken, sql)
		b := Connect(t, broken)
		problems := w.Check(t.Context(), b)
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if !strings.Contains(strings.Join(problems, "\n")+"\n", want+"\n") {
			t.Errorf("after %s: %q\nnot among the problems %q", sql, want, problems)
		}
	}
	w.mu.Lock()
	w.outcomes[transaction{1, 8}] = Failed
	w.mu.Unlock()
	if problems := w.Check(t.Context(), conn); len(problems) != 2 || !strings.Contains(problems[0], "writer 1 transaction 8 is present but failed") {
		t.Errorf("a failed transaction that is present: %q", problems)
	}
}

func copyWriterTables(t *testing.T, from, to string) {
	t.Helper()
	a, b := Connect(t, from), Connect(t, to)
	for _, table := range []string{"app.writer_log", "app.writer_heap", "app.writer_slot"} {
		var text strings.Builder
		if _, err := a.PgConn().CopyTo(t.Context(), &text, "COPY "+table+" TO STDOUT"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.PgConn().CopyFrom(t.Context(), strings.NewReader(text.String()), "COPY "+table+" FROM STDIN"); err != nil {
			t.Fatal(err)
		}
	}
	for _, conn := range []interface{ Close(context.Context) error }{a, b} {
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWritersFindSequenceThatStandsTooLow: what an application meets when a switchover forgot one.
func TestWritersFindSequenceThatStandsTooLow(t *testing.T) {
	t.Parallel()
	c := Start(t, 15)
	uri := c.ConnString("postgres")
	Exec(t, uri, WriterSchema)
	w := StartWriters(t.Context(), t, uri, 1, WritersOptions{Rate: 500})
	await(t, w, 40)
	Exec(t, uri, "SELECT setval('app.writer_slot_id_seq', 1, false)")
	await(t, w, 60)
	w.Stop()
	if problems := w.Check(t.Context(), Connect(t, uri)); len(problems) == 0 {
		t.Error("not found")
	}
}

// TestWritersSurvive kills the server under the writers, forth and back between two places.
func TestWritersSurvive(t *testing.T) {
	t.Parallel()
	c := Start(t, 15, map[string]string{"fsync": "on"})
	uri := c.ConnString("postgres")
	Exec(t, uri, WriterSchema, "CREATE DATABASE other")
	Exec(t, c.ConnString("other"), WriterSchema)
	w := StartWriters(t.Context(), t, uri, 4, WritersOptions{Rate: 300})
	for _, end := range []func() error{c.Crash, c.Kill, func() error { return c.Stop(t.Context()) }} {
		await(t, w, 100)
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := c.Restart(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	await(t, w, 100)
	Exec(t, uri, "ALTER DATABASE postgres SET default_transaction_read_only = on",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'writer'")
	// read-only: writers fail, and know it
	failed := w.Stats().Failed
	deadline := time.After(30 * time.Second)
	for tick := time.NewTicker(time.Millisecond); w.Stats().Failed < failed+20; {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no failures: %+v", w.Stats())
		}
	}
	Exec(t, c.ConnString("other"), "ALTER DATABASE postgres SET default_transaction_read_only = off",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'writer'")
	await(t, w, 100)
	w.Stop()
	stats := w.Stats()
	if stats.Committed < 500 || stats.ConnectFailures+stats.Failed+stats.Unknown == 0 || stats.LongestGap == 0 {
		t.Errorf("implausible: %+v", stats)
	}
	if problems := w.Check(t.Context(), Connect(t, uri)); len(problems) > 0 {
		t.Errorf("problems: %q", problems)
	}
}

func TestWritersSwitch(t *testing.T) {
	t.Parallel()
	c := Start(t, 17)
	Exec(t, c.ConnString("postgres"), WriterSchema, "CREATE DATABASE other")
	Exec(t, c.ConnString("other"), WriterSchema)
	w := StartWriters(t.Context(), t, c.ConnString("postgres"), 2, WritersOptions{})
	await(t, w, 5)
	w.Switch(c.ConnString("other"))
	await(t, w, 20)
	w.Stop()
	other := Connect(t, c.ConnString("other"))
	if QueryValue[int](t, other, "SELECT count(*) FROM app.writer_log") < 15 {
		t.Error("the writers did not move")
	}
	// What they wrote before is missing there, and must be found.
	if problems := w.Check(t.Context(), other); len(problems) == 0 {
		t.Error("no problem found")
	}
}

func await(t *testing.T, w *Writers, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := w.Await(ctx, n); err != nil {
		t.Fatal(err)
	}
}

func TestCommitOutcome(t *testing.T) {
	t.Parallel()
	pgError := func(severity string) error { return &pgconn.PgError{SeverityUnlocalized: severity} }
	for _, test := range []struct {
		tag  string
		err  error
		want Outcome
	}{
		{"COMMIT", nil, Committed},
		{"ROLLBACK", nil, Failed},
		{"", pgError("ERROR"), Failed},
		{"", pgError("FATAL"), Unknown},
		{"", io.ErrUnexpectedEOF, Unknown},
		{"", errors.Join(io.EOF, context.DeadlineExceeded), Unknown},
	} {
		if got := commitOutcome(pgconn.NewCommandTag(test.tag), test.err); got != test.want {
			t.Errorf("%q, %v: %v, want %v", test.tag, test.err, got, test.want)
		}
	}
}
