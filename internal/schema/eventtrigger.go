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
)

// This file keeps the user's event triggers from firing where they must not. A side
// that receives has them disabled: what they write down of definitions arrives from
// the other side as rows. On the side that holds the baton they fire for the
// application as ever, and not for us: our sessions have event triggers off from
// version 17 on. Before, the replication role keeps the ordinary ones quiet in them;
// those that fire all the same, ENABLE ALWAYS and ENABLE REPLICA, are made ordinary
// and disabled while a migration lasts.

// EventTrigger is an event trigger of the user's that this session's role may alter.
// Those that belong to an extension are left alone.
type EventTrigger struct {
	Name    string
	Enabled string // pg_event_trigger.evtenabled: O, D, R or A
}

// UserEventTriggers are the conditions, for a pg_event_trigger with the alias t, of
// an event trigger that no extension brought.
const UserEventTriggers = `NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.deptype = 'e'
	AND x.classid = 'pg_catalog.pg_event_trigger'::pg_catalog.regclass AND x.objid = t.oid)`

func eventTriggers(ctx context.Context, q catalog.Querier) ([]EventTrigger, error) {
	rows, err := q.Query(ctx, `SELECT t.evtname, t.evtenabled::text FROM pg_catalog.pg_event_trigger t
		WHERE pg_catalog.pg_has_role(t.evtowner, 'USAGE') AND `+UserEventTriggers+` ORDER BY t.evtname::text COLLATE "C"`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[EventTrigger])
}

// setSQL makes an event trigger fire in another way. No event trigger fires for it.
func (t EventTrigger) setSQL(enabled string) string {
	how := map[string]string{"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}[enabled]
	return fmt.Sprintf("ALTER EVENT TRIGGER %s %s", postgres.QuoteIdent(t.Name), how)
}

// eventEntries are how a side's event triggers were.
var eventEntries = journal.Many[string](journal.EventTrigger)

// EventTriggersBefore is how a side's event triggers were, by name, as far as they
// were changed: what its archive says of these is not so.
func EventTriggersBefore(ctx context.Context, conn *postgres.Session) (map[string]string, error) {
	return eventTriggersBefore(ctx, conn)
}

func eventTriggersBefore(ctx context.Context, db postgres.DB) (map[string]string, error) {
	before, err := eventEntries.List(ctx, db)
	for name, how := range before {
		if !slices.Contains([]string{"O", "D", "R", "A"}, how) {
			return nil, eventEntries.Damaged(name, errors.New("it is no way in which an event trigger fires"))
		}
	}
	return before, err
}

// disableEventTriggers is for a side that receives.
func disableEventTriggers(ctx context.Context, conn *postgres.Session, before map[string]string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		triggers, err := eventTriggers(ctx, tx)
		if err != nil {
			return err
		}
		for _, t := range triggers {
			was := t.Enabled
			if original, ok := before[t.Name]; ok {
				was = original
			}
			if was == "D" {
				continue
			}
			if err := eventEntries.PutNew(ctx, tx, t.Name, was); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, t.setSQL("D")); err != nil {
				return fmt.Errorf("%s: %w", t.setSQL("D"), err)
			}
		}
		return nil
	})
}

// EventTriggersHeld says whether OpenEventTriggers has something to do: applications
// wait for it.
func EventTriggersHeld(ctx context.Context, conn *postgres.Session) (any bool, err error) {
	return eventEntries.Any(ctx, conn)
}

// OpenEventTriggers is for a side that has taken the baton: its event triggers fire
// for the application again.
func OpenEventTriggers(ctx context.Context, conn *postgres.Session) error {
	if any, err := EventTriggersHeld(ctx, conn); err != nil || !any {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		before, err := eventTriggersBefore(ctx, tx)
		if err != nil {
			return err
		}
		changed, err := keepQuiet(ctx, tx, before)
		if err != nil {
			return err
		}
		if err := journal.Clear(ctx, tx, journal.EventTrigger); err != nil {
			return err
		}
		return remember(ctx, tx, changed)
	})
}

// CreateJournal makes schema pgbaton with a record and what more is done with it, on
// a side whose event triggers might refuse that or write it down: they are made
// quiet first.
func CreateJournal(ctx context.Context, conn *postgres.Session, r journal.Record, more func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		changed, err := keepQuiet(ctx, tx, nil)
		if err != nil {
			return err
		}
		return journal.Create(ctx, tx, r, func(tx pgx.Tx) error {
			if err := remember(ctx, tx, changed); err != nil {
				return err
			}
			return more(tx)
		})
	})
}

// DropJournal removes schema pgbaton, the last thing of ours on a side, and then puts
// its event triggers back as they were.
func DropJournal(ctx context.Context, conn *postgres.Session) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		before, err := eventTriggersBefore(ctx, tx)
		if err != nil {
			return err
		}
		changed, err := keepQuiet(ctx, tx, before)
		if err != nil {
			return err
		}
		if err := journal.Drop(ctx, tx); err != nil {
			return err
		}
		return set(ctx, tx, changed, nil)
	})
}

// keepQuiet makes each event trigger fire for the application as it did before, or
// does now if nothing else is known, and none of them for us. It returns how those
// were that this takes a change for.
func keepQuiet(ctx context.Context, tx pgx.Tx, before map[string]string) (changed map[string]string, err error) {
	var off bool
	err = tx.QueryRow(ctx, `SELECT coalesce(pg_catalog.current_setting('event_triggers', true) = 'off', false)`).Scan(&off)
	if err != nil {
		return nil, err
	}
	triggers, err := eventTriggers(ctx, tx)
	if err != nil {
		return nil, err
	}
	want := maps.Clone(before)
	if want == nil {
		want = map[string]string{}
	}
	changed = map[string]string{}
	for _, t := range triggers {
		was, known := want[t.Name]
		if !known {
			was = t.Enabled
		}
		quiet := map[string]string{"O": "O", "D": "D", "A": "O", "R": "D"}[was]
		if off {
			quiet = was
		}
		if quiet != was {
			changed[t.Name] = was
		}
		want[t.Name] = quiet
	}
	return changed, set(ctx, tx, want, triggers)
}

// set gives event triggers the state that is wanted, those that are there; all are
// read if none are given.
func set(ctx context.Context, tx pgx.Tx, want map[string]string, there []EventTrigger) (err error) {
	if there == nil {
		if there, err = eventTriggers(ctx, tx); err != nil {
			return err
		}
	}
	for _, t := range there {
		enabled, ok := want[t.Name]
		if !ok || enabled == t.Enabled {
			continue
		}
		if _, err := tx.Exec(ctx, t.setSQL(enabled)); err != nil {
			return fmt.Errorf("%s: %w", t.setSQL(enabled), err)
		}
	}
	return nil
}

func remember(ctx context.Context, tx pgx.Tx, states map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(states)) {
		if err := eventEntries.PutNew(ctx, tx, name, states[name]); err != nil {
			return err
		}
	}
	return nil
}
