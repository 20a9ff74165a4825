package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

var errPortTaken = errors.New("another process took the port")

// Ports are chosen below the range from which systems give out ports for outgoing connections: a
// server that is restarted must find its port still free.
const (
	firstPort = 15000
	lastPort  = 31999
)

// freePort returns a port that was free a moment ago; Start tries again when it lost the race for it.
func freePort() (int, error) {
	for range 100 {
		if port := firstPort + rand.IntN(lastPort-firstPort+1); portIsFree(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("found no free port between %d and %d", firstPort, lastPort)
}

func portIsFree(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

const pollInterval = 10 * time.Millisecond

// awaitReady connects until it succeeds, the server is gone, or ctx ends.
func (c *Cluster) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := c.probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-c.server.done:
			return errors.New("the server ended")
		case <-ctx.Done():
			return fmt.Errorf("the server did not become ready: %w (last attempt: %w)", ctx.Err(), err)
		}
	}
}

// probe connects and checks that it is our server that answers, not one that took the port before it.
func (c *Cluster) probe(ctx context.Context) error {
	return c.query(ctx, func(conn *pgx.Conn) error {
		var dir string
		if err := conn.QueryRow(ctx, "SHOW data_directory").Scan(&dir); err != nil {
			return err
		}
		theirs, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return err
		}
		ours, err := filepath.EvalSymlinks(c.DataDir())
		if err != nil {
			return err
		}
		if theirs != ours {
			return fmt.Errorf("the server on port %d has the data directory %s", c.port, dir)
		}
		return nil
	})
}

// reload signals the server and waits until a session has seen it read its configuration.
func (c *Cluster) reload(ctx context.Context) error {
	return c.query(ctx, func(conn *pgx.Conn) error {
		var before time.Time
		if err := conn.QueryRow(ctx, "SELECT pg_conf_load_time()").Scan(&before); err != nil {
			return err
		}
		if err := c.server.signal(syscall.SIGHUP); err != nil {
			return err
		}
		tick := time.NewTicker(pollInterval)
		defer tick.Stop()
		for {
			var loaded bool
			if err := conn.QueryRow(ctx, "SELECT pg_conf_load_time() > $1", before).Scan(&loaded); err != nil {
				return err
			}
			if loaded {
				return nil
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("the server did not read its configuration: %w", ctx.Err())
			}
		}
	})
}

func (c *Cluster) query(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, c.ConnString("postgres"))
	if err != nil {
		return err
	}
	return errors.Join(do(conn), conn.Close(ctx))
}
