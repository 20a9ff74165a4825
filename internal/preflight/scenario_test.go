package preflight_test

import (
	"fmt"
	"testing"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
)

// Short names for the table below.
const (
	src, tgt            = postgres.Source, postgres.Target
	blocker, warn, info = preflight.Blocker, preflight.Warning, preflight.Info
)

// play runs scenarios on two servers that they share.
func play(t *testing.T, from, to int, scenarios []scenario) {
	settings := map[string]string{"max_prepared_transactions": "5"}
	source, target := pgtest.Start(t, from, settings), pgtest.Start(t, to, map[string]string{"log_statement": "ddl"})
	t.Run("scenarios", func(t *testing.T) { // returns when the parallel ones are done
		for i, sc := range scenarios {
			t.Run(fmt.Sprintf("%d %s of the %s", i, sc.code, sc.side), func(t *testing.T) {
				t.Parallel()
				sc.play(t, i, source, target)
			})
		}
	})
}

// as makes a superuser-free mover: a role with all that a migration needs on
// both sides but what a scenario takes away.
func as(n, attributes string) string {
	return fmt.Sprintf(`CREATE ROLE %s LOGIN %s`, n, attributes)
}

// rights are the attributes and memberships that a plain role needs.
const rights = `REPLICATION CREATEDB BYPASSRLS IN ROLE pg_monitor, pg_signal_backend`

