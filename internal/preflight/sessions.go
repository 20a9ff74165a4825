package preflight

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// sessionsSQL lists who is connected to the database now and would find, behind
// the fence, a way that is not closed for them: superusers, the operator's own
// role, and workers of extensions. PostgreSQL's own processes come and go as the
// fence allows.
const sessionsSQL = `
SELECT CASE
		WHEN a.backend_type <> 'client backend' THEN 'worker'
		WHEN a.usename = current_user THEN 'shared'
		ELSE 'super'
	END,
	coalesce(a.usename, ''),
	CASE WHEN a.backend_type <> 'client backend'
		THEN pg_catalog.format('pid %s, %s', a.pid, a.backend_type)
		ELSE pg_catalog.format('pid %s, user %I, application %L, from %s', a.pid, a.usename, a.application_name,
			coalesce(a.client_addr::text, 'a socket'))
	END
FROM pg_catalog.pg_stat_activity a
LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
WHERE a.datname = pg_catalog.current_database()
	AND a.application_name NOT LIKE 'pgbaton%'
	AND a.backend_type NOT IN ('autovacuum worker', 'parallel worker', 'walsender',
		'logical replication worker', 'logical replication apply worker',
		'logical replication parallel worker', 'logical replication tablesync worker')
	AND (a.backend_type <> 'client backend' OR a.usename = current_user OR r.rolsuper)
ORDER BY a.backend_start, a.pid`

// checkSessions looks at the sessions of the moment for roles that the fence
// cannot shut out: what uses them now will be ended, but may come back
// (rule 2). The leak check would see what they write.
func checkSessions(ctx context.Context, s *survey, e *end) error {
	rows, err := e.conn.Query(ctx, sessionsSQL)
	if err != nil {
		return err
	}
	found := map[string][]string{}
	var roles []string
	var kind, user, session string
	seen := map[string]bool{}
	_, err = pgx.ForEachRow(rows, []any{&kind, &user, &session}, func() error {
		found[kind] = append(found[kind], session)
		if kind == "super" && !seen[user] {
			seen[user] = true
			roles = append(roles, postgres.QuoteIdent(user))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if sessions := found["super"]; len(sessions) > 0 {
		text := fmt.Sprintf("%s of a superuser: the fence ends them but cannot keep superusers from connecting again; they find the database read-only, which a client can override", plural(len(sessions), "session"))
		if !e.role.super {
			text = fmt.Sprintf("%s of a superuser, which role %s may not end: while one is open the fence cannot be raised", plural(len(sessions), "session"), e.user())
		}
		e.add(Finding{Code: "superuser-sessions", Severity: Warning, Side: e.Side, Objects: sessions, Text: text,
			Remedy: fmt.Sprintf("let applications connect as a role of their own, without SUPERUSER, instead of %s", list(roles))})
	}
	if sessions := found["shared"]; len(sessions) > 0 {
		e.add(Finding{Code: "shared-role", Severity: Warning, Side: e.Side, Objects: sessions,
			Text:   fmt.Sprintf("%s of role %s, as which pgbaton connects: the fence ends them but must leave this role its right to connect; they find the database read-only, which a client can override", plural(len(sessions), "other session"), e.user()),
			Remedy: fmt.Sprintf("let pgbaton or the application connect as another role than %s", e.user())})
	}
	if workers := found["worker"]; len(workers) > 0 {
		e.add(Finding{Code: "extension-workers", Severity: Warning, Side: e.Side, Objects: workers,
			Text:   fmt.Sprintf("%s of an extension in the database: the fence ends them, but the server may start them again, and what they write afterwards aborts the handover", plural(len(workers), "background worker")),
			Remedy: "switch their jobs off for the time of the handover"})
	}
	return nil
}
