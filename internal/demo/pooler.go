package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"os/exec"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/cluster"
)

// startPooler puts a PgBouncer between the shop and its database, where there is
// one: with it nobody needs to tell the shop that its database has moved.
func (d *demo) startPooler(ctx context.Context) error {
	if d.Direct {
		return nil
	}
	program, err := cluster.FindPooler(d.PostgresDir, "")
	if err != nil {
		if program, err = exec.LookPath("pgbouncer"); err != nil {
			d.say("No PgBouncer was found: the shop connects directly. (scripts/fetch-postgres pgbouncer)")
			return nil
		}
	}
	began := time.Now()
	d.pooler, err = cluster.StartPooler(ctx, cluster.PoolerOptions{
		Program:       program,
		Dir:           d.dir,
		Databases:     map[string]cluster.PoolerDatabase{shopDatabase: {Port: d.source.Port()}},
		Users:         map[string]string{shopRole: d.password},
		AdminPassword: rand.Text(),
	})
	if err != nil {
		return err
	}
	if d.report.Pooler, err = poolerVersion(ctx, d.pooler.AdminURI()); err != nil {
		return err
	}
	d.step(fmt.Sprintf("%s on port %d, pooling transactions", d.report.Pooler, d.pooler.Port()), time.Since(began))
	return nil
}

// poolerVersion asks the admin console, which knows no prepared statements.
func poolerVersion(ctx context.Context, adminURI string) (string, error) {
	conn, err := pgconn.Connect(ctx, adminURI)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	results, err := conn.Exec(ctx, "SHOW VERSION").ReadAll()
	if err == nil && (len(results) == 0 || len(results[0].Rows) == 0) {
		err = pgx.ErrNoRows
	}
	if err != nil {
		return "", fmt.Errorf("ask PgBouncer for its version: %w", err)
	}
	return string(results[0].Rows[0][0]), nil
}