func TestDatabaseScenarios(t *testing.T) {
	t.Parallel()
	play(t, 12, 17, []scenario{
		// What logical replication does not carry.
		{code: "large-objects", side: src, severity: blocker, source: `SELECT lo_create(0)`, says: []string{"1 large object"}},
		{code: "unlogged-tables", side: src, severity: blocker, remedied: true,
			healthy: `CREATE TABLE logged (i int PRIMARY KEY)`, source: `CREATE UNLOGGED TABLE "Un logged" (i int PRIMARY KEY)`, says: []string{`"public"."Un logged"`}},
		{code: "foreign-tables", side: src, severity: info,
			source: `CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE f (i int) SERVER s`, says: []string{"public.f"}},
		{code: "event-triggers", side: src, severity: info,
			source: `CREATE FUNCTION ev() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER "Ev" ON ddl_command_end EXECUTE FUNCTION ev()`, says: []string{`"Ev"`}},
		{code: "own-publications", side: src, severity: warn, source: `CREATE PUBLICATION "My pub"`, says: []string{`publication "My pub"`}},
		{code: "materialized-views", side: src, severity: info,
			healthy: `CREATE MATERIALIZED VIEW empty AS SELECT 1 AS i WITH NO DATA`, source: `CREATE MATERIALIZED VIEW mv AS SELECT 1 AS i`, says: []string{`"mv"`}},
		{code: "not-valid", side: src, severity: info, options: options{method: "native"},
			healthy: `CREATE TABLE t (i int PRIMARY KEY CHECK (i > 0))`, source: `ALTER TABLE t ADD CONSTRAINT c CHECK (i > 5) NOT VALID`},
		{code: "apply-triggers", side: src, severity: warn,
			healthy: `CREATE TABLE t (i int PRIMARY KEY); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER "tr" BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()`,
			source:  `ALTER TABLE t ENABLE ALWAYS TRIGGER "tr"`, says: []string{"ENABLE ALWAYS"}},

		// Replica identity.
		{code: "no-replica-identity", side: src, severity: warn, remedied: false,
			healthy: `CREATE TABLE keyed (i int PRIMARY KEY)`,
			source:  `CREATE TABLE none (i int); CREATE TABLE uq (i int NOT NULL UNIQUE)`, says: []string{`"public"."none": FULL`, `"public"."uq": USING INDEX "uq_i_key"`}},
		{code: "identity-impossible", side: src, severity: blocker, remedied: true,
			healthy: `CREATE TABLE keyed (i int PRIMARY KEY, j json); CREATE TABLE uq (i int NOT NULL UNIQUE, j json)`,
			source: `CREATE TABLE "J s" (j json, p point);
CREATE TABLE fully (i int PRIMARY KEY, x xml);
ALTER TABLE fully REPLICA IDENTITY FULL`, says: []string{`"public"."J s": j json, p point`, `"public"."fully": x xml`}},
		{code: "generated-identity", side: src, severity: blocker, remedied: true,
			healthy: `CREATE TABLE f (a int, g int GENERATED ALWAYS AS (a + 1) STORED)`,
			source:  `CREATE TABLE pk (a int, g int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY)`, says: []string{`"public"."pk": g`}},

		// Behind the fence.
		{code: "superuser-sessions", side: src, severity: warn, cluster: `CREATE ROLE "App super" LOGIN SUPERUSER`,
			hold: []string{"App super"}, says: []string{`user "App super"`}},
		{code: "shared-role", side: src, severity: warn, hold: []string{"postgres"}, says: []string{"user postgres"}},
		{code: "own-subscriptions", side: src, severity: blocker, remedied: true,
			healthy: `CREATE SUBSCRIPTION off1 CONNECTION 'dbname=nothing' PUBLICATION p WITH (connect = false)`,
			source:  `ALTER SUBSCRIPTION off1 ENABLE`, says: []string{"off1"}},
		{code: "own-subscriptions", side: tgt, severity: blocker, remedied: true,
			healthyT: `CREATE SUBSCRIPTION off2 CONNECTION 'dbname=nothing' PUBLICATION p WITH (connect = false)`,
			target:   `ALTER SUBSCRIPTION off2 ENABLE`},
		{code: "member-of-exempt-role", side: src, severity: blocker, remedied: true,
			options: options{user: "mover1"},
			cluster: as("mover1", rights) + `;
CREATE ROLE harmless LOGIN; CREATE ROLE between; CREATE ROLE sneaky LOGIN IN ROLE between; CREATE ROLE cut_off LOGIN NOINHERIT`,
			onTarget:    as("mover1", rights+", pg_create_subscription"),
			asOwner:     true,
			sourceAdmin: `GRANT mover1 TO between; GRANT mover1 TO cut_off`, says: []string{"sneaky, member of"}},
		{code: "member-of-exempt-role", side: tgt, severity: blocker, remedied: true,
			options: options{user: "mover2"}, cluster: as("mover2", rights), asOwner: true,
			onTarget:    as("mover2", rights+", pg_create_subscription") + `; CREATE ROLE app2 LOGIN`,
			targetAdmin: `GRANT mover2 TO app2`},
		{code: "connect-grants", side: src, severity: blocker, remedied: true,
			options: options{user: "mover3"}, cluster: as("mover3", rights) + `; CREATE ROLE helper; CREATE ROLE visitor`, asOwner: true,
			onTarget: as("mover3", rights+", pg_create_subscription"),
			source: `GRANT CONNECT ON DATABASE "db 18" TO helper WITH GRANT OPTION;
SET ROLE helper;
GRANT CONNECT ON DATABASE "db 18" TO visitor`, says: []string{"CONNECT to \"visitor\", granted by \"helper\""}},

		// Privileges on the source.
		{code: "privilege-replication", side: src, severity: blocker, remedied: true, options: options{user: "r1", targetUser: "postgres"},
			cluster: as("r1", rights), sourceAdmin: `ALTER ROLE r1 NOREPLICATION`},
		{code: "privilege-create", side: src, severity: blocker, remedied: true, options: options{user: "r2", targetUser: "postgres"},
			cluster: as("r2", rights), onTarget: `SELECT 1`, healthy: `GRANT CREATE ON DATABASE "db 20" TO r2`, source: `REVOKE CREATE ON DATABASE "db 20" FROM r2`},
		{code: "privilege-database-owner", side: src, severity: blocker, remedied: true, options: options{user: "r3", targetUser: "postgres"},
			cluster: as("r3", rights) + `; CREATE ROLE "db owner"`, healthy: `ALTER DATABASE "db 21" OWNER TO r3`, source: `ALTER DATABASE "db 21" OWNER TO "db owner"`},
		{code: "privilege-createdb", side: src, severity: blocker, remedied: true, options: options{user: "r4", targetUser: "postgres"},
			cluster: as("r4", rights), sourceAdmin: `ALTER ROLE r4 NOCREATEDB`},
		{code: "privilege-sessions", side: src, severity: blocker, remedied: true, options: options{user: "r5", targetUser: "postgres"},
			cluster: as("r5", rights), sourceAdmin: `REVOKE pg_monitor, pg_signal_backend FROM r5`, says: []string{"pg_monitor and pg_signal_backend"}},
		{code: "privilege-owner", side: src, severity: blocker, remedied: true, options: options{user: "r6", targetUser: "postgres"},
			cluster: as("r6", rights) + `; CREATE ROLE "tab owner"`,
			healthy: `CREATE TABLE mine (i int PRIMARY KEY); ALTER TABLE mine OWNER TO r6`,
			source:  `CREATE TABLE others (i serial PRIMARY KEY); ALTER TABLE others OWNER TO "tab owner"`, says: []string{"public.others_i_seq"}},
		{code: "privilege-usage", side: src, severity: blocker, remedied: true, options: options{user: "r7", targetUser: "postgres"},
			cluster: as("r7", rights), healthy: `CREATE SCHEMA seen; GRANT USAGE ON SCHEMA seen TO r7`, source: `CREATE SCHEMA "Hidden"`},
		{code: "privilege-select", side: src, severity: blocker, remedied: true, options: options{user: "r8", targetUser: "postgres"},
			cluster: as("r8", rights), healthy: `CREATE TABLE "T" (i serial PRIMARY KEY); ALTER TABLE "T" OWNER TO r8`,
			source: `REVOKE ALL ON TABLE "T" FROM r8; REVOKE ALL ON SEQUENCE "T_i_seq" FROM r8`, says: []string{`public."T"`, `public."T_i_seq"`}},
		{code: "row-security", side: src, severity: blocker, remedied: true, options: options{user: "r9", targetUser: "postgres"},
			cluster: as("r9", `REPLICATION CREATEDB IN ROLE pg_monitor, pg_signal_backend`),
			healthy: `CREATE TABLE s (i int PRIMARY KEY); ALTER TABLE s OWNER TO r9; ALTER TABLE s ENABLE ROW LEVEL SECURITY`,
			source:  `ALTER TABLE s FORCE ROW LEVEL SECURITY`, says: []string{"public.s"}},
		{code: "superuser-sessions", side: src, severity: warn, options: options{user: "r10", targetUser: "postgres"},
			cluster: as("r10", rights), hold: []string{"postgres"}, says: []string{"may not end"}},

		// Privileges on the target.
		{code: "privilege-subscribe", side: tgt, severity: blocker, remedied: true, options: options{targetUser: "t1"},
			onTarget: as("t1", rights+", pg_create_subscription"), targetAdmin: `REVOKE pg_create_subscription FROM t1`},
		{code: "privilege-createdb", side: tgt, severity: blocker, remedied: true, options: options{targetUser: "t2"}, noTarget: true,
			onTarget: as("t2", rights+", pg_create_subscription"), targetAdmin: `ALTER ROLE t2 NOCREATEDB`},
		{code: "privilege-createrole", side: tgt, severity: blocker, remedied: true, options: options{targetUser: "t3", roles: true},
			onTarget: as("t3", rights+", pg_create_subscription") + `; ALTER ROLE t3 CREATEROLE`, targetAdmin: `ALTER ROLE t3 NOCREATEROLE`},
		{code: "privilege-replication", side: tgt, severity: warn, remedied: true, options: options{targetUser: "t4"},
			onTarget: as("t4", rights+", pg_create_subscription"), targetAdmin: `ALTER ROLE t4 NOREPLICATION`},
		{code: "privilege-set-owner", side: tgt, severity: blocker, remedied: true, options: options{targetUser: "t5"},
			cluster:  `CREATE ROLE "app owner"`,
			onTarget: as("t5", rights+", pg_create_subscription") + `; CREATE ROLE "app owner"`,
			source:   `CREATE TABLE t (i int PRIMARY KEY); ALTER TABLE t OWNER TO "app owner"`, says: []string{`"app owner"`}},
		{code: "row-security", side: tgt, severity: blocker, remedied: true, options: options{targetUser: "t6"},
			onTarget: as("t6", `REPLICATION CREATEDB IN ROLE pg_monitor, pg_signal_backend, pg_create_subscription`),
			healthy:  `CREATE TABLE s (i int PRIMARY KEY); ALTER TABLE s ENABLE ROW LEVEL SECURITY`, source: `ALTER TABLE s FORCE ROW LEVEL SECURITY`},
		{code: "password-in-log", side: tgt, severity: warn, remedied: true,
			options:     options{targetUser: "t7", sourceFromTarget: "postgresql://postgres:s3cret@127.0.0.1:1/d"},
			onTarget:    as("t7", rights+", pg_create_subscription") + `; GRANT SET ON PARAMETER log_statement, log_min_duration_statement, log_min_error_statement TO t7`,
			targetAdmin: `REVOKE SET ON PARAMETER log_statement FROM t7`},

		// The target database.
		{code: "target-database", side: tgt, severity: info, noTarget: false, targetAdmin: `DROP DATABASE "db 37"`, says: []string{`"db 37"`}},
		{code: "target-not-empty", side: tgt, severity: blocker,
			healthyT: `CREATE TEMPORARY TABLE x (i int)`,
			target:   `CREATE TABLE "T" (i serial); CREATE VIEW v AS SELECT 1 AS one; CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TYPE e AS ENUM ('a'); CREATE TYPE c AS (a int)`,
			says:     []string{`table public."T"`, "view public.v", "function public.f(integer)", "type public.e", "type public.c", `sequence public."T_i_seq"`, "6 objects"}},
		{code: "target-not-empty", side: tgt, severity: blocker, target: `CREATE SCHEMA "Only a schema"`, says: []string{`schema "Only a schema"`}},
		{code: "encoding", side: tgt, severity: blocker, noTarget: true,
			targetAdmin: `CREATE DATABASE "db 40" TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'`, says: []string{"LATIN1"}},
		{code: "locale", side: tgt, severity: warn, noTarget: true,
			targetAdmin: `CREATE DATABASE "db 41" TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de'`, says: []string{"ICU locale de"}},
		{code: "roles-missing", side: tgt, severity: warn, cluster: `CREATE ROLE "nobody there"`,
			healthy: `CREATE TABLE t (i int PRIMARY KEY)`, source: `GRANT SELECT ON t TO "nobody there"`, says: []string{`"nobody there"`}},

		// What newer versions lack.
		{code: "removed-functions", side: src, severity: blocker,
			healthy: `CREATE AGGREGATE fine (int) (sfunc = int4pl, stype = int)`,
			source: `CREATE AGGREGATE arr (anyarray) (sfunc = array_cat, stype = anyarray);
CREATE OPERATOR !# (leftarg = bigint, procedure = numeric_fac);
CREATE VIEW fac AS SELECT 5 ! AS f`, says: []string{"arr(anyarray)", "!#(bigint,NONE)", "view public.fac"}},
		{code: "prepared-transactions", side: src, severity: blocker, remedied: true,
			healthy: `CREATE TABLE t (i int PRIMARY KEY)`,
			source:  "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'it''s \\prepared'", says: []string{"prepared"}},
	})
}

