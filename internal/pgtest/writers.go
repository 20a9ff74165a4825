package pgtest

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// WriterSchema makes the tables that writers write to, in schema app.
//
//go:embed writers.sql
var WriterSchema string

// WritersOptions say how writers connect and how much they write.
type WritersOptions struct {
	Rate      int           // transactions per second and writer; 0: 100
	Count     int           // commits per writer after which it stops by itself; 0: no bound
	First     int           // number of the first writer: writers of one database need distinct numbers
	Payload   int           // bytes per row; 0: 20
	User      string        // instead of the connection string's
	Password  string        // of User
	PGOptions string        // as the environment variable PGOPTIONS: "-c name=value"
	Timeout   time.Duration // of a connection attempt and of a transaction; 0: 30 s
}

// Outcome of a transaction, as its writer knows it.
type Outcome int

const (
	Committed Outcome = iota // the commit was acknowledged
	Failed                   // known not to have committed
	Unknown                  // the connection was lost during the commit
)

// transaction number seq of a writer.
type transaction struct {
	writer int
	seq    int64
}

// Writers write on direct connections until stopped, whatever happens to the server.
type Writers struct {
	options WritersOptions
	stop    chan struct{} // closed: begin no further transaction
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	once    sync.Once

	mu         sync.Mutex
	connString string
	generation int // grows with every Switch
	outcomes   map[transaction]Outcome
	ids        map[int64]transaction // serial numbers of acknowledged inserts
	problems   []string
	stats      WriterStats
	lastAck    time.Time
	changed    chan struct{} // closed and replaced at every acknowledged commit
}

// WriterStats count what happened so far.
type WriterStats struct {
	Committed, Failed, Unknown int
	ConnectFailures            int
	LongestGap                 time.Duration // between two acknowledged commits, of any writer
	LastError                  error
}

