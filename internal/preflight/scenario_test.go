package preflight_test

import (
	"testing"

	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
)

// Short names for the tables below.
const (
	src, tgt            = postgres.Source, postgres.Target
	blocker, warn, info = preflight.Blocker, preflight.Warning, preflight.Info
)

// TestScenarios: each problem is found when it is there, not before, and no
// longer after its remedy.
func TestScenarios(t *testing.T) {
	t.Parallel()
	source := pgtest.Start(t, 12, map[string]string{"max_prepared_transactions": "5"})
	target := pgtest.Start(t, 17, map[string]string{"log_statement": "ddl"})
	t.Run("each", func(t *testing.T) { // returns when the parallel ones are done
		for name, sc := range map[string]scenario{
			"contents": contents, "fence": behindFence, "plain role on the source": plainOnSource,
			"plain role on the target": plainOnTarget, "target": targetDatabase, "target in ICU": targetInICU,
			"new target database": newTarget, "plain and super": plainAndSuper, "native": native, "prepared": prepared,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				sc.db = name + " db"
				sc.play(t, source, target)
			})
		}
	})
}

// contents: what of a database is not replicated, or not like that.
var contents = scenario{
	healthy: `CREATE TABLE keyed (i int PRIMARY KEY, j json);
CREATE TABLE unique_only (i int NOT NULL UNIQUE, j json, g int GENERATED ALWAYS AS (i + 1) STORED);
ALTER TABLE unique_only REPLICA IDENTITY USING INDEX unique_only_i_key;
CREATE MATERIALIZED VIEW unpopulated AS SELECT 1 AS i WITH NO DATA;
CREATE AGGREGATE fine (int) (sfunc = int4pl, stype = int);
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER "Tr" BEFORE INSERT ON keyed FOR EACH ROW EXECUTE FUNCTION f()`,
	problems: []problem{
		{code: "large-objects", side: src, severity: blocker, source: `SELECT lo_create(0)`, says: []string{"1 large object"},
			asSaid: `SELECT lo_unlink(oid) FROM pg_largeobject_metadata`},
		// One refers to another, two to each other; once logged, some would be blockers again.
		{code: "unlogged-tables", side: src, severity: blocker, remedied: true, says: []string{`"public"."Un logged"`},
			source: `CREATE UNLOGGED TABLE "Un logged" (i int PRIMARY KEY);
CREATE UNLOGGED TABLE "A refers" (i int PRIMARY KEY REFERENCES "Un logged");
CREATE UNLOGGED TABLE circle1 (i int PRIMARY KEY); CREATE UNLOGGED TABLE circle2 (i int PRIMARY KEY REFERENCES circle1);
ALTER TABLE circle1 ADD CONSTRAINT "C 1" FOREIGN KEY (i) REFERENCES circle2 DEFERRABLE;
CREATE UNLOGGED TABLE "unlogged J" (j json); CREATE UNLOGGED TABLE "unlogged N" (n numeric); INSERT INTO "unlogged N" VALUES (1), (1.0);
CREATE UNLOGGED TABLE "unlogged G" (a int, g int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY)`},
		{code: "foreign-tables", side: src, severity: info, says: []string{"public.ft"},
			source: `CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE ft (i int) SERVER s`},
		{code: "event-triggers", side: src, severity: info, says: []string{`"Ev"`},
			source: `CREATE FUNCTION ev() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER "Ev" ON ddl_command_end EXECUTE FUNCTION ev()`},
		{code: "own-publications", side: src, severity: warn, source: `CREATE PUBLICATION "My pub"`, says: []string{`publication "My pub"`, `"public"."fully" has DEFAULT instead of FULL`}},
		{code: "materialized-views", side: src, severity: info, source: `CREATE MATERIALIZED VIEW mv AS SELECT 1 AS i`, says: []string{`1 materialized view`, `"mv"`}},
		{code: "apply-triggers", side: src, severity: warn, source: `ALTER TABLE keyed ENABLE ALWAYS TRIGGER "Tr"`, says: []string{`"Tr"`, "ENABLE ALWAYS"}},
		{code: "no-replica-identity", side: src, severity: warn, says: []string{`"public"."none": FULL`, `"public"."uq": USING INDEX "uq_i_key"`, `"public"."fully": DEFAULT`},
			asSaid: `ALTER TABLE none ADD PRIMARY KEY (i); ALTER TABLE uq ADD PRIMARY KEY (i); ALTER TABLE fully REPLICA IDENTITY DEFAULT;
ALTER TABLE plain ADD PRIMARY KEY (i); ALTER TABLE exact_parent ADD PRIMARY KEY (i)`,
			source: `CREATE TABLE none (i int); CREATE TABLE uq (i int NOT NULL UNIQUE);
CREATE TABLE fully (i int PRIMARY KEY, x xml); ALTER TABLE fully REPLICA IDENTITY FULL`},
		{code: "identity-impossible", side: src, severity: blocker, remedied: true, says: []string{`"public"."J s": j json, p point`},
			source: `CREATE TABLE "J s" (j json, p point); INSERT INTO "J s" VALUES ('1', '0,0'), ('1', '0,0');
CREATE TABLE person (name text, at point); CREATE TABLE emp (pay int) INHERITS (person); CREATE TABLE student (gpa int) INHERITS (person);
CREATE TABLE stud_emp (x int) INHERITS (emp, student); INSERT INTO emp VALUES ('a', '1,1', 1), ('b', '2,2', 2); INSERT INTO stud_emp DEFAULT VALUES;
CREATE TABLE plain (i int); CREATE TABLE "its child" (j json) INHERITS (plain); CREATE TABLE grandchild () INHERITS ("its child");
CREATE TABLE tree (k int, j json) PARTITION BY RANGE (k); CREATE TABLE "tree 1" PARTITION OF tree FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (k);
CREATE TABLE leaf1 PARTITION OF "tree 1" FOR VALUES FROM (0) TO (5); CREATE TABLE leaf2 PARTITION OF "tree 1" FOR VALUES FROM (5) TO (10);
CREATE TABLE leaf3 (j json, k int); ALTER TABLE tree ATTACH PARTITION leaf3 FOR VALUES FROM (10) TO (20); INSERT INTO tree SELECT i FROM generate_series(1, 19) i;
CREATE TYPE typ AS (j json); CREATE TABLE typed OF typ; INSERT INTO typed VALUES ('1');
CREATE TABLE ignored (i int PRIMARY KEY, j json)`},
		{code: "generated-identity", side: src, severity: blocker, remedied: true, says: []string{`"public"."pk": g`},
			source: `CREATE TABLE pk (a int, g int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY);
CREATE TABLE pk_parent (a int, g int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY); CREATE TABLE pk_child (PRIMARY KEY (g)) INHERITS (pk_parent)`},
		// One tree in three findings: who runs all remedies adds the column once.
		{code: "equal-rows", side: src, severity: blocker, remedied: true, says: []string{`"public"."numeric child"`},
			source: `CREATE TABLE exact_parent (i int); CREATE TABLE "numeric child" (n numeric) INHERITS (exact_parent); INSERT INTO "numeric child" VALUES (1, 1.0), (1, 1.00);
CREATE TABLE "json grandchild" (j json) INHERITS ("numeric child")`},
		{code: "removed-functions", side: src, severity: blocker, says: []string{"arr(anyarray)", "!#(bigint,NONE)", "view public.fac"},
			source: `CREATE AGGREGATE arr (anyarray) (sfunc = array_cat, stype = anyarray);
CREATE OPERATOR !# (leftarg = numeric, procedure = numeric_ln);
CREATE OPERATOR !# (leftarg = bigint, procedure = numeric_fac);
CREATE VIEW fac AS SELECT 5 ! AS f`},
		{code: "extension-missing", side: tgt, severity: blocker, source: `CREATE EXTENSION adminpack`, asSaid: `DROP EXTENSION adminpack`, says: []string{`"adminpack" 2.0`}}, // gone since 17
		{code: "extension-version", side: tgt, severity: warn, says: []string{`"citext": 0.9 on the source`},
			source: `CREATE EXTENSION citext; UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'citext'`},
		{code: "extension-tables", side: src, severity: warn, says: []string{"public.jobs of extension citext"},
			source: `CREATE TABLE jobs (i int PRIMARY KEY); INSERT INTO jobs VALUES (1); ALTER EXTENSION citext ADD TABLE jobs`},
		{code: "extension-rows", side: src, severity: info, says: []string{`"public"."conf" of extension "citext"`, "2 tables"},
			source: `CREATE TABLE conf (i int PRIMARY KEY); ALTER EXTENSION citext ADD TABLE conf;
CREATE TABLE big_conf (v text); ALTER TABLE big_conf ALTER v SET STORAGE EXTERNAL; ALTER EXTENSION citext ADD TABLE big_conf;
UPDATE pg_extension SET extconfig = ARRAY['conf'::regclass, 'big_conf'::regclass]::oid[], extcondition = ARRAY['WHERE i > 1', ''] WHERE extname = 'citext'`},
		{code: "extension-rows-large", side: src, severity: warn, says: []string{`"public"."big_conf" of extension "citext": 16 MB`},
			source: `INSERT INTO big_conf SELECT repeat('x', 1000000) FROM generate_series(1, 17)`},
		{code: "c-functions", side: tgt, severity: warn, says: []string{"public.cpk in $libdir/refint"},
			source: `CREATE FUNCTION cpk() RETURNS trigger LANGUAGE c AS '$libdir/refint', 'check_primary_key'`},
		{code: "collation-missing", side: tgt, severity: blocker, says: []string{`"xx_XX"`},
			source: `CREATE COLLATION pg_catalog."xx_XX" (locale = 'C'); CREATE TABLE collated (i int PRIMARY KEY, v text COLLATE "xx_XX")`},
		{code: "roles-missing", side: tgt, severity: warn, says: []string{`"nobody there"`},
			sourceAdmin: `CREATE ROLE "nobody there"`, source: `GRANT SELECT ON keyed TO "nobody there"`,
			asSaidTargetAdmin: `CREATE ROLE "nobody there"`},
	},
}

