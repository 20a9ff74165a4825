package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/demo/shop"
)

// The database that moves, and the application's role in it.
const (
	database = "shop"
	role     = "shop"
)

// settings of a small but real server: the defaults of package cluster are for
// many servers beside each other.
var settings = map[string]string{
	"shared_buffers":       "256MB",
	"maintenance_work_mem": "128MB",
	"max_wal_size":         "4GB",
	"checkpoint_timeout":   "15min",
}

// pair is a source with a shop in it, and an empty target.
type pair struct {
	source, target *cluster.Cluster
	pgbaton, pgBin string
	bytes          int64 // of the shop's database
	dir            string
}

// startPair starts both servers and loads the shop.
func startPair(ctx context.Context, o options, orders int, r *report) (p *pair, err error) {
	p = &pair{pgbaton: o.pgbaton}
	if p.pgBin, err = cluster.FindBinDir("", max(o.from, o.to)); err != nil {
		return nil, err
	}
	if p.dir, err = os.MkdirTemp("", "pgbaton-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.remove())
		}
	}()
	// The servers may run as another user, who has to pass through.
	if err := os.Chmod(p.dir, 0o711); err != nil {
		return nil, err
	}
	var sourceErr, targetErr error
	var starting sync.WaitGroup
	start := func(major int) (*cluster.Cluster, error) {
		return cluster.Start(ctx, cluster.Options{Major: major, Dir: p.dir, Settings: settings, Durable: true})
	}
	starting.Go(func() { p.source, sourceErr = start(o.from) })
	starting.Go(func() { p.target, targetErr = start(o.to) })
	starting.Wait()
	if err := errors.Join(sourceErr, targetErr); err != nil {
		return nil, err
	}
	for _, s := range []struct {
		c    *cluster.Cluster
		into *string
	}{{p.source, &r.Source}, {p.target, &r.Target}} {
		err := query(ctx, s.c.ConnString("postgres"), func(conn *pgx.Conn) error {
			*s.into = conn.PgConn().ParameterStatus("server_version")
			_, err := conn.Exec(ctx, "CREATE ROLE "+role+" LOGIN")
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	r.FsyncMS = fsyncMedian(p.dir)
	return p, p.load(ctx, orders)
}

// load fills the source. VACUUM does what the first reader of fresh rows would
// have to do, and ANALYZE what autovacuum would do at some point.
func (p *pair) load(ctx context.Context, orders int) error {
	err := query(ctx, p.source.ConnString("postgres"), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "CREATE DATABASE "+database+" OWNER "+role)
		return err
	})
	if err != nil {
		return err
	}
	err = query(ctx, p.source.ConnStringAs(role, "", database), func(conn *pgx.Conn) error {
		return shop.Load(ctx, conn, shop.Size{Orders: orders})
	})
	if err != nil {
		return err
	}
	return query(ctx, p.source.ConnString(database), func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "VACUUM (ANALYZE)"); err != nil {
			return err
		}
		return conn.QueryRow(ctx, "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())").Scan(&p.bytes)
	})
}

// settle gives every run the same beginning: nothing left to be written.
func (p *pair) settle(ctx context.Context) error {
	for _, c := range []*cluster.Cluster{p.source, p.target} {
		err := query(ctx, c.ConnString("postgres"), func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "CHECKPOINT")
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// dropTarget removes the database after a finish: the next start makes it anew.
func (p *pair) dropTarget(ctx context.Context) error {
	return query(ctx, p.target.ConnString("postgres"), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
			WHERE datname = $1`, database)
		if err == nil {
			_, err = conn.Exec(ctx, "DROP DATABASE "+database)
		}
		return err
	})
}

// remove ends the servers and deletes everything of theirs.
func (p *pair) remove() error {
	var errs []error
	for _, c := range []*cluster.Cluster{p.source, p.target} {
		if c != nil {
			errs = append(errs, c.Remove())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(p.dir))...)
}

// query opens a connection for fn alone.
func query(ctx context.Context, url string, fn func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return errors.Join(fn(conn), conn.Close(context.WithoutCancel(ctx)))
}
