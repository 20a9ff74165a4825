package preflight_test

import (
	"fmt"
	"testing"

	"pgbaton/internal/pgtest"
)

// TestEventTriggers: a role that may not keep event triggers from firing is told
// what gives it that right, in each version's way; nor may its sessions begin as
// another role.
func TestEventTriggers(t *testing.T) {
	t.Parallel()
	const events = `CREATE FUNCTION ev() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER "Ev o" ON ddl_command_end EXECUTE PROCEDURE ev();
CREATE EVENT TRIGGER "Ev a" ON sql_drop EXECUTE PROCEDURE ev();
ALTER EVENT TRIGGER "Ev a" ENABLE ALWAYS;
CREATE EVENT TRIGGER off ON sql_drop EXECUTE PROCEDURE ev();
ALTER EVENT TRIGGER off DISABLE`
	for _, c := range []struct {
		from, to int
		says     []string
		more     string
	}{
		{12, 15, []string{`"Ev o"`, `"Ev a"`, "SUPERUSER"}, ""},
		{15, 17, []string{`"Ev o"`, `"Ev a"`, "GRANT SET ON PARAMETER session_replication_role TO", `ALTER EVENT TRIGGER "Ev a" ENABLE`}, ""},
		{17, 18, []string{`"Ev o"`, `"Ev a"`, `"Ev login"`, "GRANT SET ON PARAMETER session_replication_role, event_triggers TO"},
			";\nCREATE EVENT TRIGGER \"Ev login\" ON login EXECUTE PROCEDURE ev()"},
	} {
		t.Run(fmt.Sprintf("%d to %d", c.from, c.to), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Start(t, c.from), pgtest.Start(t, c.to)
			scenario{
				options:      options{user: "the mover"},
				before:       `CREATE ROLE "the mover" LOGIN REPLICATION; CREATE ROLE app; GRANT app TO "the mover"`,
				beforeTarget: `CREATE ROLE "the mover" LOGIN REPLICATION; CREATE ROLE app; GRANT app TO "the mover"`,
				problems: []problem{
					{code: "event-triggers-fire", side: src, severity: blocker, remedied: true, source: events + c.more, says: c.says},
					{code: "privilege-event-trigger", side: tgt, severity: blocker, remedied: true, says: []string{"takes a superuser"}},
					{code: "role-setting", side: src, severity: blocker, remedied: true, sourceAdmin: `ALTER ROLE "the mover" SET role = app;
ALTER ROLE "the mover" IN DATABASE "its db" SET role = app`},
					{code: "role-setting", side: tgt, severity: blocker, remedied: true, targetAdmin: `ALTER ROLE "the mover" SET role = app`},
				},
			}.play(t, source, target)
			scenario{
				options: options{user: "the mover", db: "everybody's"},
				problems: []problem{{code: "role-setting", side: src, severity: blocker, remedied: true,
					sourceAdmin: `ALTER DATABASE "everybody's" SET role = app`}},
			}.play(t, source, target)
		})
	}
}
