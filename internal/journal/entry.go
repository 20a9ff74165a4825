package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

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

// Of says whether it is an entry of that name.
func (d *Damaged) Of(n Name) bool { return d.Kind == n.Kind && (n.Key == "" || d.Key == n.Key) }

// DeleteSQL is the statement that forgets the entry, for people.
func (d *Damaged) DeleteSQL() string { return deleteSQL(d.Kind, d.Key) }

// SetSQL is the statement that gives the entry a value, in JSON, for people.
func (d *Damaged) SetSQL(value string) string {
	return fmt.Sprintf("UPDATE pgbaton.journal SET value = %s WHERE %s", postgres.QuoteLiteral(value), where(d.Kind, d.Key))
}

func deleteSQL(kind, key string) string {
	return "DELETE FROM pgbaton.journal WHERE " + where(kind, key)
}

func where(kind, key string) string {
	return fmt.Sprintf("kind = %s AND key = %s", postgres.QuoteLiteral(kind), postgres.QuoteLiteral(key))
}

// The statements on entries.
const (
	putStatement = `INSERT INTO pgbaton.journal (kind, key, value) VALUES ($1, $2, $3::text::jsonb)
		ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, at = clock_timestamp()`
	putNewStatement = `INSERT INTO pgbaton.journal (kind, key, value) VALUES ($1, $2, $3::text::jsonb)
		ON CONFLICT (kind, key) DO NOTHING`
	deleteStatement  = `DELETE FROM pgbaton.journal WHERE kind = $1 AND key = $2`
	clearStatement   = `DELETE FROM pgbaton.journal WHERE kind = $1 AND (key = $2 OR $2 = '')`
	replaceStatement = `WITH old AS (DELETE FROM pgbaton.journal WHERE kind = $1 AND key = $2)
		INSERT INTO pgbaton.journal (kind, key, value) VALUES ($3, $4, $5::text::jsonb)
		ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, at = clock_timestamp()`
)

// Entry is an entry of which there is one, with the type of its value.
type Entry[T any] struct{ name Name }

// One gives an entry of the page its type.
func One[T any](n Name) Entry[T] { return Entry[T]{n} }

// Get reads the value and says whether there is one. What is not a T is a *Damaged.
func (e Entry[T]) Get(ctx context.Context, db postgres.DB) (v T, there bool, err error) {
	return get[T](ctx, db, e.name.Kind, e.name.Key)
}

// At is Get with the time at which the value was put; nil when there is none.
func (e Entry[T]) At(ctx context.Context, db postgres.DB) (v T, at *time.Time, err error) {
	return getAt[T](ctx, db, e.name.Kind, e.name.Key)
}

// Put stores a value, replacing what was there.
func (e Entry[T]) Put(ctx context.Context, db postgres.DB, v T) error {
	return put(ctx, db, e.name.Kind, e.name.Key, v)
}

// PutNew stores a value unless there is one: what must be put back as it was
// is remembered once, not overwritten by what a second run finds.
func (e Entry[T]) PutNew(ctx context.Context, db postgres.DB, v T) error {
	return putNew(ctx, db, e.name.Kind, e.name.Key, v)
}

// PutSQL is the statement of Put, for people.
func (e Entry[T]) PutSQL(v T) (string, error) {
	return putSQL(e.name.Kind, map[string]T{e.name.Key: v})
}

// Delete forgets the value.
func (e Entry[T]) Delete(ctx context.Context, db postgres.DB) error {
	_, err := db.Exec(ctx, deleteStatement, e.name.Kind, e.name.Key)
	return err
}

// DeleteSQL is the statement of Delete, for people.
func (e Entry[T]) DeleteSQL() string { return deleteSQL(e.name.Kind, e.name.Key) }

// Damaged is the error of a value that cannot be what was put.
func (e Entry[T]) Damaged(err error) error { return &Damaged{e.name.Kind, e.name.Key, err} }

// Replaced stores a value and forgets another entry in the same statement.
func (e Entry[T]) Replaced(ctx context.Context, db postgres.DB, old Name, v T) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = db.Exec(ctx, replaceStatement, old.Kind, old.Key, e.name.Kind, e.name.Key, string(b))
	return err
}

// Entries are entries of which there is one for each thing of a kind, with the type
// of their values.
type Entries[T any] struct{ name Name }

// Many gives entries of the page their type.
func Many[T any](n Name) Entries[T] { return Entries[T]{n} }

// List reads all values, by key. What is not a T is a *Damaged.
func (e Entries[T]) List(ctx context.Context, db postgres.DB) (map[string]T, error) {
	values := map[string]T{}
	if there, err := Exists(ctx, db); err != nil || !there {
		return values, err
	}
	rows, err := db.Query(ctx, `SELECT key, value::text FROM pgbaton.journal WHERE kind = $1`, e.name.Kind)
	if err != nil {
		return nil, err
	}
	var key, text string
	_, err = pgx.ForEachRow(rows, []any{&key, &text}, func() error {
		v, err := decode[T](e.name.Kind, key, text)
		values[key] = v
		return err
	})
	return values, err
}