// behindFence: who the fence would not stop.
var behindFence = scenario{
	before:        `CREATE ROLE "App super" LOGIN SUPERUSER; CREATE ROLE app LOGIN`,
	healthy:       `CREATE SUBSCRIPTION "off 1" CONNECTION 'dbname=nothing' PUBLICATION p WITH (connect = false)`,
	healthyTarget: `CREATE SUBSCRIPTION off2 CONNECTION 'dbname=nothing' PUBLICATION p WITH (connect = false)`,
	problems: []problem{
		{code: "superuser-sessions", side: src, severity: warn, hold: "App super", says: []string{`1 session of`, `user "App super"`, "cannot keep superusers"}},
		{code: "shared-role", side: src, severity: warn, hold: "postgres", says: []string{"1 other session", "user postgres"}},
		{code: "own-subscriptions", side: src, severity: blocker, remedied: true, source: `ALTER SUBSCRIPTION "off 1" ENABLE`, says: []string{`"off 1"`}},
		{code: "own-subscriptions", side: tgt, severity: blocker, remedied: true, target: `ALTER SUBSCRIPTION off2 ENABLE`},
	},
}

// prepared transactions make every creation of a slot in the cluster wait.
var prepared = scenario{
	healthy: `CREATE TABLE t (i int PRIMARY KEY)`,
	problems: []problem{{code: "prepared-transactions", side: src, severity: blocker, remedied: true,
		source: "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'it''s \\prepared'", says: []string{"it''s"}}},
}