// StartWriters starts n writers. They are stopped at the end of the test at the latest.
func StartWriters(ctx context.Context, t testing.TB, connString string, n int, o WritersOptions) *Writers {
	t.Helper()
	if o.Rate == 0 {
		o.Rate = 100
	}
	if o.Payload == 0 {
		o.Payload = 20
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if _, err := o.config(connString); err != nil {
		t.Fatal(err)
	}
	w := &Writers{
		options: o, connString: connString, stop: make(chan struct{}), changed: make(chan struct{}),
		outcomes: map[transaction]Outcome{}, ids: map[int64]transaction{},
	}
	ctx, w.cancel = context.WithCancel(ctx)
	for i := range n {
		w.wg.Go(func() { w.write(ctx, o.First+i) })
	}
	t.Cleanup(w.Stop)
	return w
}

// Stop lets transactions under way come to their end, within the timeout, and waits for all writers.
func (w *Writers) Stop() {
	w.once.Do(func() {
		close(w.stop)
		bound := time.AfterFunc(w.options.Timeout, w.cancel)
		w.wg.Wait()
		bound.Stop()
		w.cancel()
	})
	w.wg.Wait()
}

// Wait waits until every writer has reached its Count.
func (w *Writers) Wait() { w.wg.Wait() }

// Switch makes every writer connect to another place, after the transaction it is in.
func (w *Writers) Switch(connString string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.connString = connString
	w.generation++
}

// Stats returns the counts so far.
func (w *Writers) Stats() WriterStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

// Await waits until n more commits have been acknowledged than at the time of the call.
func (w *Writers) Await(ctx context.Context, n int) error {
	want := w.Stats().Committed + n
	for {
		w.mu.Lock()
		have, changed, last := w.stats.Committed, w.changed, w.stats.LastError
		w.mu.Unlock()
		if have >= want {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d further commits: %w (the writers' last error: %w)", n-(want-have), n, ctx.Err(), orNone(last))
		}
	}
}

func orNone(err error) error {
	if err == nil {
		return errors.New("none")
	}
	return err
}

func (o WritersOptions) config(connString string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(connString)
	if err != nil {
		return nil, err
	}
	if o.User != "" {
		config.User, config.Password = o.User, o.Password
	}
	if o.PGOptions != "" {
		config.RuntimeParams["options"] = o.PGOptions
	}
	if _, ok := config.RuntimeParams["application_name"]; !ok {
		config.RuntimeParams["application_name"] = "writer"
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // no named statements: works behind any pooler
	config.ConnectTimeout = o.Timeout
	return config, nil
}

// write is one writer.
func (w *Writers) write(ctx context.Context, writer int) {
	tick := time.NewTicker(time.Second / time.Duration(w.options.Rate))
	defer tick.Stop()
	var conn *pgx.Conn
	drop := func() {
		if conn != nil {
			closing, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = conn.Close(closing) // it may be broken; that is why it is dropped
			conn = nil
		}
	}
	defer drop()
	connected := -1 // the generation that conn belongs to
	committed := 0
	for seq := int64(1); w.options.Count == 0 || committed < w.options.Count; {
		select {
		case <-w.stop:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.mu.Lock()
		connString, generation := w.connString, w.generation
		w.mu.Unlock()
		if connected != generation || (conn != nil && conn.IsClosed()) {
			drop()
		}
		if conn == nil {
			var err error
			if conn, err = w.connect(ctx, connString); err != nil {
				continue
			}
			connected = generation
		}
		outcome, id, err := w.transact(ctx, conn, transaction{writer, seq})
		w.record(transaction{writer, seq}, outcome, id, err)
		if outcome == Committed {
			committed++
		}
		if err != nil && conn.PgConn().TxStatus() != 'I' {
			drop()
		}
		seq++ // never used twice, whatever became of it
	}
}

func (w *Writers) connect(ctx context.Context, connString string) (*pgx.Conn, error) {
	config, err := w.options.config(connString)
	var conn *pgx.Conn
	if err == nil {
		conn, err = pgx.ConnectConfig(ctx, config)
	}
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stats.ConnectFailures++
		w.stats.LastError = err
	}
	return conn, err
}

const slots = 10

// slotStep says what transaction seq does to its slot: seq is 1, 2, 3, …, so a slot sees another kind of
// change each time round.
func slotStep(seq int64) (slot int, replace bool) { return int(seq % slots), seq/slots%3 == 0 }

// transact returns the outcome, and the serial number of the row it inserted, if any.
func (w *Writers) transact(ctx context.Context, conn *pgx.Conn, tx transaction) (Outcome, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, w.options.Timeout)
	defer cancel()
	payload := fmt.Sprintf("%d/%d ", tx.writer, tx.seq)
	payload += strings.Repeat("x", max(0, w.options.Payload-len(payload)))
	slot, replace := slotStep(tx.seq)
	var id int64

	// Until the commit is sent, every error means that nothing was committed.
	err := func() error {
		if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
			return err
		}
		for _, sql := range []string{
			"INSERT INTO app.writer_log (writer, seq, payload) VALUES ($1, $2, $3)",
			"INSERT INTO app.writer_heap (writer, seq, payload) VALUES ($1, $2, $3)",
		} {
			if _, err := conn.Exec(ctx, sql, tx.writer, tx.seq, payload); err != nil {
				return err
			}
		}
		if !replace {
			tag, err := conn.Exec(ctx, "UPDATE app.writer_slot SET seq = $3, payload = $4 WHERE writer = $1 AND slot = $2", tx.writer, slot, tx.seq, payload)
			if err != nil || tag.RowsAffected() > 0 {
				return err
			}
		} else if _, err := conn.Exec(ctx, "DELETE FROM app.writer_slot WHERE writer = $1 AND slot = $2", tx.writer, slot); err != nil {
			return err
		}
		return conn.QueryRow(ctx, "INSERT INTO app.writer_slot (writer, slot, seq, payload) VALUES ($1, $2, $3, $4) RETURNING id",
			tx.writer, slot, tx.seq, payload).Scan(&id)
	}()
	if err != nil {
		if conn.PgConn().TxStatus() != 'I' && !conn.IsClosed() {
			if _, rollbackErr := conn.Exec(ctx, "ROLLBACK"); rollbackErr != nil {
				err = errors.Join(err, rollbackErr)
			}
		}
		return Failed, 0, err
	}
	tag, err := conn.Exec(ctx, "COMMIT")
	return commitOutcome(tag, err), id, err
}

// commitOutcome judges the answer to a COMMIT. Only an ordinary error, or a ROLLBACK for an answer, says
// that it did not happen: a session that is being terminated may have committed just before.
func commitOutcome(tag pgconn.CommandTag, err error) Outcome {
	var refusal *pgconn.PgError
	switch {
	case err == nil && tag.String() == "COMMIT":
		return Committed
	case err == nil, errors.As(err, &refusal) && refusal.SeverityUnlocalized == "ERROR":
		return Failed
	default:
		return Unknown
	}
}

const uniqueViolation = "23505"

func (w *Writers) record(tx transaction, outcome Outcome, id int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outcomes[tx] = outcome
	if err != nil {
		w.stats.LastError = err
	}
	// No number is used twice by us, so a duplicate is a sequence that stands too low, or a row of ours
	// where none should be.
	if refusal := (*pgconn.PgError)(nil); errors.As(err, &refusal) && refusal.Code == uniqueViolation {
		w.problems = append(w.problems, fmt.Sprintf("writer %d, transaction %d: %v: %s", tx.writer, tx.seq, refusal, refusal.Detail))
	}
	switch outcome {
	case Failed:
		w.stats.Failed++
	case Unknown:
		w.stats.Unknown++
	case Committed:
		w.stats.Committed++
		if id != 0 {
			if before, used := w.ids[id]; used {
				w.problems = append(w.problems, fmt.Sprintf("app.writer_slot: number %d given out twice, to %v and %v", id, before, tx))
			}
			w.ids[id] = tx
		}
		now := time.Now()
		if !w.lastAck.IsZero() {
			w.stats.LongestGap = max(w.stats.LongestGap, now.Sub(w.lastAck))
		}
		w.lastAck = now
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

func (tx transaction) String() string {
	return fmt.Sprintf("writer %d transaction %d", tx.writer, tx.seq)
}
