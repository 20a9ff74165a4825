package replication

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// SequenceValue is the state of a sequence, read from the sequence itself.
type SequenceValue struct {
	postgres.Ident
	LastValue int64
	IsCalled  bool
}

// sequencesPerQuery bounds the size of one statement.
const sequencesPerQuery = 200

// ReadSequences reads the state of all named sequences. The views are no help:
// pg_sequences shows neither is_called nor the value of a sequence that was
// never called.
func ReadSequences(ctx context.Context, db postgres.DB, sequences []catalog.Sequence) ([]SequenceValue, error) {
	values := make([]SequenceValue, 0, len(sequences))
	for len(sequences) > 0 {
		n := min(len(sequences), sequencesPerQuery)
		parts := make([]string, n)
		for i, s := range sequences[:n] {
			parts[i] = fmt.Sprintf("SELECT %d, last_value, is_called FROM %s", i, s.Ident)
		}
		rows, err := db.Query(ctx, strings.Join(parts, " UNION ALL "), pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return nil, err
		}
		var i int
		var v SequenceValue
		_, err = pgx.ForEachRow(rows, []any{&i, &v.LastValue, &v.IsCalled}, func() error {
			v.Ident = sequences[i].Ident
			values = append(values, v)
			return nil
		})
		if err != nil {
			return nil, err
		}
		sequences = sequences[n:]
	}
	return values, nil
}

// SetSequences sets every sequence exactly: the next value here is the one that
// would have been next there (rule 4). A sequence that does not exist is an error.
func SetSequences(ctx context.Context, db postgres.DB, values []SequenceValue) error {
	var names []string
	var last []int64
	var called []bool
	for _, v := range values {
		names, last, called = append(names, v.String()), append(last, v.LastValue), append(called, v.IsCalled)
	}
	_, err := db.Exec(ctx, `
		SELECT pg_catalog.setval(name::pg_catalog.regclass, value, called)
		FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::int8[]), pg_catalog.unnest($3::bool[])) AS s (name, value, called)`, names, last, called)
	return err
}