func TestNewServerScenarios(t *testing.T) {
	t.Parallel()
	play(t, 18, 18, []scenario{
		// Measured on 18: FULL with a generated column of either kind, and a key with one.
		{code: "generated-identity", side: src, severity: blocker, remedied: true,
			healthy: `CREATE TABLE keyed (i int PRIMARY KEY, g int GENERATED ALWAYS AS (i + 1) STORED); CREATE TABLE included (a int NOT NULL, g int GENERATED ALWAYS AS (a + 1) STORED); CREATE UNIQUE INDEX ON included (a) INCLUDE (g)`,
			source: `CREATE TABLE "F s" (a int, g int GENERATED ALWAYS AS (a + 1) STORED);
CREATE TABLE fv (a int, g int GENERATED ALWAYS AS (a + 1) VIRTUAL);
CREATE TABLE full_with_key (a int PRIMARY KEY, g int GENERATED ALWAYS AS (a + 1) VIRTUAL);
ALTER TABLE full_with_key REPLICA IDENTITY FULL;
CREATE TABLE pk (a int, g int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY)`,
			says: []string{`"public"."F s": g`, `"public"."fv": g`, `"public"."full_with_key": g`, `"public"."pk": g`}},
		{code: "connect-grants", side: src, severity: blocker, remedied: true,
			options: options{user: "mover", targetUser: "postgres"}, cluster: as("mover", rights) + `; CREATE ROLE helper; CREATE ROLE visitor`, asOwner: false,
			healthy: `GRANT helper TO mover WITH SET TRUE`,
			source: `GRANT helper TO mover WITH SET FALSE, INHERIT TRUE;
GRANT CONNECT ON DATABASE "db 1" TO helper WITH GRANT OPTION;
SET ROLE helper;
GRANT CONNECT ON DATABASE "db 1" TO visitor`},
		{code: "privilege-subscribe", side: tgt, severity: blocker, remedied: true, options: options{targetUser: "sub"},
			onTarget: as("sub", rights+", pg_create_subscription"), targetAdmin: `REVOKE pg_create_subscription FROM sub`},
	})
}

func TestOldServerScenarios(t *testing.T) {
	t.Parallel()
	play(t, 15, 15, []scenario{
		{code: "privilege-subscribe", side: tgt, severity: blocker, remedied: true, options: options{targetUser: "old"},
			onTarget: as("old", rights) + `; ALTER ROLE old SUPERUSER`, targetAdmin: `ALTER ROLE old NOSUPERUSER`},
		{code: "locale", side: tgt, severity: warn, noTarget: true,
			healthy:     `SELECT 1`,
			targetAdmin: `CREATE DATABASE "db 1" TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'sv'`},
	})
}