// plainOnSource: a role without SUPERUSER has all it needs, and loses it.
var plainOnSource = scenario{
	options: options{user: "mover", targetUser: "postgres"},
	asOwner: true,
	before: `CREATE ROLE mover LOGIN NOINHERIT REPLICATION CREATEDB;
GRANT pg_monitor, pg_signal_backend TO mover;
ALTER ROLE mover INHERIT;
CREATE ROLE "tab owner"; CREATE ROLE "db owner"; CREATE ROLE helper; CREATE ROLE visitor;
CREATE ROLE between; CREATE ROLE sneaky LOGIN IN ROLE between; CREATE ROLE cut_off LOGIN NOINHERIT`,
	healthy: `CREATE SCHEMA seen AUTHORIZATION mover; CREATE SCHEMA "Hidden"; GRANT USAGE ON SCHEMA "Hidden" TO mover;
CREATE TABLE "T" (i serial PRIMARY KEY); ALTER TABLE "T" OWNER TO mover;
CREATE TABLE secured (i int PRIMARY KEY); ALTER TABLE secured OWNER TO mover; ALTER TABLE secured ENABLE ROW LEVEL SECURITY`,
	problems: []problem{
		{code: "extension-rows-privilege", side: src, severity: warn, remedied: true, says: []string{`"Conf"."T" of extension "citext"`},
			source: `CREATE SCHEMA "Conf"; CREATE EXTENSION citext; CREATE TABLE "Conf"."T" (i int PRIMARY KEY); ALTER EXTENSION citext ADD TABLE "Conf"."T";
UPDATE pg_extension SET extconfig = ARRAY['"Conf"."T"'::regclass]::oid[], extcondition = ARRAY[''] WHERE extname = 'citext'`},
		{code: "member-of-exempt-role", side: src, severity: blocker, remedied: true, says: []string{"sneaky, member of"},
			sourceAdmin: `GRANT mover TO between; GRANT mover TO cut_off`},
		{code: "connect-grants", side: src, severity: blocker, remedied: true, says: []string{`CONNECT to "visitor", granted by "helper"`},
			source: `GRANT CONNECT ON DATABASE "plain role on the source db" TO helper WITH GRANT OPTION;
SET ROLE helper;
GRANT CONNECT ON DATABASE "plain role on the source db" TO visitor`},
		{code: "privilege-replication", side: src, severity: blocker, remedied: true, sourceAdmin: `ALTER ROLE mover NOREPLICATION`},
		{code: "privilege-sessions", side: src, severity: blocker, remedied: true, says: []string{"pg_monitor and pg_signal_backend"},
			sourceAdmin: `REVOKE pg_monitor, pg_signal_backend FROM mover`},
		{code: "privilege-database-owner", side: src, severity: blocker, remedied: true, source: `ALTER DATABASE "plain role on the source db" OWNER TO "db owner"`},
		{code: "privilege-create", side: src, severity: blocker, remedied: true, source: `REVOKE CREATE ON DATABASE "plain role on the source db" FROM "db owner"`},
		{code: "privilege-owner", side: src, severity: blocker, remedied: true, says: []string{"public.others_i_seq", `"tab owner"`},
			source: `CREATE TABLE others (i serial PRIMARY KEY); ALTER TABLE others OWNER TO "tab owner"`},
		{code: "privilege-usage", side: src, severity: blocker, remedied: true, source: `REVOKE USAGE ON SCHEMA "Hidden" FROM mover`},
		{code: "privilege-select", side: src, severity: blocker, remedied: true, says: []string{`public."T"`, `public."T_i_seq"`},
			source: `REVOKE ALL ON TABLE "T" FROM mover; REVOKE ALL ON SEQUENCE "T_i_seq" FROM mover`},
		{code: "row-security", side: src, severity: blocker, remedied: true, source: `ALTER TABLE secured FORCE ROW LEVEL SECURITY`, says: []string{"public.secured"}},
		{code: "privilege-read", side: src, severity: blocker, remedied: true, says: []string{"pg_stat_subscription", "pg_current_wal_insert_lsn()"},
			source: `REVOKE SELECT ON pg_stat_subscription FROM PUBLIC; REVOKE EXECUTE ON FUNCTION pg_current_wal_insert_lsn() FROM PUBLIC`},
	},
}

