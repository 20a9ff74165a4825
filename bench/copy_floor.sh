#!/usr/bin/env bash
# The floor: a database copied by hand, with nothing but psql and pg_dump, as fast as they can.
#
#   SOURCE, TARGET   connection strings; TARGET is an empty database, nobody writes to SOURCE
#   JOBS             how many things are done at a time
#   MEMORY           maintenance_work_mem
#   WORK             an empty directory
#
# What pgbaton copies is copied; what it would have to know to do so in any database is left out: no
# snapshot, so that nothing may be written meanwhile; no triggers, rules, exclusion constraints,
# partitions, grants; nothing to continue after an interruption.
set -euo pipefail
export PGOPTIONS="-c synchronous_commit=off -c maintenance_work_mem=$MEMORY"
export SOURCE TARGET
cd "$WORK"

step() { echo "step $EPOCHREALTIME $*"; }
psql() { command psql -X -q -v ON_ERROR_STOP=1 "$@"; }
ask() { psql -A -t -F $'\t' -d "$SOURCE" -v jobs="$JOBS" "$@"; }

# 1. Tables and types, as yet without indexes, keys and foreign keys.
step schema
pg_dump --section=pre-data -f schema.sql -d "$SOURCE"
psql -1 -d "$TARGET" -f schema.sql >/dev/null

# 2. Rows, the largest tables first. Small tables go together, in one transaction: each commit and each
# new process would take longer than they do. The rows of a group of tables pass from one psql to another
# through two named pipes, which take turns: a pipe is opened for writing as soon as the other side
# opens it for reading, which it does when it is done with the table before.
# FREEZE: the rows need not be visited again; the server wants a TRUNCATE in the same transaction for it.
step rows
copy() {
	mkfifo "$1.0" "$1.1"
	psql -d "$SOURCE" -f "$1.out" >/dev/null & local out=$!
	psql -d "$TARGET" -f "$1.in" >/dev/null & local in=$!
	# Who is first to end may have failed, and would be waited for by the other. 127: both had ended.
	if ! { { wait -n "$out" "$in" || [ $? = 127 ]; } && wait "$out" && wait "$in"; }; then
		kill "$out" "$in" 2>/dev/null || true
		exit 255 # which ends xargs
	fi
	rm "$1.0" "$1.1"
}
ask <<-'SQL' >tables
	WITH t AS (
		SELECT c.oid::regclass AS name, pg_table_size(c.oid) AS bytes
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
	), u AS (
		SELECT *, CASE WHEN bytes >= 4000000 THEN 'table-' || row_number() OVER w
			ELSE 'tables-' || row_number() OVER w % (4 * :jobs) END AS "group"
		FROM t WINDOW w AS (ORDER BY bytes DESC)
	)
	SELECT "group", name FROM u ORDER BY sum(bytes) OVER (PARTITION BY "group") DESC, "group";
SQL
awk -F '\t' '
	!($1 in seen) { seen[$1]; print "BEGIN;" >($1 ".in"); print $1 }
	{
		pipe = "\x27" $1 "." (turn[$1]++ % 2) "\x27"
		print "TRUNCATE ONLY " $2 ";" >($1 ".in")
		print "\\copy " $2 " FROM " pipe " (FORMAT binary, FREEZE)" >($1 ".in")
		print "\\copy " $2 " TO " pipe " (FORMAT binary)" >($1 ".out")
	}
	END { for (g in seen) print "COMMIT;" >(g ".in") }' tables >groups
export -f psql copy
xargs -r -P "$JOBS" -n 1 bash -c 'set -euo pipefail; copy "$0"' <groups

# 3. Indexes, the largest first, also several of one table; then keys are made of them, which takes no time.
step indexes
ask <<-'SQL' >indexes
	WITH x AS (
		SELECT pg_get_indexdef(x.indexrelid) AS definition, pg_relation_size(x.indexrelid) AS bytes
		FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
	), y AS (
		SELECT *, CASE WHEN bytes >= 4000000 THEN 'index-' || row_number() OVER w
			ELSE 'indexes-' || row_number() OVER w % (4 * :jobs) END AS "group"
		FROM x WINDOW w AS (ORDER BY bytes DESC)
	)
	SELECT "group", definition FROM y ORDER BY sum(bytes) OVER (PARTITION BY "group") DESC, "group";
SQL
run() { # the statements of a file, each group in one transaction
	awk -F '\t' '!($1 in seen) { seen[$1]; print $1 } { print $2 ";" >($1 ".sql") }' "$1" >groups
	xargs -r -P "$JOBS" -n 1 bash -c 'psql -1 -d "$TARGET" -f "$0.sql" || exit 255' <groups
}
run indexes
ask <<-'SQL' >keys.sql
	SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s USING INDEX %I;', conrelid::regclass, conname,
		CASE contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, conname)
	FROM pg_constraint WHERE contype IN ('p', 'u') AND conrelid <> 0 AND connamespace::regnamespace::text !~ '^pg_';
SQL
psql -1 -d "$TARGET" -f keys.sql

# 4. Foreign keys: made without a look at the rows, then looked at several at a time.
step foreign keys
ask <<-'SQL' >foreign.sql
	SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s NOT VALID;', conrelid::regclass, conname, pg_get_constraintdef(oid))
	FROM pg_constraint WHERE contype = 'f';
SQL
psql -1 -d "$TARGET" -f foreign.sql
ask <<-'SQL' >foreign
	WITH k AS (
		SELECT format('ALTER TABLE %s VALIDATE CONSTRAINT %I', conrelid::regclass, conname) AS validate, pg_relation_size(conrelid) AS bytes
		FROM pg_constraint WHERE contype = 'f'
	), g AS (
		SELECT *, CASE WHEN bytes >= 4000000 THEN 'key-' || row_number() OVER w
			ELSE 'keys-' || row_number() OVER w % (4 * :jobs) END AS "group"
		FROM k WINDOW w AS (ORDER BY bytes DESC)
	)
	SELECT "group", validate FROM g ORDER BY sum(bytes) OVER (PARTITION BY "group") DESC, "group";
SQL
run foreign

# 5. Statistics; and one commit that waits for the disk, for all those that did not.
step statistics
vacuumdb --analyze-only -q -j "$JOBS" -d "$TARGET"
psql -d "$TARGET" -o /dev/null -c "SET synchronous_commit TO on" -c "SELECT pg_logical_emit_message(true, '', '')"
