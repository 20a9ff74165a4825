package preflight

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// userEvent is an event trigger that no extension brought.
type userEvent struct {
	name, enabled string // pg_event_trigger.evtenabled
	ours          bool   // our role may alter it
}

// userEvents lists a database's event triggers.
func userEvents(ctx context.Context, e *end) ([]userEvent, error) {
	rows, err := e.conn.Query(ctx, `
		SELECT pg_catalog.quote_ident(t.evtname), t.evtenabled::text, pg_catalog.pg_has_role(t.evtowner, 'USAGE')
		FROM pg_catalog.pg_event_trigger t WHERE `+schema.UserEventTriggers+` ORDER BY t.evtname::text COLLATE "C"`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t userEvent, err error) {
		err = row.Scan(&t.name, &t.enabled, &t.ours)
		return t, err
	})
}

// checkEventTriggers looks for event triggers that would fire for what pgbaton does,
// because our role may not keep them from it: they could refuse it, or write it down
// on one side only.
func checkEventTriggers(ctx context.Context, s *survey, e *end) error {
	triggers, err := userEvents(ctx, e)
	if err != nil || len(triggers) == 0 {
		return err
	}
	var off, replica bool
	err = e.conn.QueryRow(ctx, `SELECT coalesce(pg_catalog.current_setting('event_triggers', true) = 'off', false),
		pg_catalog.current_setting('session_replication_role') = 'replica'`).Scan(&off, &replica)
	if err != nil {
		return err
	}
	var all, fire, sql []string
	for _, t := range triggers {
		all = append(all, t.name)
		alter := ""
		switch {
		case off:
		case t.enabled == "O" && !replica:
			alter = "DISABLE"
		case t.enabled == "A" && !t.ours: // made ordinary while the migration lasts, by who may
			alter = "ENABLE"
		case t.enabled == "R" && !t.ours && replica:
			alter = "DISABLE"
		}
		if alter != "" {
			fire = append(fire, t.name)
			sql = append(sql, fmt.Sprintf("ALTER EVENT TRIGGER %s %s", t.name, alter))
		}
	}
	if e.Side == postgres.Source {
		e.add(Finding{Code: "event-triggers", Severity: Info, Side: e.Side, Objects: all,
			Text: fmt.Sprintf("%s: restored last, disabled on a side while it receives, and kept from firing in pgbaton's own sessions", plural(len(all), "event trigger"))})
	}
	if len(fire) == 0 {
		return nil
	}
	f := Finding{Code: "event-triggers-fire", Severity: Blocker, Side: e.Side, Objects: fire,
		Text: fmt.Sprintf("%s would fire for what pgbaton does in the database, and could refuse it or write it down: role %s may not keep them from that",
			plural(len(fire), "event trigger"), e.user())}
	switch v := e.Version(); {
	case v.Major() >= 17:
		f.Remedy = statements(postgres.SilenceSQL(v, e.role.name))
	case v.Major() >= 15 && !replica:
		// The ordinary ones are quiet then.
		var rest []string
		for i, t := range fire {
			if q := sql[i]; q != fmt.Sprintf("ALTER EVENT TRIGGER %s DISABLE", t) {
				rest = append(rest, q)
			}
		}
		f.Remedy = statements(append([]string{postgres.SilenceSQL(v, e.role.name)}, rest...)...)
	case v.Major() >= 15:
		f.Remedy = statements(sql...)
	default:
		f.Remedy = statements(fmt.Sprintf("ALTER ROLE %s SUPERUSER", e.user())) + "\n-- or connect as a superuser; or, until finish:"
		for _, q := range sql {
			f.Remedy += "\n-- " + q + ";"
		}
	}
	e.add(f)
	return nil
}

// checkEventTriggerOnTarget looks for the right to create the source's event
// triggers (https://www.postgresql.org/docs/current/sql-createeventtrigger.html).
func checkEventTriggerOnTarget(ctx context.Context, s *survey, e *end) error {
	if e.role.super || e.role.admin() || !s.fresh(e) {
		return nil
	}
	triggers, err := userEvents(ctx, s.source)
	if err != nil || len(triggers) == 0 {
		return err
	}
	var names []string
	for _, t := range triggers {
		names = append(names, t.name)
	}
	e.add(Finding{Code: "privilege-event-trigger", Severity: Blocker, Side: e.Side, Objects: names,
		Text:   fmt.Sprintf("role %s may not create event triggers, of which the source has %d: that takes a superuser", e.user(), len(names)),
		Remedy: statements(fmt.Sprintf("ALTER ROLE %s SUPERUSER", e.user())) + "\n-- or connect as a superuser"})
	return nil
}

// roleSettingSQL lists the statements that take a setting "role" back that reaches
// the sessions of $1 in this database.
const roleSettingSQL = `
SELECT CASE
		WHEN s.setrole = 0 AND s.setdatabase = 0 THEN 'SET ROLE NONE; ALTER ROLE ALL RESET role'
		WHEN s.setrole = 0 THEN pg_catalog.format('SET ROLE NONE; ALTER DATABASE %I RESET role', d.datname)
		WHEN s.setdatabase = 0 THEN pg_catalog.format('ALTER ROLE %I RESET role', r.rolname)
		ELSE pg_catalog.format('ALTER ROLE %I IN DATABASE %I RESET role', r.rolname, d.datname) END
FROM pg_catalog.pg_db_role_setting s
LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
WHERE (s.setrole = 0 OR r.rolname = $1) AND (s.setdatabase = 0 OR d.datname = $2)
	AND EXISTS (SELECT FROM pg_catalog.unnest(s.setconfig) AS c WHERE c LIKE 'role=%' AND c <> 'role=none')
ORDER BY s.setrole, s.setdatabase`

// checkRoleSetting looks for a role that the sessions of ours begin with. Ours say
// that they want none; the server's apply worker cannot, and has that role's rights.
func checkRoleSetting(ctx context.Context, s *survey, e *end) error {
	resets, err := texts(ctx, e.conn, roleSettingSQL, e.role.name, e.Database())
	if err != nil || len(resets) == 0 {
		return err
	}
	e.add(Finding{Code: "role-setting", Severity: Blocker, Side: e.Side,
		Text:   fmt.Sprintf("the sessions of role %s begin with SET role, by a setting: the apply worker of its subscription would have that role's rights and no others", e.user()),
		Remedy: statements(resets...) + "\n-- or let pgbaton connect as another role"})
	return nil
}
