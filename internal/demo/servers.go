package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/demo/shop"
	"pgbaton/internal/routine"
)

// The application's database and its role, an owner and no superuser.
const (
	shopDatabase = "shop"
	shopRole     = "shop"
)

// startServers starts both servers at once, and gives both the role of the
// application: roles belong to a server, not to the database that moves.
func (d *demo) startServers(ctx context.Context) (err error) {
	d.chapter("Two servers")
	sourceBin, err := cluster.FindBinDir(d.PostgresDir, d.From)
	if err != nil {
		return err
	}
	targetBin, err := cluster.FindBinDir(d.PostgresDir, d.To)
	if err != nil {
		return err
	}
	if d.PgBin == "" {
		if d.PgBin = targetBin; d.From > d.To {
			d.PgBin = sourceBin
		}
	}
	if d.dir, err = os.MkdirTemp("", "pgbaton-demo-"); err != nil {
		return err
	}
	// The servers may run as another user, who has to pass through; what is
	// secret in here has a mode of its own.
	if err := os.Chmod(d.dir, 0o711); err != nil {
		return err
	}

	began := time.Now()
	d.password = rand.Text()
	var sourceErr, targetErr error
	source := routine.Start(func() { d.source, sourceErr = d.startServer(ctx, d.From, sourceBin) })
	target := routine.Start(func() { d.target, targetErr = d.startServer(ctx, d.To, targetBin) })
	source.Wait()
	target.Wait()
	if err := errors.Join(sourceErr, targetErr); err != nil {
		return err
	}
	if d.report.From, err = d.prepareServer(ctx, d.source); err != nil {
		return err
	}
	if d.report.To, err = d.prepareServer(ctx, d.target); err != nil {
		return err
	}
	d.step(fmt.Sprintf("PostgreSQL %s on port %d, PostgreSQL %s on port %d",
		d.report.From, d.source.Port(), d.report.To, d.target.Port()), time.Since(began))
	return nil
}

// startServer makes a server that writes to disk as one that matters does:
// the figures at the end are to mean something.
func (d *demo) startServer(ctx context.Context, major int, binDir string) (*cluster.Cluster, error) {
	return cluster.Start(ctx, cluster.Options{
		Major: major, BinDir: binDir, Dir: d.dir, Password: rand.Text(), Durable: true,
	})
}

// prepareServer makes the application's role and returns the server's version.
func (d *demo) prepareServer(ctx context.Context, c *cluster.Cluster) (version string, err error) {
	err = query(ctx, c.ConnString("postgres"), func(conn *pgx.Conn) error {
		// rand.Text is letters and digits: nothing to quote.
		if _, err := conn.Exec(ctx, fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD '%s'`, shopRole, d.password)); err != nil {
			return fmt.Errorf("create the role %s: %w", shopRole, err)
		}
		return conn.QueryRow(ctx, `SELECT split_part(current_setting('server_version'), ' ', 1)`).Scan(&version)
	})
	return version, err
}

const shopSizeSQL = `
SELECT (SELECT count(*) FROM shop.products),
       (SELECT count(*) FROM shop.orders),
       pg_catalog.pg_database_size(current_database())`

// loadShop fills the source with a shop that has been in business for a year.
func (d *demo) loadShop(ctx context.Context) error {
	began := time.Now()
	err := query(ctx, d.source.ConnString("postgres"), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, fmt.Sprintf(`CREATE DATABASE %s OWNER %s`, shopDatabase, shopRole))
		return err
	})
	if err != nil {
		return fmt.Errorf("create the database %s: %w", shopDatabase, err)
	}
	var size int64
	err = query(ctx, d.shopURL(d.source), func(conn *pgx.Conn) error {
		if err := shop.Load(ctx, conn, shop.Size{Orders: d.Orders}); err != nil {
			return err
		}
		return conn.QueryRow(ctx, shopSizeSQL).Scan(&d.report.Products, &d.report.OrdersBefore, &size)
	})
	if err != nil {
		return err
	}
	d.report.DatabaseBytes = size
	d.step(fmt.Sprintf("The shop, on PostgreSQL %d: %s products, %s orders, %s",
		d.From, count(d.report.Products), count(d.report.OrdersBefore), megabytes(float64(size))), time.Since(began))
	return nil
}

// shopURL is where the application finds its database on a server.
func (d *demo) shopURL(c *cluster.Cluster) string {
	return c.ConnStringAs(shopRole, d.password, shopDatabase)
}

// adminURL is the database as pgbaton's operator reaches it.
func adminURL(c *cluster.Cluster) string { return c.ConnString(shopDatabase) }

// query opens a connection for fn alone.
func query(ctx context.Context, url string, fn func(*pgx.Conn) error) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	config.RuntimeParams["search_path"] = ""
	return queryWith(ctx, config, fn)
}

// queryPooled does so where a transaction pooler may stand in between: it takes no
// startup options, and nothing may be left in a session.
func queryPooled(ctx context.Context, url string, fn func(*pgx.Conn) error) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	return queryWith(ctx, config, fn)
}

func queryWith(ctx context.Context, config *pgx.ConnConfig, fn func(*pgx.Conn) error) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	return errors.Join(fn(conn), conn.Close(context.WithoutCancel(ctx)))
}