// Any says whether there is one.
func (e Entries[T]) Any(ctx context.Context, db postgres.DB) (there bool, err error) {
	err = db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pgbaton.journal WHERE kind = $1)`, e.name.Kind).Scan(&there)
	return there, err
}

// Get reads one value and says whether it is there.
func (e Entries[T]) Get(ctx context.Context, db postgres.DB, key string) (v T, there bool, err error) {
	return get[T](ctx, db, e.name.Kind, key)
}

// At is Get with the time at which the value was put; nil when there is none.
func (e Entries[T]) At(ctx context.Context, db postgres.DB, key string) (v T, at *time.Time, err error) {
	return getAt[T](ctx, db, e.name.Kind, key)
}

// Put stores a value, replacing what was there.
func (e Entries[T]) Put(ctx context.Context, db postgres.DB, key string, v T) error {
	return put(ctx, db, e.name.Kind, key, v)
}

// PutNew stores a value unless there is one.
func (e Entries[T]) PutNew(ctx context.Context, db postgres.DB, key string, v T) error {
	return putNew(ctx, db, e.name.Kind, key, v)
}

// PutSQL is the statement that stores values, replacing what was there, for sessions
// that take SQL as text.
func (e Entries[T]) PutSQL(values map[string]T) (string, error) { return putSQL(e.name.Kind, values) }

// Delete forgets one value.
func (e Entries[T]) Delete(ctx context.Context, db postgres.DB, key string) error {
	_, err := db.Exec(ctx, deleteStatement, e.name.Kind, key)
	return err
}

// DeleteWith forgets the values with a member of that name and text.
func (e Entries[T]) DeleteWith(ctx context.Context, db postgres.DB, member, text string) error {
	_, err := db.Exec(ctx, `DELETE FROM pgbaton.journal WHERE kind = $1 AND value ->> $2::text = $3`, e.name.Kind, member, text)
	return err
}

// Damaged is the error of a value that cannot be what was put.
func (e Entries[T]) Damaged(key string, err error) error { return &Damaged{e.name.Kind, key, err} }

// UpsertSQL is the statement that stores what the server computes under key $1: value is
// an SQL expression, and so is instead, for when there is one already: there that is
// j.value, and the new one excluded.value.
func (e Entries[T]) UpsertSQL(value, instead string) string {
	return fmt.Sprintf(`INSERT INTO pgbaton.journal AS j (kind, key, value) VALUES ('%s', $1::text, %s)
ON CONFLICT (kind, key) DO UPDATE SET at = pg_catalog.clock_timestamp(), value = %s`, e.name.Kind, value, instead)
}

// UpdateSQL is the statement that gives the entry of key $1 a value that the server
// computes, where a condition holds; both are SQL expressions.
func (e Entries[T]) UpdateSQL(value, condition string) string {
	return fmt.Sprintf(`UPDATE pgbaton.journal SET value = %s WHERE kind = '%s' AND key = $1::text AND %s`, value, e.name.Kind, condition)
}

// Clear forgets all entries of these names.
func Clear(ctx context.Context, db postgres.DB, names ...Name) error {
	for _, n := range names {
		if _, err := db.Exec(ctx, clearStatement, n.Kind, n.Key); err != nil {
			return err
		}
	}
	return nil
}

// Written says whether an entry of one of these names was put within a time.
func Written(ctx context.Context, db postgres.DB, within time.Duration, names ...Name) (written bool, err error) {
	if there, err := Exists(ctx, db); err != nil || !there {
		return false, err
	}
	kinds := make([]string, len(names))
	for i, n := range names {
		kinds[i] = n.Kind
	}
	err = db.QueryRow(ctx, `SELECT coalesce(pg_catalog.clock_timestamp() - pg_catalog.max(at) <= $1::interval, false)
		FROM pgbaton.journal WHERE kind = ANY ($2)`, within, kinds).Scan(&written)
	return written, err
}

func decode[T any](kind, key, text string) (v T, err error) {
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return v, &Damaged{kind, key, err}
	}
	return v, nil
}

func get[T any](ctx context.Context, db postgres.DB, kind, key string) (v T, there bool, err error) {
	v, at, err := getAt[T](ctx, db, kind, key)
	return v, at != nil, err
}

func getAt[T any](ctx context.Context, db postgres.DB, kind, key string) (v T, at *time.Time, err error) {
	if there, err := Exists(ctx, db); err != nil || !there {
		return v, nil, err
	}
	var text string
	var put time.Time
	err = db.QueryRow(ctx, `SELECT value::text, at FROM pgbaton.journal WHERE kind = $1 AND key = $2`, kind, key).Scan(&text, &put)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return v, nil, nil
	case err != nil:
		return v, nil, err
	}
	put = put.UTC()
	v, err = decode[T](kind, key, text)
	return v, &put, err
}

func put(ctx context.Context, db postgres.DB, kind, key string, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = db.Exec(ctx, putStatement, kind, key, string(b))
	return err
}

func putNew(ctx context.Context, db postgres.DB, kind, key string, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = db.Exec(ctx, putNewStatement, kind, key, string(b))
	return err
}

func putSQL[T any](kind string, values map[string]T) (string, error) {
	var rows []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		body, err := json.Marshal(values[key])
		if err != nil {
			return "", err
		}
		rows = append(rows, fmt.Sprintf("(%s, %s, %s)", postgres.QuoteLiteral(kind), postgres.QuoteLiteral(key), postgres.QuoteLiteral(string(body))))
	}
	return "INSERT INTO pgbaton.journal (kind, key, value) VALUES " + strings.Join(rows, ", ") +
		" ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, at = pg_catalog.clock_timestamp()", nil
}
