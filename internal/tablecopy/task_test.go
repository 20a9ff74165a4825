package tablecopy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgbaton/internal/catalog"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// TestSchedule: the longest way to the end comes first, limits of classes hold,
// and what locks the same table does not run at the same time.
func TestSchedule(t *testing.T) {
	t.Parallel()
	short := &task{name: "short copy", class: copying, cost: 5}
	long := &task{name: "long copy", class: copying, cost: 4}
	build := &task{name: "build", class: building, cost: 10}
	build.after(long)
	lockA := &task{name: "lock a", class: building, cost: 1, locks: []uint32{1, 2}}
	lockB := &task{name: "lock b", class: building, cost: 0.5, locks: []uint32{2, 3}}
	s := newSchedule([]*task{short, long, build, lockA, lockB}, [classes]int{copying: 1, building: 2})
	want := func(name string) *task {
		t.Helper()
		got := s.take()
		if got == nil || got.name != name {
			t.Fatalf("took %v, want %s", got, name)
		}
		return got
	}
	first := want("long copy") // with what follows it, it is the longest
	a := want("lock a")        // one copy at a time
	waiting := make(chan *task)
	go func() { waiting <- s.take() }() // short needs a copy to end, lock b needs lock a to
	select {
	case got := <-waiting:
		t.Fatalf("took %s", got.name)
	default:
	}
	s.finished(a)
	if got := <-waiting; got != lockB {
		t.Fatalf("took %s after lock a", got.name)
	}
	s.finished(first)
	want("build")
	want("short copy")
	s.finished(lockB)
	if got := s.take(); got != nil {
		t.Fatalf("took %s twice", got.name)
	}
	s.stop()
}

// TestScheduleAll runs many tasks with several workers: each exactly once, none
// before those that it waits for.
func TestScheduleAll(t *testing.T) {
	t.Parallel()
	var tasks []*task
	for i := range 500 {
		one := &task{name: fmt.Sprint(i), class: class(i % 2), cost: float64(i * 7 % 13), locks: []uint32{uint32(i % 5)}}
		for j := max(0, i-20); j < i; j += 3 + i%4 {
			one.after(tasks[j])
		}
		tasks = append(tasks, one)
	}
	s := newSchedule(tasks, [classes]int{3, 2})
	var mu sync.Mutex
	var order []*task
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for one := s.take(); one != nil; one = s.take() {
				mu.Lock()
				order = append(order, one)
				mu.Unlock()
				s.finished(one)
			}
		})
	}
	workers.Wait()
	at := map[*task]int{}
	for i, one := range order {
		at[one] = i
	}
	if len(order) != len(tasks) || len(at) != len(tasks) {
		t.Fatalf("%d tasks were done, %d different ones, of %d", len(order), len(at), len(tasks))
	}
	for _, one := range tasks {
		for _, next := range one.next {
			if at[next] < at[one] {
				t.Errorf("%s came before %s", next.name, one.name)
			}
		}
	}
}

// testSplit: parts hold every row once, whatever the table looks like. A key that
// does not follow the rows on disk is no good before 14.
func testSplit(t *testing.T, l lab) {
	for _, pair := range [][2]int{{12, 15}, {13, 17}, {15, 18}} {
		t.Run(fmt.Sprint(pair[0]), func(t *testing.T) {
			t.Parallel()
			m := l.move(t, pair[0], pair[1])
			m.both(t, `
				CREATE TABLE ordered (a text, gone int, id bigint PRIMARY KEY, t text);
				CREATE TABLE dates ("the day" date, n int, t text, PRIMARY KEY ("the day", n));
				CREATE TABLE shuffled (id uuid PRIMARY KEY, t text);
				CREATE TABLE keyless (t text);
				CREATE TABLE parent (id int PRIMARY KEY, t text); CREATE TABLE child () INHERITS (parent);
				ALTER TABLE ordered DROP COLUMN gone`)
			pgtest.Exec(t, m.sourceURI,
				`INSERT INTO ordered SELECT 'x', i * 3, repeat('y', i % 300) FROM generate_series(1, 40000) i`,
				`INSERT INTO dates SELECT date '2020-01-01' + i / 100, i, repeat('y', i % 300) FROM generate_series(1, 40000) i`,
				`INSERT INTO shuffled SELECT md5(i::text)::uuid, repeat('y', i % 300) FROM generate_series(1, 40000) i`,
				`INSERT INTO keyless SELECT repeat('y', i % 300) FROM generate_series(1, 40000) i`,
				`INSERT INTO parent SELECT i, repeat('y', i % 300) FROM generate_series(1, 40000) i; INSERT INTO child SELECT -i, 'child' FROM generate_series(1, 1000) i`,
				`DELETE FROM ordered WHERE id % 7 = 0`, `ANALYZE`)
			pgtest.Exec(t, m.targetURI, `INSERT INTO ordered VALUES ('was there', -1)`)
			job := m.job(t, 3)
			job.SplitAbove = 1 << 20
			var mu sync.Mutex
			parts := map[string]int{}
			statements, err := Plan(t.Context(), job)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range statements {
				if s.Side == postgres.Source && strings.Contains(s.SQL, " WHERE ") {
					name, _, _ := strings.Cut(s.SQL[strings.Index(s.SQL, `"public".`)+len(`"public".`):], " WHERE")
					parts[name]++
				}
			}
			job.Record = func(s Stage, tables []Loaded) string {
				mu.Lock()
				defer mu.Unlock()
				for _, one := range tables {
					if want := map[string]int64{"ordered": 34286, "child": 1000}[one.Table.Name]; s == Copied && want != 0 && one.Rows != want {
						t.Errorf("%s has %d rows, want %d", one.Table, one.Rows, want)
					}
				}
				return ""
			}
			o := <-start(t.Context(), job)
			if o.err != nil || o.Rows != 34286+4*40000+1000 || o.Tables != 6 {
				t.Fatalf("%+v", o)
			}
			m.compare(t, job.Tables)
			for _, name := range []string{"ordered", "dates", "shuffled", "keyless", "parent"} {
				could := pair[0] >= 14 || name != "shuffled" && name != "keyless"
				if (parts[`"`+name+`"`] > 1) != could {
					t.Errorf("%s was copied in %d parts", name, parts[`"`+name+`"`])
				}
			}
		})
	}
}

