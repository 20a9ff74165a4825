package tablecopy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// TestRun holds the tests that share servers.
func TestRun(t *testing.T) {
	t.Parallel()
	l := newLab(t, 12, 13, 15, 17, 18, 19)
	t.Run("types", func(t *testing.T) { t.Parallel(); testTypes(t, l) })
	t.Run("encodings", func(t *testing.T) { t.Parallel(); testEncodings(t, l) })
	t.Run("failures", func(t *testing.T) { t.Parallel(); testFailures(t, l) })
	for name, test := range map[string]func(*testing.T, lab){
		"snapshot": testSnapshot, "snapshot gone": testSnapshotGone,
		"progress": testProgress, "record": testRecord, "estimate": testEstimate, "split": testSplit, "batches": testBatches, "plain roles": testPlainRoles, "remedies": testRemedies, "relay twice": testRelayTwice, "foreign keys": testForeignKeys,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, l) })
	}
}

// testTypes copies every type with its strangest values, every shape of table,
// and names that need quoting, between servers far apart.
func testTypes(t *testing.T, l lab) {
	for _, pair := range [][2]int{{12, 15}, {12, 19}, {13, 17}, {17, 12}} {
		t.Run(fmt.Sprint(pair[0], " to ", pair[1]), func(t *testing.T) {
			t.Parallel()
			m := l.move(t, pair[0], pair[1])
			m.both(t, schemaSQL)
			pgtest.Exec(t, m.sourceURI, sourceOnlySQL, rowsSQL)
			pgtest.Exec(t, m.targetURI, targetOnlySQL)
			job := m.job(t, 3)
			for range 2 { // the second time everything is there already
				o := <-start(t.Context(), job)
				if o.err != nil {
					t.Fatal(o.err)
				}
				if o.Tables != len(job.Tables) || o.goroutines != 0 {
					t.Errorf("copied %d of %d tables, left %d goroutines", o.Tables, len(job.Tables), o.goroutines)
				}
				m.compare(t, job.Tables)
			}
			for _, table := range job.Tables {
				if got := FormatOf(table.Table); (got == Text) != (table.Name == "text_types") {
					t.Errorf("%s is copied as %s", table.Ident, got)
				}
				if table.Name != "text_types" {
					continue
				}
				for _, c := range table.Columns[1:17] { // each alone, up to the ones that are there for their text
					if one := (catalog.Table{Columns: []catalog.Column{c}}); FormatOf(one) != Text {
						t.Errorf("%s is copied as %s", c.Type, FormatOf(one))
					}
				}
			}
			m.awaitNoSessions(t)
		})
	}
}

