package cli_test

import (
	"fmt"
	"testing"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// hostileSQL is a database whose own code gets in the way of everybody who does not
// keep it out: a DDL log with an identity key, guards that refuse definitions unless
// a setting allows them, one for each way in which an event trigger can be enabled;
// casts that make integers text by themselves; a search_path that begins with a
// schema of functions named as the server's; rules and triggers on tables.
const hostileSQL = `
CREATE TABLE ddl_log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, who text DEFAULT session_user, tag text, object text);
CREATE FUNCTION log_ddl() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN INSERT INTO ddl_log (tag, object) SELECT command_tag, object_identity FROM pg_event_trigger_ddl_commands(); END $$;
CREATE FUNCTION log_drop() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN INSERT INTO ddl_log (tag, object) SELECT 'DROP ' || object_type, object_identity FROM pg_event_trigger_dropped_objects(); END $$;
CREATE FUNCTION guard() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('hostile.allow', true) IS DISTINCT FROM 'yes' THEN RAISE 'nobody does % here', tg_tag; END IF;
END $$;
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT g, 'v' FROM generate_series(1, 100) AS g;
CREATE TABLE keyless (v text);
INSERT INTO keyless VALUES ('a'), ('b');
CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM t;
CREATE TABLE ruled (id int PRIMARY KEY);
INSERT INTO ruled VALUES (1);
CREATE RULE nothing AS ON INSERT TO ruled DO INSTEAD NOTHING;
CREATE RULE never AS ON DELETE TO ruled DO INSTEAD NOTHING;
ALTER TABLE ruled ENABLE ALWAYS RULE nothing;
CREATE CAST (int AS text) WITH INOUT AS IMPLICIT;
CREATE CAST (bigint AS text) WITH INOUT AS IMPLICIT;
CREATE CAST (timestamptz AS text) WITH INOUT AS IMPLICIT;
CREATE SCHEMA evil;
CREATE FUNCTION evil.wrong() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'the wrong function'; END $$;
CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS 'SELECT evil.wrong()';
CREATE FUNCTION evil.current_database() RETURNS name LANGUAGE sql AS 'SELECT evil.wrong()::name';
CREATE FUNCTION evil.quote_ident(text) RETURNS text LANGUAGE sql AS 'SELECT evil.wrong()';
CREATE FUNCTION evil.wrong(name, name) RETURNS boolean LANGUAGE sql AS 'SELECT evil.wrong() IS NULL';
CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, PROCEDURE = evil.wrong);
CREATE TABLE evil.pg_class (oid oid PRIMARY KEY);
ALTER DATABASE app SET search_path = evil, pg_catalog, public;
ALTER DATABASE app SET default_transaction_isolation = 'serializable';
CREATE EVENT TRIGGER log_ddl ON ddl_command_end EXECUTE FUNCTION log_ddl();
CREATE EVENT TRIGGER log_drop ON sql_drop EXECUTE FUNCTION log_drop();
ALTER EVENT TRIGGER log_drop ENABLE ALWAYS;
CREATE EVENT TRIGGER a_guard ON ddl_command_start EXECUTE FUNCTION guard();
CREATE EVENT TRIGGER b_guard ON ddl_command_start EXECUTE FUNCTION guard();
ALTER EVENT TRIGGER b_guard ENABLE ALWAYS;
CREATE EVENT TRIGGER c_guard ON ddl_command_start EXECUTE FUNCTION guard();
ALTER EVENT TRIGGER c_guard ENABLE REPLICA;
CREATE EVENT TRIGGER d_guard ON ddl_command_start EXECUTE FUNCTION guard();
ALTER EVENT TRIGGER d_guard DISABLE`

// hostileLoginSQL: servers from 17 on fire at login too. It lets in who asks to be
// let in, and writes them down.
const hostileLoginSQL = `
CREATE TABLE public.login_log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, who text);
CREATE FUNCTION public.on_login() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	IF current_setting('hostile.allow', true) IS DISTINCT FROM 'yes' THEN RAISE 'nobody comes in here'; END IF;
END $$;
CREATE EVENT TRIGGER on_login ON login EXECUTE FUNCTION public.on_login()`

// hostileStates are the event triggers with how they are enabled.
const hostileStates = `SELECT string_agg(evtname::text || evtenabled::text, ' ' ORDER BY evtname) FROM pg_event_trigger`

// TestHostile moves, hands back and hands over a database whose own code refuses
// all that pgbaton does, and logs what is done. Nothing of it runs on our account:
// both sides are equal, the log has what the application did and no more, and
// everything is as it was in the end.
func TestHostile(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{12, 15}, {15, 18}, {17, 18}} {
		t.Run(fmt.Sprintf("%d to %d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			m := newMove(t, pair[0], pair[1])
			m.load(hostileSQL)
			logins := pair[0] >= 17
			if logins {
				pgtest.Exec(t, m.allowed(m.source), hostileLoginSQL)
			}
			states := m.hostile(m.source, hostileStates)
			const log = `SELECT string_agg(id::text || ' ' || tag || ' ' || object, E'\n' ORDER BY id) FROM public.ddl_log`
			expected := m.hostile(m.source, log)
			same := func() {
				t.Helper()
				for _, c := range []*cluster.Cluster{m.source, m.target} {
					if got := m.hostile(c, log); got != expected {
						t.Fatalf("the log of server %d is\n%s\nwant\n%s", c.Major(), got, expected)
					}
				}
			}
			// The application changes its definitions, and finds that in its log.
			id := 0
			change := func(c *cluster.Cluster) {
				t.Helper()
				before := m.hostile(c, `SELECT count(*)::text FROM public.ddl_log`)
				id++
				pgtest.Exec(t, m.allowed(c), fmt.Sprintf(`CREATE VIEW public.v%[1]d AS SELECT 1; DROP VIEW public.v%[1]d`, id))
				if got := m.hostile(c, fmt.Sprintf(`SELECT (count(*) - %s)::text FROM public.ddl_log`, before)); got == "0" || got == "1" {
					t.Fatalf("the log of server %d has %s lines more after two commands", c.Major(), got)
				}
				expected = m.hostile(c, log)
			}

			m.run(0, "check")
			m.run(0, "start")
			same()
			m.run(0, "reset", "--yes", "--drop-database")
			if got := m.hostile(m.source, hostileStates); got != states {
				t.Errorf("after reset the source's event triggers are %s, were %s", got, states)
			}
			m.run(0, "start")
			change(m.source)
			// A DBA who prepares a definition on the receiving side is not logged there.
			pgtest.Exec(t, m.allowed(m.target), `SET default_transaction_read_only = off`, `CREATE VIEW public.by_hand AS SELECT 1`)
			m.run(0, "switchover", "--yes")
			same()
			if pair[1] >= 17 {
				if got := m.hostile(m.target, hostileStates); got != states {
					t.Errorf("after the switchover the target's event triggers are %s, want %s", got, states)
				}
			}
			change(m.target)
			m.run(0, "rollback", "--yes")
			same()
			change(m.source)
			m.run(0, "switchover", "--yes")
			same()
			change(m.target)
			m.run(0, "finish", "--yes", "--unfence")
			for _, c := range []*cluster.Cluster{m.source, m.target} {
				if got := m.hostile(c, hostileStates); got != states {
					t.Errorf("in the end the event triggers of server %d are %s, were %s", c.Major(), got, states)
				}
			}
			if got := m.hostile(m.target, log); got != expected {
				t.Errorf("finish is in the log:\n%s", got)
			}
		})
	}
}

// allowed is the address of an application that the guards let through.
func (m *move) allowed(c *cluster.Cluster) string {
	return c.ConnString(m.db) + "&options=-c%20hostile.allow%3Dyes%20-c%20search_path%3Dpublic"
}

// hostile asks a side something as its application would.
func (m *move) hostile(c *cluster.Cluster, sql string) string {
	m.t.Helper()
	return pgtest.QueryValue[string](m.t, pgtest.Connect(m.t, m.allowed(c)), "SELECT coalesce(("+sql+"), '')")
}