// plainAndSuper: a role that may end sessions, but not a superuser's.
var plainAndSuper = scenario{
	options:  options{user: "mover2", targetUser: "postgres"},
	before:   `CREATE ROLE mover2 LOGIN IN ROLE pg_monitor, pg_signal_backend`,
	problems: []problem{{code: "superuser-sessions", side: src, severity: warn, hold: "postgres", says: []string{"may not end"}}},
}

// plainOnTarget: the same there.
var plainOnTarget = scenario{
	options: options{targetUser: "taker", roles: true, sourceFromTarget: "postgresql://postgres:s3cret@127.0.0.1:1/d"},
	asOwner: true,
	before:  `CREATE ROLE "app owner"`,
	beforeTarget: `CREATE ROLE taker LOGIN REPLICATION CREATEDB CREATEROLE;
GRANT pg_monitor, pg_signal_backend, pg_create_subscription TO taker;
GRANT SET ON PARAMETER log_statement, log_min_duration_statement, log_min_error_statement TO taker;
CREATE ROLE postgres2; CREATE ROLE "app owner"; CREATE ROLE app LOGIN;
GRANT postgres TO taker`,
	healthy: `CREATE TABLE secured (i int PRIMARY KEY); ALTER TABLE secured ENABLE ROW LEVEL SECURITY`,
	problems: []problem{
		{code: "member-of-exempt-role", side: tgt, severity: blocker, remedied: true, targetAdmin: `GRANT taker TO app`},
		{code: "privilege-subscribe", side: tgt, severity: blocker, remedied: true, targetAdmin: `REVOKE pg_create_subscription FROM taker`},
		{code: "privilege-createrole", side: tgt, severity: blocker, remedied: true, targetAdmin: `ALTER ROLE taker NOCREATEROLE`},
		{code: "privilege-replication", side: tgt, severity: warn, remedied: true, targetAdmin: `ALTER ROLE taker NOREPLICATION`},
		{code: "privilege-set-owner", side: tgt, severity: blocker, remedied: true, says: []string{`"app owner"`},
			source: `CREATE TABLE t (i int PRIMARY KEY); ALTER TABLE t OWNER TO "app owner"`},
		{code: "row-security", side: tgt, severity: blocker, remedied: true, source: `ALTER TABLE secured FORCE ROW LEVEL SECURITY`},
		{code: "password-in-log", side: tgt, severity: warn, remedied: true, targetAdmin: `REVOKE SET ON PARAMETER log_statement FROM taker`},
		{code: "privilege-extension", side: tgt, severity: blocker, remedied: true, source: `CREATE EXTENSION pageinspect`},
	},
}