// testEncodings copies text between databases of different encodings, with
// names that are not ASCII.
func testEncodings(t *testing.T, l lab) {
	const tables = `
		CREATE TYPE "größe" AS ENUM ('groß', 'klein');
		CREATE TABLE "straße" (id integer, "wört" text, e "größe", j jsonb);
		CREATE TABLE "straße text" (id integer, "wört" text, e "größe"[], iv interval);`
	const rows = `
		INSERT INTO "straße" SELECT i, 'größer' || i, 'groß', '{"ä": "ö"}' FROM generate_series(1, 100) i;
		INSERT INTO "straße text" SELECT i, 'größer' || i, '{groß}', '1 day' FROM generate_series(1, 100) i;`
	encoding := func(name string) string {
		return "ENCODING '" + name + "' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
	}
	for _, pair := range [][2]string{{"LATIN1", "UTF8"}, {"LATIN1", "LATIN1"}, {"UTF8", "LATIN1"}, {"SQL_ASCII", "SQL_ASCII"}, {"SQL_ASCII", "UTF8"}} {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			t.Parallel()
			m := l.move(t, 12, 18, encoding(pair[0]), encoding(pair[1]))
			m.both(t, tables)
			pgtest.Exec(t, m.sourceURI, rows)
			job := m.job(t, 1)
			if o := <-start(t.Context(), job); o.err != nil {
				t.Fatal(o.err)
			}
			for _, table := range job.Tables {
				query := fmt.Sprintf(`SELECT string_agg(wört || e::text, ',' ORDER BY id) FROM %s`, table.Ident)
				want := pgtest.QueryValue[string](t, m.sourceConn, query)
				if got := pgtest.QueryValue[string](t, m.targetConn, query); got != want {
					t.Errorf("%s: target has %.100s, source %.100s", table.Ident, got, want)
				}
			}
		})
	}
	t.Run("no conversion", func(t *testing.T) {
		t.Parallel()
		m := l.move(t, 12, 18, encoding("LATIN1"), encoding("LATIN9"))
		m.both(t, tables)
		wantError(t, (<-start(t.Context(), m.job(t, 1))).err, postgres.Target, postgres.FeatureNotSupported)
	})
	// Bytes that are valid in no encoding: kept where the target takes them,
	// refused where it does not.
	for _, target := range []string{"SQL_ASCII", "UTF8"} {
		for _, column := range []string{"integer", "interval"} {
			t.Run("bytes to "+target+" beside "+column, func(t *testing.T) {
				t.Parallel()
				m := l.move(t, 13, 17, encoding("SQL_ASCII"), encoding(target))
				m.both(t, "CREATE TABLE raw (t text, other "+column+")")
				pgtest.Exec(t, m.sourceURI, `SET client_encoding TO 'SQL_ASCII'; INSERT INTO raw VALUES (E'\xff\xfe\\.'), ('ok')`)
				o := <-start(t.Context(), m.job(t, 1))
				if target == "UTF8" {
					wantError(t, o.err, postgres.Target, "22021") // character_not_in_repertoire
					wantHint(t, o.err, `repair the rows of "public"."raw" on the source, then run start again`)
					pgtest.Exec(t, m.sourceURI, `UPDATE raw SET t = 'repaired' WHERE t <> 'ok'`)
					m.again(t)
					return
				}
				if o.err != nil {
					t.Fatal(o.err)
				}
				const query = "SELECT string_agg(encode(t::bytea, 'hex'), ' ') FROM (SELECT replace(t, '\\', '\\\\') t FROM raw) r"
				if got := pgtest.QueryValue[string](t, m.targetConn, query); got != "fffe5c2e 6f6b" {
					t.Errorf("target has %s", got)
				}
			})
		}
	}
}

// testSnapshot: rows written after the snapshot are not there, whoever writes.
func testSnapshot(t *testing.T, l lab) {
	m := l.move(t, 12, 15)
	m.both(t, "CREATE TABLE a (id integer, t text); CREATE TABLE b (id integer, t text)")
	pgtest.Exec(t, m.sourceURI, `
		INSERT INTO a SELECT i, 'old' FROM generate_series(1, 20000) i;
		INSERT INTO b SELECT * FROM a`)
	job := m.job(t, 2)
	pgtest.Exec(t, m.sourceURI, "INSERT INTO a VALUES (0, 'new'); DELETE FROM a WHERE id = 1; UPDATE b SET t = 'new'")

	ctx, stop := context.WithCancel(t.Context())
	writing := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		conn, err := pgx.Connect(ctx, m.sourceURI)
		if err != nil {
			t.Error(err)
			close(writing)
			return
		}
		defer conn.Close(context.Background())
		for i := 0; ctx.Err() == nil; i++ {
			_, err := conn.Exec(ctx, "WITH moved AS (DELETE FROM a WHERE id = $1) INSERT INTO b VALUES ($1, 'moved')", i)
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			if i == 10 {
				close(writing)
			}
		}
	})
	<-writing
	o := <-start(t.Context(), job)
	stop()
	writer.Wait()
	if o.err != nil {
		t.Fatal(o.err)
	}
	for _, table := range []string{"a", "b"} {
		if got := pgtest.QueryValue[string](t, m.targetConn,
			"SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || sum(id) || ' ' || min(t) || ' ' || max(t) FROM "+table); got != "20000 20000 200010000 old old" {
			t.Errorf("%s: %s", table, got)
		}
	}
}

