package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// clients send transfers at a fixed rate, whether or not they are answered: one
// that waits keeps the next ones of its client waiting, and their waits count
// from the moment at which they should have begun.
type clients struct {
	urls    []string // of the side, or sides, that may serve; tried in turns
	number  int
	perSec  float64 // of all together
	mu      sync.Mutex
	samples []sample
	failed  []string       // the errors that clients saw: of queries, or of connections
	open    map[int64]bool // transfers given up without an answer
	stop    chan struct{}
	done    sync.WaitGroup
	began   time.Time
}

// sample is one acknowledged transfer.
type sample struct {
	id                    int64
	intended, sent, ended time.Time
}

const (
	retryEvery   = 25 * time.Millisecond // when no side lets a client in
	transferTime = time.Minute           // after which a client gives a transfer up
)

// startClients lets them go.
func startClients(ctx context.Context, urls []string, number int, perSec float64) *clients {
	c := &clients{urls: urls, number: number, perSec: perSec, open: map[int64]bool{}, stop: make(chan struct{}), began: time.Now()}
	for i := range number {
		c.done.Go(func() { c.run(ctx, i) })
	}
	return c
}

// end lets every client finish its transfer, and waits for it.
func (c *clients) end() {
	close(c.stop)
	c.done.Wait()
}

// run is the life of one client.
func (c *clients) run(ctx context.Context, number int) {
	s := &session{clients: c, random: rand.New(rand.NewPCG(1, uint64(number)))}
	defer s.close(ctx)
	interval := time.Duration(float64(c.number) / c.perSec * float64(time.Second))
	intended := c.began.Add(interval * time.Duration(number) / time.Duration(c.number))
	for k := int64(0); ; k++ {
		select {
		case <-time.After(time.Until(intended)):
		case <-c.stop:
			return
		case <-ctx.Done():
			return
		}
		t := s.draw(int64(number)<<32 | k)
		sent := time.Now()
		ok := s.see(ctx, t)
		c.mu.Lock()
		if ok {
			c.samples = append(c.samples, sample{t.id, intended, sent, time.Now()})
		} else {
			c.open[t.id] = true
		}
		c.mu.Unlock()
		intended = intended.Add(interval)
	}
}

// transfer is one transaction: that of TPC-B as pgbench has it.
type transfer struct {
	id, delta     int64
	aid, tid, bid int
}

// session is a client's connection, made anew when it is lost.
type session struct {
	*clients
	conn   *pgx.Conn
	at     int // which of the urls
	random *rand.Rand
}

func (s *session) draw(id int64) transfer {
	return transfer{id: id, delta: s.random.Int64N(10_000) - 5_000,
		aid: 1 + s.random.IntN(accounts), tid: 1 + s.random.IntN(tellers), bid: 1 + s.random.IntN(branches)}
}

// see makes a transfer until it is acknowledged, under the same number each time.
// After an error its outcome is unknown: that the number is taken is then the
// acknowledgement.
func (s *session) see(ctx context.Context, t transfer) bool {
	ctx, cancel := context.WithTimeout(ctx, transferTime)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err := s.try(ctx, t)
		if err == nil || attempt > 1 && code(err) == uniqueViolation {
			return true
		}
		s.close(ctx)
		s.mu.Lock()
		s.failed = append(s.failed, fmt.Sprintf("transfer %d, attempt %d: %v", t.id, attempt, err))
		s.mu.Unlock()
		if attempt > 1 { // the first time it may be just the connection that was lost
			select {
			case <-time.After(retryEvery):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return false
		}
	}
}

const uniqueViolation = "23505"

func code(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// try makes a transfer once, in seven round trips as pgbench does.
func (s *session) try(ctx context.Context, t transfer) error {
	if err := s.connect(ctx); err != nil {
		return err
	}
	if _, err := s.conn.Exec(ctx, "BEGIN"); err != nil {
		return err
	}
	if _, err := s.conn.Exec(ctx, "UPDATE accounts SET abalance = abalance + $1 WHERE aid = $2", t.delta, t.aid); err != nil {
		return err
	}
	var balance int64
	if err := s.conn.QueryRow(ctx, "SELECT abalance FROM accounts WHERE aid = $1", t.aid).Scan(&balance); err != nil {
		return err
	}
	if _, err := s.conn.Exec(ctx, "UPDATE tellers SET tbalance = tbalance + $1 WHERE tid = $2", t.delta, t.tid); err != nil {
		return err
	}
	if _, err := s.conn.Exec(ctx, "UPDATE branches SET bbalance = bbalance + $1 WHERE bid = $2", t.delta, t.bid); err != nil {
		return err
	}
	if _, err := s.conn.Exec(ctx, "INSERT INTO history (id, tid, bid, aid, delta) VALUES ($1, $2, $3, $4, $5)", t.id, t.tid, t.bid, t.aid, t.delta); err != nil {
		return err
	}
	tag, err := s.conn.Exec(ctx, "COMMIT")
	if err == nil && tag.String() != "COMMIT" {
		err = fmt.Errorf("COMMIT was answered by %s", tag)
	}
	return err
}

// connect makes sure that there is a connection. A side that refuses is left for
// the next; when all refuse, the client waits a moment, as pools do.
func (s *session) connect(ctx context.Context) error {
	for refused := 0; s.conn == nil; {
		config, err := pgx.ParseConfig(s.urls[s.at])
		if err != nil {
			return err
		}
		config.DefaultQueryExecMode = pgx.QueryExecModeExec // extended protocol, nothing prepared
		config.ConnectTimeout = 5 * time.Second
		if s.conn, err = pgx.ConnectConfig(ctx, config); err == nil {
			return nil
		}
		s.conn = nil
		refused++
		if s.at = (s.at + 1) % len(s.urls); len(s.urls) == 1 {
			return err
		}
		if refused%len(s.urls) == 0 {
			wait := time.Duration(float64(retryEvery) * (0.5 + s.random.Float64()))
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return err
			}
		}
	}
	return nil
}

func (s *session) close(ctx context.Context) {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // whatever it says, it is of no use any more
	s.conn = nil
}
