// Package journal keeps the baton and the intentions of a migration durable in
// the two databases themselves, in schema pgbaton. After a crash they say what
// was intended; what exists is asked of the catalogs.
package journal

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

//go:embed schema.sql
var schemaSQL string

// Schema is the name of pgbaton's schema on both sides.
const Schema = "pgbaton"

// SchemaSQL is the statement list that makes the schema, for `pgbaton plan`.
func SchemaSQL() string { return schemaSQL }

// Record is one side's view of the migration.
type Record struct {
	Name       string
	ID         string
	Side       postgres.Side
	Method     string
	Generation int64
	Attempt    int64
	HandedOver bool
	Took       bool
	MadeAt     time.Time
	Ends       *Ends // nil: of a migration begun before the ends were recorded
}

// NewID makes the identity that ties the two records of one migration together.
func NewID() string {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		panic(err) // crypto/rand never fails on a supported system
	}
	return hex.EncodeToString(b)
}

// Read returns the database's record, or nil when there is none (or no schema).
func Read(ctx context.Context, db postgres.DB) (*Record, error) {
	if there, err := exists(ctx, db, "pgbaton.migration"); err != nil || !there {
		return nil, err
	}
	var r Record
	var ends *string
	err := db.QueryRow(ctx, `SELECT name, id, side, method, generation, attempt, handed_over, took, made_at, pg_catalog.to_jsonb(m) ->> 'ends'
		FROM pgbaton.migration m`).
		Scan(&r.Name, &r.ID, &r.Side, &r.Method, &r.Generation, &r.Attempt, &r.HandedOver, &r.Took, &r.MadeAt, &ends)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err == nil && ends != nil {
		err = json.Unmarshal([]byte(*ends), &r.Ends)
	}
	return &r, err
}

// Exists says whether the journal is there. Asking first keeps errors out of
// the log of a server that has nothing of ours.
func Exists(ctx context.Context, db postgres.DB) (there bool, err error) {
	return exists(ctx, db, "pgbaton.journal")
}

func exists(ctx context.Context, db postgres.DB, table string) (there bool, err error) {
	err = db.QueryRow(ctx, `SELECT pg_catalog.to_regclass($1) IS NOT NULL`, table).Scan(&there)
	return there, err
}

// SchemaExists says whether there is anything left of the schema.
func SchemaExists(ctx context.Context, db postgres.DB) (there bool, err error) {
	err = db.QueryRow(ctx, `SELECT pg_catalog.to_regnamespace($1) IS NOT NULL`, Schema).Scan(&there)
	return there, err
}

// Lost says whether what the journal remembered is gone, by somebody's hand: the schema
// is there, and has no record, or no Selection. r is what Read returned.
func Lost(ctx context.Context, db postgres.DB, r *Record) (lost bool, err error) {
	if r == nil {
		return SchemaExists(ctx, db)
	}
	if there, err := Exists(ctx, db); err != nil || !there {
		return err == nil, err
	}
	there, err := Many[any](Selection).Any(ctx, db)
	return !there, err
}

// beginner is a session, or a transaction in which another is a savepoint.
type beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Create makes schema and record, and in the same transaction what more is done
// with it. On the source the migration begins with the baton held: took is true
// there in generation 0.
func Create(ctx context.Context, conn beginner, r Record, more func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, schemaSQL); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO pgbaton.migration (name, id, side, method, generation, handed_over, took)
			VALUES ($1, $2, $3, $4, 0, false, $5)`,
			r.Name, r.ID, r.Side, r.Method, r.Side == postgres.Source)
		if err == nil && r.Ends != nil {
			err = PutEnds(ctx, tx, *r.Ends)
		}
		if err != nil || more == nil {
			return err
		}
		return more(tx)
	})
}

// Drop removes the schema with all it holds.
func Drop(ctx context.Context, db postgres.DB) error {
	_, err := db.Exec(ctx, `DROP SCHEMA IF EXISTS pgbaton CASCADE`)
	return err
}