func testSnapshotGone(t *testing.T, l lab) {
	for _, major := range []int{12, 15, 18, 19} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			m := l.move(t, major, 15)
			m.both(t, "CREATE TABLE a (id integer)")
			pgtest.Exec(t, m.sourceURI, "INSERT INTO a VALUES (1)")
			job := m.job(t, 1)
			conn := pgtest.Connect(t, m.sourceURI)
			for _, sql := range []string{"BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"} {
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			ended := pgtest.QueryValue[string](t, conn, "SELECT pg_export_snapshot()")
			if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
				t.Fatal(err)
			}
			for _, snapshot := range []string{ended, "it's no snapshot"} {
				job.Tables[0].Snapshot = snapshot
				o := <-start(t.Context(), job)
				if !errors.Is(o.err, ErrSnapshotGone) || o.goroutines != 0 {
					t.Errorf("%q: error %v, %d goroutines", snapshot, o.err, o.goroutines)
				}
				wantHint(t, o.err, "the session that exported the snapshot has ended: run start again")
			}
			if o := m.again(t); o.Rows != 1 {
				t.Errorf("%d rows", o.Rows)
			}
		})
	}
}

// testProgress looks at the reports while the target stands still.
func testProgress(t *testing.T, l lab) {
	m := l.move(t, 13, 17)
	g := m.gated(t)
	m.both(t, "CREATE TABLE small (id integer)")
	pgtest.Exec(t, m.sourceURI, "INSERT INTO small SELECT generate_series(1, 10)")
	job := m.job(t, 2)
	var mu sync.Mutex
	var copied []event.TableCopied
	var last event.Progress
	job.Observer = func(e event.Event) {
		mu.Lock()
		defer mu.Unlock()
		switch e := e.(type) {
		case event.TableCopied:
			copied = append(copied, e)
		case event.Progress:
			last = e
		}
	}
	reports := make(chan event.Progress, 1)
	job.Every = time.Millisecond
	job.OnProgress = func(_ context.Context, p event.Progress) {
		select {
		case <-reports:
		default:
		}
		reports <- p
	}
	run := start(t.Context(), job)
	g.await(t)
	for r := range reports {
		if r.TablesCopied == 1 && len(r.Running) == 1 && r.Running[0].Done > 1e6 {
			if state := r.Running[0]; state.What != "copy" || state.Name != `"public"."gated"` || state.Total < 50e6 || state.Seconds <= 0 ||
				r.TablesTotal != 2 || r.BytesTotal < 50e6 || r.BytesCopied < state.Done || r.BytesPerSec <= 0 || r.ETASeconds <= 0 {
				t.Errorf("report %+v", r)
			}
			break
		}
	}
	g.open(t)
	o := <-run
	if o.err != nil {
		t.Fatal(o.err)
	}
	if r := <-reports; r.TablesCopied != 2 || r.BytesCopied != r.BytesTotal || len(r.Running) != 0 || r.ETASeconds != 0 {
		t.Errorf("last report %+v", r)
	}
	if last.TablesCopied != 2 || last.BytesCopied != last.BytesTotal || last.BytesCopied != o.Bytes || o.Rows != 50010 {
		t.Errorf("last event %+v, result %+v", last, o.Result)
	}
	// The stream: a header of 19 bytes, a trailer of 2, per row 2 for the number
	// of fields, per field 4 for its length.
	want := map[string]event.TableCopied{
		`"public"."small"`: {Rows: 10, Bytes: 19 + 2 + 10*(2+4+4)},
		`"public"."gated"`: {Rows: 50000, Bytes: 19 + 2 + 50000*(2+4+4+4+1000)},
	}
	for _, e := range copied {
		if w := want[e.Table]; w.Rows != e.Rows || w.Bytes != e.Bytes || e.Seconds <= 0 {
			t.Errorf("event %+v, want %+v", e, w)
		}
	}
	if len(copied) != 2 {
		t.Errorf("%d tables were announced", len(copied))
	}
}

