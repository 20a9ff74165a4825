package journal

import (
	"context"
	"fmt"

	"pgbaton/internal/postgres"
)

// Baton is what the records of both sides say together.
type Baton struct {
	Side       postgres.Side // who is authoritative for writes
	Generation int64
	Passed     bool // handed over, but the taker has not recorded it yet: nobody may write
	Certain    bool // false when a record that could say otherwise could not be read
}

// Decide derives the baton from the records that could be read; nil stands for
// one that is missing or out of reach. The higher generation wins; within one
// generation "took" comes after "handed over". ok is false when there is
// nothing to decide from.
func Decide(source, target *Record) (b Baton, ok bool) {
	var top *Record
	for _, r := range []*Record{source, target} {
		if r == nil || !r.Took && !r.HandedOver {
			continue
		}
		if top == nil || r.Generation > top.Generation || r.Generation == top.Generation && r.Took {
			top = r
		}
	}
	if top == nil {
		// Only a target that never took part: the source began with the baton,
		// and it alone knows whether it has passed it.
		return Baton{Side: postgres.Source}, target != nil
	}
	b = Baton{Side: top.Side, Generation: top.Generation, Certain: source != nil && target != nil}
	if top.HandedOver {
		b.Side, b.Passed = top.Side.Other(), true
	}
	return b, true
}

// raiseSQL raises the attempt and notes in the same statement who did: should the
// answer be lost, whoever did recognises it.
const raiseSQL = `
WITH raised AS (UPDATE pgbaton.migration SET attempt = attempt + 1 RETURNING attempt)
INSERT INTO pgbaton.journal (kind, key, value)
SELECT 'handover', 'attempt', pg_catalog.jsonb_build_object('attempt', attempt, 'by', $1::text) FROM raised
ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, at = clock_timestamp()
RETURNING (value ->> 'attempt')::bigint`

// RaiseAttempt begins a handover on the holder, or takes one over: a process of an
// earlier attempt can no longer pass the baton. by names the process.
func RaiseAttempt(ctx context.Context, db postgres.DB, by string) (attempt int64, err error) {
	err = db.QueryRow(ctx, raiseSQL, by).Scan(&attempt)
	return attempt, err
}

// attempt is who raised the attempt to what.
type attempt struct {
	Attempt int64  `json:"attempt"`
	By      string `json:"by"`
}

// AttemptBy returns who raised the attempt last.
func AttemptBy(ctx context.Context, db postgres.DB) (by string, err error) {
	v, _, err := One[attempt](Attempt).Get(ctx, db)
	return v.By, err
}

// PassSQL is the pass: one commit on the holder, after which there is only
// forward. $1 is the generation the holder took, $2 the attempt.
const PassSQL = `UPDATE pgbaton.migration SET generation = generation + 1, handed_over = true, took = false
WHERE generation = $1 AND attempt = $2 AND took`

// TakeSQL is the taker's record of generation $1, committed before it is
// unfenced. Repeating it changes nothing.
const TakeSQL = `UPDATE pgbaton.migration SET generation = $1, handed_over = false, took = true
WHERE generation < $1 OR (generation = $1 AND took)`

// StaleSQL is the record of a side that still believed to have the baton when the
// other had taken generation $1 by force: it has it no more.
const StaleSQL = `UPDATE pgbaton.migration SET generation = $1, attempt = attempt + 1, handed_over = true, took = false
WHERE generation < $1 AND took`

// ExecOne runs a statement that must change exactly one row.
func ExecOne(ctx context.Context, db postgres.DB, sql string, args ...any) error {
	tag, err := db.Exec(ctx, sql, args...)
	if err == nil && tag.RowsAffected() != 1 {
		err = fmt.Errorf("another attempt has moved on: %d records match generation and attempt", tag.RowsAffected())
	}
	return err
}
