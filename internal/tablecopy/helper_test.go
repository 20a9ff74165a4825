package tablecopy

import (
	"context"
	_ "embed"
	"fmt"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgbaton/internal/catalog"
	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// lab is the set of servers that the tests of this package share.
type lab map[int]*cluster.Cluster

func newLab(t *testing.T, majors ...int) lab {
	t.Helper()
	pgtest.NeedServers(t)
	l := lab{}
	var mu sync.Mutex
	var starts sync.WaitGroup
	for _, major := range majors {
		starts.Go(func() {
			c := pgtest.Start(t, major)
			mu.Lock()
			defer mu.Unlock()
			l[major] = c
		})
	}
	starts.Wait()
	if len(l) != len(majors) {
		t.FailNow()
	}
	return l
}

// move is a source and a target database of one test.
type move struct {
	source, target         *postgres.Server
	sourceURI, targetURI   string
	sourceConn, targetConn *postgres.Session // the test's own sessions
}

// move makes a database on either server. with is what follows CREATE DATABASE
// name, for source and target.
func (l lab) move(t *testing.T, from, to int, with ...string) *move {
	t.Helper()
	with = append(with, "", "")
	m := &move{}
	m.source, m.sourceURI, m.sourceConn = l.database(t, from, postgres.Source, with[0])
	m.target, m.targetURI, m.targetConn = l.database(t, to, postgres.Target, with[1])
	return m
}

var notName = regexp.MustCompile(`[^a-z0-9]+`)

func (l lab) database(t *testing.T, major int, side postgres.Side, with string) (*postgres.Server, string, *postgres.Session) {
	t.Helper()
	name := notName.ReplaceAllString(strings.ToLower(t.Name()), "_") + "_" + string(side)
	pgtest.Exec(t, l[major].ConnString("postgres"), "CREATE DATABASE "+name+" "+with)
	uri := l[major].ConnString(name) + "&client_encoding=UTF8"
	return newServer(t, side, uri), uri, pgtest.Connect(t, uri)
}

func newServer(t *testing.T, side postgres.Side, uri string) *postgres.Server {
	t.Helper()
	s, err := postgres.NewServer(side, uri)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// both executes SQL on either side.
func (m *move) both(t *testing.T, sql ...string) {
	t.Helper()
	pgtest.Exec(t, m.sourceURI, sql...)
	pgtest.Exec(t, m.targetURI, sql...)
}

// snapshot exports one from a session that lives until the end of the test.
func (m *move) snapshot(t *testing.T) string {
	t.Helper()
	conn := pgtest.Connect(t, m.sourceURI)
	if _, err := conn.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ"); err != nil {
		t.Fatal(err)
	}
	return pgtest.QueryValue[string](t, conn, "SELECT pg_export_snapshot()")
}

// job copies everything there is on the source.
func (m *move) job(t *testing.T, jobs int) Job {
	t.Helper()
	conn, err := m.source.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tables, err := catalog.Tables(t.Context(), conn, catalog.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	return Job{Source: m.source, Target: m.target, Tables: under(m.snapshot(t), tables...), Jobs: jobs, Tries: 1}
}

// under are tables to copy under a snapshot.
func under(snapshot string, tables ...catalog.Table) []Table {
	all := make([]Table, len(tables))
	for i, t := range tables {
		all[i] = Table{Table: t, Snapshot: snapshot}
	}
	return all
}

// compare checks that every table of the job holds the same rows on both sides,
// generated columns included.
func (m *move) compare(t *testing.T, tables []Table) {
	t.Helper()
	for _, table := range tables {
		query := digest(table.Table)
		want := pgtest.QueryValue[string](t, m.sourceConn, query)
		if got := pgtest.QueryValue[string](t, m.targetConn, query); got != want {
			t.Errorf("%s (%s): target has %s, source %s", table.Ident, FormatOf(table.Table), got, want)
		}
	}
}

// digest is a query for the number of rows and a hash of them in any order.
func digest(table catalog.Table) string {
	columns := make([]string, len(table.Columns))
	for i, c := range table.Columns {
		columns[i] = postgres.QuoteIdent(c.Name)
		switch c.Type {
		case "text", "bytea": // long ones take long to be quoted in a row
			columns[i] = "md5(" + columns[i] + ")"
		case "pg_lsn": // 0/0 is written 0/00000000 since 19
			columns[i] += " - '0/0'"
		case "pg_lsn[]":
			columns[i] = fmt.Sprintf("ARRAY(SELECT x - '0/0' FROM unnest(%s) x)", columns[i])
		}
	}
	return fmt.Sprintf(`SELECT count(*) || ' rows ' || coalesce(md5(string_agg(h, '' ORDER BY h COLLATE "C")), '')
		FROM (SELECT md5(convert_to(r::text, 'UTF8')) AS h FROM (SELECT %s FROM ONLY %s) r) x`, strings.Join(columns, ", "), table.Ident)
}

// await waits until a query says true.
func await(t *testing.T, conn *postgres.Session, query string, args ...any) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !pgtest.QueryValue[bool](t, conn, query, args...) {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("waiting until %s: %v", query, t.Context().Err())
		}
	}
}