// testEstimate: in the second half of a copy the size of its stream is known,
// although the table takes more on disk; and the limit of bytes a second holds.
func testEstimate(t *testing.T, l lab) {
	m := l.move(t, 13, 17)
	m.both(t, "CREATE TABLE a (id integer, n numeric, t text)")
	pgtest.Exec(t, m.sourceURI, "INSERT INTO a SELECT i, i, repeat('x', 100) FROM generate_series(1, 300000) i", "ANALYZE a")
	job := m.job(t, 1)
	job.MaxRate = 8 << 20 // about 5 seconds
	var mu sync.Mutex
	var looks []event.Progress
	job.Observer = func(e event.Event) {
		if p, ok := e.(event.Progress); ok {
			mu.Lock()
			defer mu.Unlock()
			looks = append(looks, p)
		}
	}
	began := time.Now()
	o := <-start(t.Context(), job)
	if o.err != nil {
		t.Fatal(o.err)
	}
	if rate := float64(o.Bytes) / time.Since(began).Seconds(); rate > 1.15*float64(job.MaxRate) {
		t.Errorf("%.0f bytes a second, the limit is %d", rate, job.MaxRate)
	}
	compared := 0
	for _, p := range looks {
		if p.BytesCopied < o.Bytes/2 {
			continue
		}
		compared++
		if math.Abs(float64(p.BytesTotal-o.Bytes)) > 0.03*float64(o.Bytes) {
			t.Errorf("%d of %d bytes copied, %d were expected", p.BytesCopied, o.Bytes, p.BytesTotal)
		}
	}
	if compared < 4 {
		t.Errorf("only %d reports were compared", compared)
	}
}

// testRecord: what is recorded and the rows are committed together.
func testRecord(t *testing.T, l lab) {
	for _, rows := range []int{2, 40000} { // in a batch, and on its own
		t.Run(fmt.Sprint(rows), func(t *testing.T) {
			t.Parallel()
			m := l.move(t, 12, 18)
			m.both(t, "CREATE TABLE good (id integer); CREATE TABLE bad (id integer)")
			pgtest.Exec(t, m.sourceURI, fmt.Sprintf("INSERT INTO good SELECT generate_series(1, %d); INSERT INTO bad SELECT id FROM good", rows))
			pgtest.Exec(t, m.targetURI, "CREATE TABLE done (name text, rows bigint)")
			job := m.job(t, 1)
			job.Record = func(s Stage, tables []Loaded) string {
				if s != Copied {
					return ""
				}
				if tables[0].Table.Name == "bad" {
					return "SELECT 1/0"
				}
				return fmt.Sprintf("INSERT INTO public.done VALUES (%s, %d)", postgres.QuoteLiteral(tables[0].Table.Name), tables[0].Rows)
			}
			for _, table := range job.Tables { // one by one: which is first is not of interest
				one := job
				one.Tables = []Table{table}
				o := <-start(t.Context(), one)
				if code := postgres.Code(o.err); (table.Name == "bad") != (code == "22012") {
					t.Errorf("%s: %v", table.Ident, o.err)
				}
			}
			m.awaitNoSessions(t)
			want := fmt.Sprintf("%[1]d 0 good%[1]d", rows)
			if got := pgtest.QueryValue[string](t, m.targetConn, "SELECT (SELECT count(*) FROM good) || ' ' || (SELECT count(*) FROM bad) || ' ' || (SELECT string_agg(name || rows, ',') FROM done)"); got != want {
				t.Errorf("target has %s, want %s", got, want)
			}
		})
	}
}

// testPlainRoles: SELECT on the source and ownership on the target are enough,
// and without them the error says what is missing.
func testPlainRoles(t *testing.T, l lab) {
	for _, pair := range [][2]int{{12, 13}, {13, 17}} {
		t.Run(fmt.Sprint(pair[0], " to ", pair[1]), func(t *testing.T) {
			t.Parallel()
			m := l.move(t, pair[0], pair[1])
			role := fmt.Sprintf("plain_%d_%d", pair[0], pair[1])
			m.both(t, "CREATE ROLE "+role+" LOGIN; CREATE TABLE a (id integer); INSERT INTO a VALUES (1), (2)")
			job := m.job(t, 1)
			job.Source = newServer(t, postgres.Source, l[pair[0]].ConnStringAs(role, "", m.source.Database()))
			job.Target = newServer(t, postgres.Target, l[pair[1]].ConnStringAs(role, "", m.target.Database()))
			wantError(t, (<-start(t.Context(), job)).err, postgres.Target, postgres.InsufficientPrivilege)
			pgtest.Exec(t, m.targetURI, "ALTER TABLE a OWNER TO "+role)
			o := <-start(t.Context(), job)
			wantError(t, o.err, postgres.Source, postgres.InsufficientPrivilege)
			wantHint(t, o.err, "pgbaton check prints the statements that give it back") // TestRightsTaken of package cli follows that
			pgtest.Exec(t, m.sourceURI, "GRANT SELECT ON a TO "+role)
			if o := <-start(t.Context(), job); o.err != nil || o.Rows != 2 {
				t.Errorf("%d rows, %v", o.Rows, o.err)
			}
			// Row security would hide rows without a word.
			pgtest.Exec(t, m.sourceURI, "ALTER TABLE a ENABLE ROW LEVEL SECURITY")
			wantError(t, (<-start(t.Context(), job)).err, postgres.Source, postgres.InsufficientPrivilege)
		})
	}
}

