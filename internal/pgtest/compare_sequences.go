package pgtest

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const listSequences = `
SELECT n.nspname::text, c.relname::text,
       pg_catalog.format('%s start %s min %s max %s increment %s cycle %s cache %s',
           pg_catalog.format_type(s.seqtypid, NULL), s.seqstart, s.seqmin, s.seqmax, s.seqincrement, s.seqcycle, s.seqcache)
  FROM pg_catalog.pg_sequence s
  JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relpersistence <> 't' AND n.nspname <> 'pgbaton'`

type sequence struct {
	definition string
	last       int64
	called     bool
	next       string // the next value, or the SQLSTATE of the refusal; empty when not asked for
}

func (s sequence) String() string {
	text := fmt.Sprintf("last_value %d, is_called %t", s.last, s.called)
	if s.next != "" {
		text += ", next " + s.next
	}
	return text + " (" + s.definition + ")"
}

func (c *comparison) compareSequences(ctx context.Context) error {
	var sides [2]map[name]sequence
	for i, conn := range c.conns {
		var err error
		if sides[i], err = c.sequences(ctx, conn); err != nil {
			return fmt.Errorf("sequences of %s: %w", c.Names[i], err)
		}
	}
	for _, n := range bothSides(c, "sequence", sides) {
		if a, b := sides[0][n], sides[1][n]; a != b {
			c.report("sequence %s: %s: %v; %s: %v", n.quoted(), c.Names[0], a, c.Names[1], b)
		}
	}
	return nil
}

func (c *comparison) sequences(ctx context.Context, conn *pgx.Conn) (map[name]sequence, error) {
	rows, err := conn.Query(ctx, listSequences)
	if err != nil {
		return nil, err
	}
	sequences := map[name]sequence{}
	var n name
	var s sequence
	if _, err := pgx.ForEachRow(rows, []any{&n.schema, &n.relation, &s.definition}, func() error {
		if c.Except == nil || !c.Except(n.schema, n.relation) {
			sequences[n] = s
		}
		return nil
	}); err != nil {
		return nil, err
	}
	for n, s := range sequences {
		if err := conn.QueryRow(ctx, "SELECT last_value, is_called FROM "+n.quoted()).Scan(&s.last, &s.called); err != nil {
			return nil, fmt.Errorf("%s: %w", n.quoted(), err)
		}
		sequences[n] = s
	}
	if !c.NextValues {
		return sequences, nil
	}
	// The snapshot's transaction is read-only; the values are drawn after it.
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		return nil, err
	}
	for n, s := range sequences {
		if s.next, err = nextValue(ctx, conn, n, s); err != nil {
			return nil, fmt.Errorf("%s: %w", n.quoted(), err)
		}
		sequences[n] = s
	}
	return sequences, nil
}

// nextValue draws a value and puts the sequence back to where it was: no rollback would do that.
func nextValue(ctx context.Context, conn *pgx.Conn, n name, s sequence) (string, error) {
	if _, err := conn.Exec(ctx, "SET default_transaction_read_only = off"); err != nil {
		return "", err
	}
	var next string
	err := conn.QueryRow(ctx, "SELECT pg_catalog.nextval($1::text::pg_catalog.regclass)::text", n.quoted()).Scan(&next)
	if refusal := (*pgconn.PgError)(nil); errors.As(err, &refusal) {
		return "refused: " + refusal.Code, nil // at its end: nothing was drawn
	}
	if err != nil {
		return "", err
	}
	_, err = conn.Exec(ctx, "SELECT pg_catalog.setval($1::text::pg_catalog.regclass, $2, $3)", n.quoted(), s.last, s.called)
	return next, err
}