// awaitNoSessions waits until a Run's sessions in this database are gone.
func (m *move) awaitNoSessions(t *testing.T) {
	t.Helper()
	for _, conn := range []*postgres.Session{m.sourceConn, m.targetConn} {
		await(t, conn, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbaton load' AND datname = current_database()")
	}
}

// outcome is what a Run in the background came to.
type outcome struct {
	Result
	err        error
	goroutines int // of this Run that were still there after it
	took       time.Duration
}

var runs struct {
	sync.Mutex
	n int
}

// start runs a job in the background. A goroutine inherits its parent's labels,
// by which those of this Run are told from all others.
func start(ctx context.Context, job Job) <-chan outcome {
	runs.Lock()
	runs.n++
	label := "run-" + strconv.Itoa(runs.n)
	runs.Unlock()
	done := make(chan outcome, 1)
	go pprof.Do(ctx, pprof.Labels("test", label), func(ctx context.Context) {
		var o outcome
		began := time.Now()
		o.Result, o.err = Run(ctx, job)
		o.took = time.Since(began)
		// A goroutine that has told its waiter may need a moment to vanish.
		for deadline := time.Now().Add(time.Second); ; runtime.Gosched() {
			o.goroutines = labelled(label) - 1 // without this one
			if o.goroutines == 0 || time.Now().After(deadline) {
				break
			}
		}
		done <- o
	})
	return done
}

// labelled counts the goroutines with a label.
func labelled(label string) (n int) {
	var profile strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&profile, 1)
	for group := range strings.SplitSeq(profile.String(), "\n\n") {
		if !strings.Contains(group, `"test":"`+label+`"`) {
			continue
		}
		// "3 @ 0x..." begins a group of three.
		count, _, _ := strings.Cut(group, " @")
		i, _ := strconv.Atoi(count[strings.LastIndex(count, "\n")+1:])
		n += i
	}
	return n
}

// gateSQL makes table gated on either side: 50 MB on the source, more than all
// buffers on the way hold. The target stops at row 1000 until the test gives up
// an advisory lock.
const gateSQL = `
CREATE FUNCTION gate(i integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF i = 1000 THEN
		PERFORM pg_advisory_xact_lock_shared(1);
	END IF;
	RETURN true;
END $$;
CREATE TABLE gated (id integer, t text);`

type gate struct{ conn *postgres.Session }

// gated prepares the table and closes the gate. The target holds one row from
// before.
func (m *move) gated(t *testing.T) gate {
	t.Helper()
	m.both(t, gateSQL)
	pgtest.Exec(t, m.sourceURI, "INSERT INTO gated SELECT i, repeat('x', 1000) FROM generate_series(1, 50000) i")
	pgtest.Exec(t, m.targetURI, "INSERT INTO gated VALUES (-1, 'from before'); ALTER TABLE gated ADD CHECK (gate(id))")
	g := gate{pgtest.Connect(t, m.targetURI)}
	pgtest.QueryValue[string](t, g.conn, "SELECT pg_advisory_lock(1)::text")
	return g
}

// await waits until the target stands at the gate.
func (g gate) await(t *testing.T) {
	t.Helper()
	await(t, g.conn, "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))")
}

func (g gate) open(t *testing.T) {
	t.Helper()
	pgtest.QueryValue[bool](t, g.conn, "SELECT pg_advisory_unlock(1)")
}

// copyPID is the backend that runs COPY in this database.
func copyPID(t *testing.T, conn *postgres.Session) int32 {
	t.Helper()
	return pgtest.QueryValue[int32](t, conn, "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbaton load' AND datname = current_database() AND query LIKE 'COPY%'")
}

var (
	//go:embed testdata/schema.sql
	schemaSQL string
	//go:embed testdata/source_only.sql
	sourceOnlySQL string
	//go:embed testdata/target_only.sql
	targetOnlySQL string
	//go:embed testdata/rows.sql
	rowsSQL string
)
