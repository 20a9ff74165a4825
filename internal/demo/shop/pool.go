package shop

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A generation is the pool of one database URL, from the moment the store is
// pointed there until it is pointed elsewhere.
type generation struct {
	pool    *pgxpool.Pool
	users   sync.WaitGroup // attempts that hold the pool
	retired chan struct{}  // closed when the store points elsewhere

	versionMu sync.Mutex
	version   string
	versionAt time.Time
}

func newGeneration(databaseURL string, maxConns int32) (*generation, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("shop: database URL: %w", err) // pgx has redacted the password
	}
	// Nothing may live in a server session between transactions: a
	// transaction pooler hands the next one to another server process.
	// Exec mode leaves no prepared statement behind.
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	if maxConns > 0 {
		config.MaxConns = maxConns
	}
	// The pool connects when it is first used: a shop whose database is away
	// starts all the same, and says that it will be right back.
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("shop: create pool: %w", err)
	}
	return &generation{pool: pool, retired: make(chan struct{})}, nil
}

// close waits for the attempts that still hold the pool, then closes it.
func (g *generation) close() {
	g.users.Wait()
	g.pool.Close()
}

// serverVersion asks the server, unless the last answer is young enough.
// Behind a pooler it can change while the generation stays.
func (g *generation) serverVersion(ctx context.Context, maxAge time.Duration) (string, error) {
	g.versionMu.Lock()
	defer g.versionMu.Unlock()
	if time.Since(g.versionAt) < maxAge {
		return g.version, nil
	}
	err := g.pool.QueryRow(ctx, `SELECT current_setting('server_version')`).Scan(&g.version)
	if err != nil {
		return "", err
	}
	g.versionAt = time.Now()
	return g.version, nil
}

var errClosed = errors.New("shop: the store is closed")

// acquire takes the current generation; the caller calls users.Done.
func (s *Store) acquire() (*generation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil, errClosed
	}
	// Under the lock: no Add can come after Repoint has begun to Wait.
	s.current.users.Add(1)
	return s.current, nil
}

// Repoint makes every request from now on use another database. Requests
// under way finish where they are, and those waiting to try again try there at
// once. It does not connect, and it does not wait.
func (s *Store) Repoint(databaseURL string) error {
	next, err := newGeneration(databaseURL, s.options.MaxConns)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		next.pool.Close()
		return errClosed
	}
	s.retire(s.current)
	s.current = next
	return nil
}

// Close refuses new requests, waits for those under way and for every pool
// that was ever used.
func (s *Store) Close() {
	s.mu.Lock()
	if s.current != nil {
		s.retire(s.current)
		s.current = nil
	}
	s.mu.Unlock()
	_ = s.retiring.Wait() // they return no error
}

// retire is called with mu held.
func (s *Store) retire(g *generation) {
	close(g.retired)
	s.retiring.Go(func() error { g.close(); return nil })
}
