package replication

import (
	"context"
	"fmt"
	"slices"
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

// ReadSequences reads the state of all named sequences. Of those that have been
// called one function tells it, for all in one go; the others are read one by one.
func ReadSequences(ctx context.Context, db postgres.DB, sequences []catalog.Sequence) ([]SequenceValue, error) {
	oids := make([]uint32, len(sequences))
	for i, s := range sequences {
		oids[i] = s.OID
	}
	rows, err := db.Query(ctx, `SELECT pg_catalog.pg_sequence_last_value(s.oid) FROM pg_catalog.unnest($1::oid[]) WITH ORDINALITY AS s (oid, n) ORDER BY s.n`, oids)
	if err != nil {
		return nil, err
	}
	last, err := pgx.CollectRows(rows, pgx.RowTo[*int64])
	if err != nil {
		return nil, err
	}
	values := make([]SequenceValue, 0, len(sequences))
	var others []catalog.Sequence
	for i, s := range sequences {
		if last[i] == nil { // not called yet
			others = append(others, s)
			continue
		}
		values = append(values, SequenceValue{s.Ident, *last[i], true})
	}
	direct, err := readDirectly(ctx, db, others)
	return append(values, direct...), err
}

// readDirectly reads sequences as the relations they are.
func readDirectly(ctx context.Context, db postgres.DB, sequences []catalog.Sequence) ([]SequenceValue, error) {
	var values []SequenceValue
	for part := range slices.Chunk(sequences, sequencesPerQuery) {
		selects := make([]string, len(part))
		for i, s := range part {
			selects[i] = fmt.Sprintf("SELECT %d, last_value, is_called FROM %s", i, s.Ident)
		}
		rows, err := db.Query(ctx, strings.Join(selects, " UNION ALL "), pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return nil, err
		}
		var i int
		var v SequenceValue
		_, err = pgx.ForEachRow(rows, []any{&i, &v.LastValue, &v.IsCalled}, func() error {
			v.Ident = part[i].Ident
			values = append(values, v)
			return nil
		})
		if err != nil {
			return nil, err
		}
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
	_, err := db.Exec(ctx, setSequencesSQL, names, last, called)
	return err
}

const setSequencesSQL = `SELECT pg_catalog.setval(name::pg_catalog.regclass, value, called)
	FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::int8[]), pg_catalog.unnest($3::bool[])) AS s (name, value, called)`

// RaiseSequences brings sequences up to the rows of the columns that own them, for
// the case that their true values cannot be asked any more. It never sets one
// back. It returns how many it raised, and those that no column owns, of which
// nothing is known.
func RaiseSequences(ctx context.Context, db postgres.DB, sel catalog.Selection) (raised int, unknown []postgres.Ident, err error) {
	sequences, err := catalog.Sequences(ctx, db, sel)
	if err != nil {
		return 0, nil, err
	}
	owned, err := ownedSequences(ctx, db)
	if err != nil {
		return 0, nil, err
	}
	for _, s := range sequences {
		o, ok := owned[s.Ident]
		if !ok {
			unknown = append(unknown, s.Ident)
			continue
		}
		tag, err := db.Exec(ctx, o.raiseSQL(s.Ident), s.Ident.String())
		if err != nil {
			return raised, unknown, fmt.Errorf("sequence %s: %w", s.Ident, err)
		}
		raised += int(tag.RowsAffected())
	}
	return raised, unknown, nil
}

// owner is the column that owns a sequence.
type owner struct {
	table      postgres.Ident
	column     string
	descending bool
}

// raiseSQL moves a sequence on to the last value in its column, in its direction.
func (o owner) raiseSQL(sequence postgres.Ident) string {
	furthest, beyond := "max", ">"
	if o.descending {
		furthest, beyond = "min", "<"
	}
	return fmt.Sprintf(`SELECT pg_catalog.setval($1::pg_catalog.regclass, c.v) FROM %s s, (SELECT %s(%s)::bigint AS v FROM %s) c
		WHERE c.v IS NOT NULL AND (c.v %s s.last_value OR c.v = s.last_value AND NOT s.is_called)`,
		sequence, furthest, postgres.QuoteIdent(o.column), o.table, beyond)
}

func ownedSequences(ctx context.Context, db postgres.DB) (map[postgres.Ident]owner, error) {
	rows, err := db.Query(ctx, `
		SELECT sn.nspname, s.relname, tn.nspname, t.relname, a.attname, q.seqincrement < 0
		FROM pg_catalog.pg_depend d
		JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
		JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
		JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid
		JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
		JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
		JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
		WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
			AND d.deptype IN ('a', 'i') AND a.atttypid IN (20, 21, 23)`)
	if err != nil {
		return nil, err
	}
	owned := map[postgres.Ident]owner{}
	var s postgres.Ident
	var o owner
	_, err = pgx.ForEachRow(rows, []any{&s.Schema, &s.Name, &o.table.Schema, &o.table.Name, &o.column, &o.descending}, func() error {
		owned[s] = o
		return nil
	})
	return owned, err
}