// testBatches loads many small tables, some of which hold rows already, with their
// indexes and keys.
func testBatches(t *testing.T, l lab) {
	m := l.move(t, 12, 17)
	m.both(t, `DO $$ BEGIN FOR i IN 1..230 LOOP
		EXECUTE format('CREATE TABLE small%s (id int, t text)', i);
	END LOOP; END $$`)
	pgtest.Exec(t, m.sourceURI, `DO $$ BEGIN FOR i IN 1..230 LOOP
		EXECUTE format('INSERT INTO small%s SELECT s, ''t'' || s FROM generate_series(1, %s) s', i, i % 40);
		EXECUTE format('ALTER TABLE small%s ADD PRIMARY KEY (id), ADD UNIQUE (t)', i);
	END LOOP; END $$`)
	pgtest.Exec(t, m.targetURI, `INSERT INTO small7 VALUES (1, 'was there'); INSERT INTO small8 VALUES (1, 'was there')`)
	job := m.job(t, 3)
	m.addIndexes(t, &job)
	var mu sync.Mutex
	reached := map[Stage]int{}
	job.Record = func(s Stage, tables []Loaded) string {
		mu.Lock()
		defer mu.Unlock()
		reached[s] += len(tables)
		return "SELECT 1"
	}
	o := <-start(t.Context(), job)
	if o.err != nil || o.Tables != 230 || reached[Copied] != 230 || reached[Finished] != 230 {
		t.Fatalf("%+v, %v", o, reached)
	}
	m.compare(t, job.Tables)
	if got := pgtest.QueryValue[string](t, m.targetConn, `SELECT count(*) FILTER (WHERE contype = 'p') || ' ' || count(*) FILTER (WHERE contype = 'u') FROM pg_constraint WHERE connamespace = 'public'::regnamespace`); got != "230 230" {
		t.Errorf("primary and unique keys: %s", got)
	}
	// A row that the target's key does not take: the error names the batch's indexes.
	pgtest.Exec(t, m.targetURI, `ALTER TABLE small9 DROP CONSTRAINT small9_t_key; UPDATE small9 SET t = 'same'`)
	again := job
	again.Tables = slices.DeleteFunc(slices.Clone(job.Tables), func(t Table) bool { return t.Name != "small9" })
	again.Tables[0].Snapshot = "" // its rows are there
	again.Tables[0].Indexes = slices.DeleteFunc(slices.Clone(again.Tables[0].Indexes), func(x Index) bool { return x.Key == "PRIMARY KEY" })
	o = <-start(t.Context(), again)
	wantError(t, o.err, postgres.Target, "23505")
	var rows *RowsError // and, in whatever batch, the one table whose rows it is
	if !errors.As(o.err, &rows) || !slices.Equal(rows.Tables, []postgres.Ident{again.Tables[0].Ident}) {
		t.Errorf("to blame: %+v", rows)
	}
}

// addIndexes makes a job build what indexes the source has.
func (m *move) addIndexes(t *testing.T, job *Job) {
	t.Helper()
	conn, err := m.source.Connect(t.Context()) // in which definitions have qualified names
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
}
