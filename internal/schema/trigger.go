package schema

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
)

// Trigger is a trigger that fires in an apply worker: ENABLE ALWAYS or ENABLE
// REPLICA. What it does to rows was already done, and is replicated, on the
// publishing side; on the receiving side it would happen twice.
type Trigger struct {
	Table   postgres.Ident `json:"table"`
	OID     uint32         `json:"oid,omitempty"` // of the trigger; 0: not known
	Name    string         `json:"name"`
	Enabled string         `json:"enabled"` // pg_trigger.tgenabled: A or R
}

// QuietSQL makes the trigger not fire while rows are received. ALWAYS becomes
// an ordinary trigger (it still fires for people), REPLICA is disabled.
func (t Trigger) QuietSQL() string {
	if t.Enabled == "A" {
		return fmt.Sprintf("ALTER TABLE ONLY %s ENABLE TRIGGER %s", t.Table, postgres.QuoteIdent(t.Name))
	}
	return fmt.Sprintf("ALTER TABLE ONLY %s DISABLE TRIGGER %s", t.Table, postgres.QuoteIdent(t.Name))
}

// RestoreSQL puts the trigger back as it was.
func (t Trigger) RestoreSQL() string {
	when := "ALWAYS"
	if t.Enabled == "R" {
		when = "REPLICA"
	}
	return fmt.Sprintf("ALTER TABLE ONLY %s ENABLE %s TRIGGER %s", t.Table, when, postgres.QuoteIdent(t.Name))
}

// ApplyTriggers lists the triggers that would fire in an apply worker.
func ApplyTriggers(ctx context.Context, q catalog.Querier) ([]Trigger, error) {
	rows, err := q.Query(ctx, `
		SELECT n.nspname, c.relname, t.oid, t.tgname, t.tgenabled::text
		FROM pg_catalog.pg_trigger t
		JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal AND c.relkind IN ('r', 'p')
			AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton')
		ORDER BY c.relkind DESC, n.nspname::text COLLATE "C", c.relname::text COLLATE "C", t.tgname::text COLLATE "C"`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Trigger, err error) {
		err = row.Scan(&t.Table.Schema, &t.Table.Name, &t.OID, &t.Name, &t.Enabled)
		return t, err
	})
}

// quietEntries are the quieted triggers of a receiving side.
var quietEntries = journal.Many[Trigger](journal.QuietTrigger)

// QuietTriggers keeps the triggers of a receiving side from firing in apply
// workers, and its event triggers from firing at all, and remembers how they were;
// events says so of event triggers that were restored from an archive
// (EventTriggersBefore), nil for none.
func QuietTriggers(ctx context.Context, conn *postgres.Session, events map[string]string) error {
	if err := disableEventTriggers(ctx, conn, events); err != nil {
		return err
	}
	triggers, err := ApplyTriggers(ctx, conn)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, t := range triggers {
			if err := quietEntries.PutNew(ctx, tx, t.Table.String()+"."+t.Name, t); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, t.QuietSQL()); err != nil {
				return fmt.Errorf("%s: %w", t.QuietSQL(), err)
			}
		}
		return nil
	})
}

// Quieted lists the triggers that a side remembers.
func Quieted(ctx context.Context, db postgres.DB) (map[string]Trigger, error) {
	return quietEntries.List(ctx, db)
}

// RestoreTriggers puts the quieted triggers back, once the side receives no more, each
// by itself, and forgets them. A trigger that is gone, or that somebody has enabled or
// disabled since, needs nothing. left is what cannot be put back.
func RestoreTriggers(ctx context.Context, conn *postgres.Session) (restored int, left []refusal.Reason, err error) {
	triggers, err := Quieted(ctx, conn)
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(triggers)) {
		t := triggers[key]
		did, err := t.restore(ctx, conn)
		if postgres.Refused(err) {
			left = append(left, refusal.Reason{Why: fmt.Sprintf("trigger %s of %s does not fire as it did: %s", postgres.QuoteIdent(t.Name), t.Table, postgres.Describe(err)),
				Remedy: t.RestoreSQL()})
			err = nil
		}
		if err == nil {
			err = quietEntries.Delete(ctx, conn, key)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("trigger %s of %s: %w", postgres.QuoteIdent(t.Name), t.Table, err))
		}
		if did {
			restored++
		}
	}
	return restored, left, errors.Join(append(errs, err)...)
}

// restore does so for one, by the name that it has now.
func (t *Trigger) restore(ctx context.Context, conn *postgres.Session) (did bool, err error) {
	var now string
	err = conn.QueryRow(ctx, `
		SELECT n.nspname, c.relname, t.tgname, t.tgenabled::text
		FROM pg_catalog.pg_trigger t
		JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE NOT t.tgisinternal AND CASE WHEN $1::oid <> 0 THEN t.oid = $1 ELSE n.nspname = $2 AND c.relname = $3 AND t.tgname = $4 END`,
		t.OID, t.Table.Schema, t.Table.Name, t.Name).Scan(&t.Table.Schema, &t.Table.Name, &t.Name, &now)
	quiet := "O" // of A
	if t.Enabled == "R" {
		quiet = "D"
	}
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil || now != quiet:
		return false, err
	}
	_, err = conn.Exec(ctx, t.RestoreSQL())
	return err == nil, err
}
