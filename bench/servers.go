package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
)

// settings of a small but real server: the defaults of package cluster are for
// many servers beside each other.
var settings = map[string]string{
	"shared_buffers":       "256MB",
	"maintenance_work_mem": "128MB",
	"max_wal_size":         "4GB",
	"checkpoint_timeout":   "15min",
}

// pairOptions say what servers, and what is in the source.
type pairOptions struct {
	pgbaton  string
	from, to int
	database string // and the application's role, its owner
	extra    map[string]string
	load     func(context.Context, *pgx.Conn) error // as that role
}

// pair is a source with a database in it, and an empty target.
type pair struct {
	pairOptions
	source, target               *cluster.Cluster
	sourceVersion, targetVersion string
	pgBin                        string
	bytes                        int64 // of the database
	dir                          string
}

// startPair starts both servers and fills the source.
func startPair(ctx context.Context, o pairOptions) (_ *pair, err error) {
	p := &pair{pairOptions: o}
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
	all := maps.Clone(settings)
	maps.Copy(all, o.extra)
	var sourceErr, targetErr error
	var starting sync.WaitGroup
	start := func(major int) (*cluster.Cluster, error) {
		return cluster.Start(ctx, cluster.Options{Major: major, Dir: p.dir, Settings: all, Durable: true})
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
	}{{p.source, &p.sourceVersion}, {p.target, &p.targetVersion}} {
		err := query(ctx, s.c.ConnString("postgres"), func(conn *pgx.Conn) error {
			*s.into = conn.PgConn().ParameterStatus("server_version")
			_, err := conn.Exec(ctx, "CREATE ROLE "+o.database+" LOGIN")
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return p, p.fill(ctx)
}

// fill makes the database. VACUUM does what the first reader of fresh rows would
// have to do, and ANALYZE what autovacuum would do at some point.
func (p *pair) fill(ctx context.Context) error {
	err := query(ctx, p.source.ConnString("postgres"), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "CREATE DATABASE "+p.database+" OWNER "+p.database)
		return err
	})
	if err != nil {
		return err
	}
	err = query(ctx, p.source.ConnStringAs(p.database, "", p.database), func(conn *pgx.Conn) error {
		return p.load(ctx, conn)
	})
	if err != nil {
		return err
	}
	return query(ctx, p.source.ConnString(p.database), func(conn *pgx.Conn) error {
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