// testForeignKeys: foreign keys are valid in the end, whether they are looked at by
// their indexes or before these are there; a row without the row that it refers to is
// found either way.
func testForeignKeys(t *testing.T, l lab) {
	for _, target := range []int{13, 15} {
		for _, broken := range []string{"", "indexed", "plain"} {
			t.Run(fmt.Sprint(target, broken), func(t *testing.T) {
				t.Parallel()
				m := l.move(t, 12, target)
				m.both(t, `CREATE TABLE one (id bigint NOT NULL); CREATE TABLE indexed (i bigint, filler text); CREATE TABLE plain (i bigint, filler text)`)
				pgtest.Exec(t, m.sourceURI, `
					INSERT INTO one SELECT generate_series(1, 40000); ALTER TABLE one ADD PRIMARY KEY (id);
					INSERT INTO indexed SELECT i, repeat('x', 20) FROM generate_series(1, 40000) i; CREATE INDEX ON indexed (i);
					INSERT INTO plain SELECT i, repeat('x', 20) FROM generate_series(1, 40000) i;
					ALTER TABLE indexed ADD CONSTRAINT one_of_indexed FOREIGN KEY (i) REFERENCES one;
					ALTER TABLE plain ADD CONSTRAINT one_of_plain FOREIGN KEY (i) REFERENCES one; ANALYZE`)
				if broken != "" {
					pgtest.Exec(t, m.sourceURI, "SET session_replication_role TO replica; UPDATE "+broken+" SET i = 40001 WHERE i = 7")
				}
				job := m.job(t, 2)
				conn, err := m.source.Connect(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close(context.Background())
				indexes, err := catalog.Indexes(t.Context(), conn)
				if err != nil {
					t.Fatal(err)
				}
				for i := range job.Tables {
					for _, x := range indexes {
						if x.Table == job.Tables[i].OID {
							job.Tables[i].Indexes = append(job.Tables[i].Indexes, Index{Index: x})
						}
					}
				}
				keys, err := catalog.ForeignKeys(t.Context(), conn)
				if err != nil || len(keys) != 2 || !keys[0].Ordered || keys[1].Ordered {
					t.Fatal(keys, err)
				}
				for _, f := range keys {
					job.ForeignKeys = append(job.ForeignKeys, ForeignKey{ForeignKey: f})
				}
				o := <-start(t.Context(), job)
				if broken != "" {
					if wantError(t, o.err, postgres.Target, "23503"); !strings.Contains(fmt.Sprint(o.err), "one_of_"+broken) {
						t.Errorf("the error names another key")
					}
					return
				}
				if o.err != nil {
					t.Fatal(o.err)
				}
				if n := pgtest.QueryValue[int](t, m.targetConn, "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated"); n != 2 {
					t.Errorf("%d foreign keys are valid", n)
				}
				// What the shortcut for keys with an index rests on.
				all := pgtest.QueryValue[bool](t, m.targetConn, "SELECT relallvisible = relpages FROM pg_class WHERE relname = 'indexed'")
				if want := target >= 14; all != want {
					t.Errorf("all pages visible: %t", all)
				}
			})
		}
	}
}

// wantError checks that an error names side, SQLSTATE (unless "-") and remedy.
func wantError(t *testing.T, err error, side postgres.Side, code string) {
	t.Helper()
	var e *postgres.Error
	if !errors.As(err, &e) || e.Side != side || code != "-" && postgres.Code(err) != code || postgres.Hint(err) == "" {
		t.Errorf("error %v (SQLSTATE %q, hint %q), want one of the %s with %q", err, postgres.Code(err), postgres.Hint(err), side, code)
		return
	}
	t.Logf("error: %v\nhint: %s", err, postgres.Hint(err))
}
