package preflight

import (
	"context"
	"fmt"
	"strconv"

	"pgbaton/internal/postgres"
)

// checkPasswordInLog warns when creating the subscription would write its
// password into the server's log: the settings that log statements are a
// superuser's to change, or, since 15, of whom one has let (rule 8).
func checkPasswordInLog(ctx context.Context, s *survey, e *end) error {
	reach, flag := s.SourceFromTarget, "--source-from-target"
	if e.Side == postgres.Source {
		reach, flag = s.TargetFromSource, "--target-from-source"
	}
	statement, duration := e.setting["log_statement"], e.setting["log_min_duration_statement"]
	logged := statement == "ddl" || statement == "mod" || statement == "all"
	if ms, err := strconv.Atoi(duration); err == nil && ms >= 0 {
		logged = true
	}
	if reach.For(e.Version())["password"] == "" || !logged || e.role.super {
		return nil
	}
	grant := ""
	if e.Version().Major() >= 15 {
		var may bool
		err := e.conn.QueryRow(ctx, `
			SELECT pg_catalog.bool_and(pg_catalog.has_parameter_privilege(name, 'SET'))
			FROM (VALUES ('log_statement'), ('log_min_duration_statement'), ('log_min_error_statement')) AS s (name)`).Scan(&may)
		if err != nil || may {
			return err
		}
		grant = fmt.Sprintf("GRANT SET ON PARAMETER log_statement, log_min_duration_statement, log_min_error_statement TO %s;\n-- or: ", e.user())
	} else {
		grant = "-- "
	}
	e.add(Finding{Code: "password-in-log", Severity: Warning, Side: e.Side,
		Text: fmt.Sprintf("CREATE SUBSCRIPTION carries a password, the server logs statements (log_statement = %s, log_min_duration_statement = %s), and role %s may not switch that off",
			statement, duration, e.user()),
		Remedy: grant + fmt.Sprintf("put the password into the password file of the account that runs the server, and give %s without it", flag)})
	return nil
}
