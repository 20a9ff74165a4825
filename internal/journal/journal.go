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
	"fmt"
	"strings"
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

// SelectionKind is the kind of the entry that comes with the record and goes with the
// schema: what the migration includes, on both sides.
const SelectionKind = "selection"

// Lost says whether what the journal remembered is gone, by somebody's hand: the schema
// is there, and has no record, or no entry of SelectionKind. r is what Read returned.
func Lost(ctx context.Context, db postgres.DB, r *Record) (lost bool, err error) {
	if r == nil {
		return SchemaExists(ctx, db)
	}
	if there, err := Exists(ctx, db); err != nil || !there {
		return err == nil, err
	}
	err = db.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM pgbaton.journal WHERE kind = $1)`, SelectionKind).Scan(&lost)
	return lost, err
}

// DeleteSQL is the statement that forgets an entry, for people.
func (d *Damaged) DeleteSQL() string {
	return fmt.Sprintf("DELETE FROM pgbaton.journal WHERE kind = %s AND key = %s", postgres.QuoteLiteral(d.Kind), postgres.QuoteLiteral(d.Key))
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

// Damaged is an entry of the journal that is not what pgbaton has written.
type Damaged struct {
	Kind, Key string
	Err       error
}

// Error implements error.
func (d *Damaged) Error() string {
	return fmt.Sprintf("entry %s %q of pgbaton.journal is damaged: %s", d.Kind, d.Key, d.Err)
}

// Unwrap implements errors.Unwrap.
func (d *Damaged) Unwrap() error { return d.Err }

// decode reads what Put has written.
func decode(kind, key, text string, v any) error {
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return &Damaged{kind, key, err}
	}
	return nil
}

// Put stores a value under kind and key, replacing what was there.
func Put(ctx context.Context, db postgres.DB, kind, key string, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = db.Exec(ctx, `
		INSERT INTO pgbaton.journal (kind, key, value) VALUES ($1, $2, $3::text::jsonb)
		ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, at = clock_timestamp()`,
		kind, key, string(b))
	return err
}

// PutSQL is the statement of Put for several keys at once, for sessions that take
// SQL as text.
func PutSQL(kind string, keys []string, values []any) (string, error) {
	var b strings.Builder
	b.WriteString("INSERT INTO pgbaton.journal (kind, key, value) VALUES ")
	for i, key := range keys {
		body, err := json.Marshal(values[i])
		if err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "(%s, %s, %s)", postgres.QuoteLiteral(kind), postgres.QuoteLiteral(key), postgres.QuoteLiteral(string(body)))
	}
	b.WriteString(" ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, at = pg_catalog.clock_timestamp()")
	return b.String(), nil
}

// PutNew stores a value unless there is one: what must be put back as it was
// is remembered once, not overwritten by what a second run finds.
func PutNew(ctx context.Context, db postgres.DB, kind, key string, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = db.Exec(ctx, `
		INSERT INTO pgbaton.journal (kind, key, value) VALUES ($1, $2, $3::text::jsonb)
		ON CONFLICT (kind, key) DO NOTHING`, kind, key, string(b))
	return err
}

// Get reads a value into v and says whether it was there.
func Get(ctx context.Context, db postgres.DB, kind, key string, v any) (bool, error) {
	at, err := GetAt(ctx, db, kind, key, v)
	return at != nil, err
}

// GetAt is Get with the time at which the value was put; nil when there is none.
func GetAt(ctx context.Context, db postgres.DB, kind, key string, v any) (*time.Time, error) {
	if there, err := Exists(ctx, db); err != nil || !there {
		return nil, err
	}
	var text string
	var at time.Time
	err := db.QueryRow(ctx, `SELECT value::text, at FROM pgbaton.journal WHERE kind = $1 AND key = $2`, kind, key).Scan(&text, &at)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, err
	}
	at = at.UTC()
	return &at, decode(kind, key, text, v)
}

// List reads all values of a kind, by key.
func List[T any](ctx context.Context, db postgres.DB, kind string) (map[string]T, error) {
	values := map[string]T{}
	if there, err := Exists(ctx, db); err != nil || !there {
		return values, err
	}
	rows, err := db.Query(ctx, `SELECT key, value::text FROM pgbaton.journal WHERE kind = $1`, kind)
	if err != nil {
		return nil, err
	}
	var key, text string
	_, err = pgx.ForEachRow(rows, []any{&key, &text}, func() error {
		var v T
		if err := decode(kind, key, text, &v); err != nil {
			return err
		}
		values[key] = v
		return nil
	})
	return values, err
}

// Delete forgets all values of a kind; a key of "" means every key.
func Delete(ctx context.Context, db postgres.DB, kind, key string) error {
	_, err := db.Exec(ctx, `DELETE FROM pgbaton.journal WHERE kind = $1 AND (key = $2 OR $2 = '')`, kind, key)
	return err
}