// targetDatabase: what the target database may not hold.
var targetDatabase = scenario{
	healthyTarget: `CREATE EXTENSION tablefunc`, // it has composite types
	problems: []problem{{code: "target-not-empty", side: tgt, severity: blocker, asSaidOptions: func(o *options) { o.targetDB = "not there yet" },
		target: `CREATE TABLE "T" (i serial); CREATE VIEW v AS SELECT 1 AS one;
CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TYPE e AS ENUM ('a'); CREATE TYPE c AS (a int); CREATE SCHEMA "S c"`,
		says: []string{"7 objects", `schema "S c"`, `table public."T"`, "view public.v", "function public.f(integer)", "type public.e", "type public.c", `sequence public."T_i_seq"`}}},
}

// targetInICU: one that sorts and encodes in another way.
var targetInICU = scenario{
	noTarget: true,
	problems: []problem{
		{code: "locale", side: tgt, severity: warn, says: []string{"ICU locale de"},
			targetAdmin: `CREATE DATABASE "target in ICU db" TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER icu ICU_LOCALE 'de' LC_COLLATE 'C' LC_CTYPE 'C'`},
		{code: "encoding", side: tgt, severity: blocker, remedied: true, says: []string{"LATIN1"}},
	},
}

// newTarget: a role that is to make the database.
var newTarget = scenario{
	options: options{targetUser: "maker"}, noTarget: true,
	before:       `CREATE ROLE "other owner"`,
	beforeTarget: `CREATE ROLE maker LOGIN REPLICATION CREATEDB; GRANT pg_monitor, pg_signal_backend, pg_create_subscription, postgres TO maker`,
	healthy:      `CREATE TABLE t (i int PRIMARY KEY)`,
	problems:     []problem{{code: "privilege-createdb", side: tgt, severity: blocker, remedied: true, targetAdmin: `ALTER ROLE maker NOCREATEDB`}},
}

// native is stricter than the other methods.
var native = scenario{
	options: options{method: "native", jobs: 2},
	healthy: `CREATE TABLE t (i int PRIMARY KEY CHECK (i > 0))`,
	problems: []problem{
		{code: "not-valid", side: src, severity: warn, source: `ALTER TABLE t ADD CONSTRAINT "C" CHECK (i > 5) NOT VALID`, says: []string{`"C" on public.t`},
			asSaidOptions: func(o *options) { o.method = "stream" }},
		{code: "sync-workers", side: tgt, severity: blocker, remedied: true,
			targetAdmin: "ALTER SYSTEM SET max_sync_workers_per_subscription = 0;\nSELECT pg_reload_conf()"},
	},
}

