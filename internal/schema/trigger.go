package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// Trigger is a trigger that fires in an apply worker: ENABLE ALWAYS or ENABLE
// REPLICA. What it does to rows was already done, and is replicated, on the
// publishing side; on the receiving side it would happen twice.
type Trigger struct {
	Table   postgres.Ident `json:"table"`
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
		SELECT n.nspname, c.relname, t.tgname, t.tgenabled::text
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
		err = row.Scan(&t.Table.Schema, &t.Table.Name, &t.Name, &t.Enabled)
		return t, err
	})
}

// The journal's kind under which a receiving side keeps its quieted triggers.
const quietKind = "quiet-trigger"

// QuietTriggers keeps the triggers of a receiving side from firing in apply
// workers, and remembers how they were.
func QuietTriggers(ctx context.Context, conn *pgx.Conn) error {
	triggers, err := ApplyTriggers(ctx, conn)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, t := range triggers {
			if err := journal.PutNew(ctx, tx, quietKind, t.Table.String()+"."+t.Name, t); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, t.QuietSQL()); err != nil {
				return fmt.Errorf("%s: %w", t.QuietSQL(), err)
			}
		}
		return nil
	})
}

// RestoreTriggers puts the quieted triggers back, once the side receives no more,
// and says whether there were any.
func RestoreTriggers(ctx context.Context, conn *pgx.Conn) (bool, error) {
	triggers, err := journal.List[Trigger](ctx, conn, quietKind)
	if err != nil || len(triggers) == 0 {
		return false, err
	}
	return true, pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, t := range triggers {
			if _, err := tx.Exec(ctx, t.RestoreSQL()); err != nil {
				return fmt.Errorf("%s: %w", t.RestoreSQL(), err)
			}
		}
		return journal.Delete(ctx, tx, quietKind, "")
	})
}