// TestNewServers: what 16 to 19 do otherwise.
func TestNewServers(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 18), pgtest.Start(t, 19)
	scenario{
		options: options{user: "mover", targetUser: "postgres"},
		before:  `CREATE ROLE mover LOGIN; CREATE ROLE helper; CREATE ROLE visitor; GRANT helper TO mover WITH SET TRUE`,
		healthy: `CREATE TABLE keyed (i int PRIMARY KEY, g int GENERATED ALWAYS AS (i + 1) STORED);
CREATE TABLE included (a int NOT NULL, g int GENERATED ALWAYS AS (a + 1) STORED); CREATE UNIQUE INDEX ON included (a) INCLUDE (g)`,
		problems: []problem{
			{code: "connect-grants", side: src, severity: blocker, remedied: true,
				source: `GRANT helper TO mover WITH SET FALSE, INHERIT TRUE;
GRANT CONNECT ON DATABASE "its db" TO helper WITH GRANT OPTION;
SET ROLE helper;
GRANT CONNECT ON DATABASE "its db" TO visitor`},
			{code: "identity-impossible", side: src, severity: blocker, remedied: true,
				source: `CREATE TABLE person (name text, at point, g int GENERATED ALWAYS AS (1) STORED); CREATE TABLE emp (pay int) INHERITS (person)`},
			{code: "removed-settings", side: src, severity: blocker, remedied: true, says: []string{`"F n"(integer): ERROR: unrecognized`, "p(): ERROR: non-standard string literals"},
				source: `CREATE FUNCTION "F n" (int) RETURNS int LANGUAGE sql SET escape_string_warning = off SET work_mem = '1MB' AS 'SELECT 1';
CREATE PROCEDURE p() LANGUAGE sql SET standard_conforming_strings = off SET search_path = "S c", pg_temp AS 'SELECT 1'`},
			{code: "line-breaks", side: src, severity: blocker, remedied: true, says: []string{`two\n\"lines\"`},
				source: "CREATE ROLE \"two\n\"\"lines\"\"\"; GRANT SELECT ON keyed TO \"two\n\"\"lines\"\"\""},
			// Measured on 18: FULL with a generated column of either kind, and a key with one.
			{code: "generated-identity", side: src, severity: blocker, remedied: true,
				source: `CREATE TABLE "F s" (a int, g int GENERATED ALWAYS AS (a + 1) STORED);
CREATE TABLE fv (a int, g int GENERATED ALWAYS AS (a + 1) VIRTUAL);
CREATE TABLE full_with_key (a int PRIMARY KEY, g int GENERATED ALWAYS AS (a + 1) VIRTUAL);
ALTER TABLE full_with_key REPLICA IDENTITY FULL;
CREATE TABLE pk (a int, g int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY);
CREATE TABLE pk2 (a int, g int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY)`,
				says: []string{`"public"."F s": g`, `"public"."fv": g`, `"public"."full_with_key": g`, `"public"."pk": g`}},
		},
	}.play(t, source, target)
}

// TestOldServers: what servers before 16 do otherwise.
func TestOldServers(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 15), pgtest.Start(t, 15, map[string]string{"log_min_duration_statement": "0"})
	scenario{
		options:      options{targetUser: "old", sourceFromTarget: "postgresql://postgres:s3cret@127.0.0.1:1/d"},
		beforeTarget: `CREATE ROLE old LOGIN SUPERUSER`,
		problems: []problem{
			{code: "privilege-subscribe", side: tgt, severity: blocker, remedied: true, targetAdmin: `ALTER ROLE old NOSUPERUSER`},
			{code: "password-in-log", side: tgt, severity: warn, remedied: true},
			{code: "slot-wal-limit", side: src, severity: warn, remedied: true, says: []string{"is 1 MB"},
				source:      `CREATE TABLE big AS SELECT i, repeat('x', 1000) AS v FROM generate_series(1, 5000) AS i`,
				sourceAdmin: "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB';\nSELECT pg_reload_conf()"},
		},
	}.play(t, source, target)
}

// TestOldest: what has not existed since 12.
func TestOldest(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, 10), pgtest.Start(t, 17)
	scenario{
		healthy: `CREATE TABLE t (i int PRIMARY KEY)`,
		problems: []problem{
			{code: "with-oids", side: src, severity: blocker, remedied: true, says: []string{`public."With oids"`},
				source: `CREATE TABLE "With oids" (i int PRIMARY KEY) WITH OIDS; INSERT INTO "With oids" VALUES (1)`},
			{code: "removed-types", side: src, severity: blocker, remedied: true, says: []string{"abstime", "reltime[]"},
				source: `CREATE TABLE old (i int PRIMARY KEY, a abstime, r reltime, l reltime[], b abstime[]); INSERT INTO old VALUES (1, now()::abstime, '1 day', '{1 day}', NULL)`},
		},
	}.play(t, source, target)
}
