package cli_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgbaton/internal/pgtest"
)

// leaves runs finish or reset, and wants a note of what is left, with its remedy.
func (m *move) leaves(text, remedy string, command ...string) {
	m.t.Helper()
	notes := m.result(0, command...)["left"].([]any)
	if !slices.ContainsFunc(notes, func(n any) bool {
		note := n.(map[string]any)
		return strings.Contains(note["text"].(string), text) && strings.Contains(note["remedy"].(string), remedy)
	}) {
		m.t.Errorf("%q: want %q and %q in %v", command, text, remedy, notes)
	}
}

// TestWrongTurns: commands that are given the wrong names, or that come when they
// cannot help, and what is left at the end, each with what mends it.
func TestWrongTurns(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 17)
	m.load(`CREATE TABLE t (i int PRIMARY KEY)`)
	pgtest.Exec(t, m.source.ConnString("postgres"), `CREATE ROLE "It's"`)
	pgtest.Exec(t, m.target.ConnString("postgres"), `CREATE DATABASE app`)
	m.run(0, "start", "--migration", "The shop's", "--roles")

	// Under another name, and the other way round.
	m.refusedUntil(map[string]string{`belongs to migration "The shop's"`: `name it with --migration 'The shop'\''s', or reset it first`},
		func() { m.env = append(m.options().Env, "PGBATON_MIGRATION=The shop's") }, "resume")
	right := m.env
	m.env = []string{"PGBATON_SOURCE=" + m.targetURI(), "PGBATON_TARGET=" + m.sourceURI(), "PGBATON_MIGRATION=The shop's"}
	m.refusedUntil(map[string]string{"the database given as source is the target of migration": "exchange --source and --target"}, func() { m.env = right }, "resume")
	m.env = []string{"PGBATON_SOURCE=" + m.sourceURI(), "PGBATON_TARGET=" + m.sourceURI(), "PGBATON_MIGRATION=The shop's"}
	m.refusedUntil(map[string]string{"source and target are the same database": "check --source and --target"}, func() { m.env = right }, "resume")

	// What reset leaves.
	pgtest.Exec(t, m.target.ConnString("postgres"), `CREATE TABLE depends (i int)`, `ALTER TABLE depends OWNER TO "It's"`)
	m.leaves(`role "It's"`, `DROP ROLE IF EXISTS "It's", when nothing depends on it`, "reset", "--yes")
	pgtest.Exec(t, m.target.ConnString("postgres"), `DROP TABLE depends`, `DROP ROLE IF EXISTS "It's"`)
	m.run(0, "start")
	m.leaves("was not made by pgbaton: it was emptied, not dropped", "DROP DATABASE by hand if it is not needed", "reset", "--yes", "--drop-database")
	pgtest.Exec(t, m.target.ConnString("postgres"), `DROP DATABASE app`)
	m.run(0, "start")

	// A holder that is not lost, and one that is not the holder any more.
	m.run(3, "rollback", "--yes")
	if r := m.run(3, "switchover", "--holder-lost"); !strings.Contains(r.Stderr, "the source answers: it is not lost") || !strings.Contains(r.Stderr, "pgbaton switchover without --holder-lost loses nothing") {
		t.Errorf("%s", r)
	}
	m.run(0, "switchover", "--yes")
	if err := m.source.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := m.run(3, "switchover", "--holder-lost"); !strings.Contains(r.Stderr, "the target has the baton already") || !strings.Contains(r.Stderr, "pgbaton status; pgbaton finish, run again when the other side is back, cleans it") {
		t.Errorf("%s", r)
	}
	if s := fmt.Sprint(m.result(0, "status")["findings"]); !strings.Contains(s, "make both servers reachable and look again") {
		t.Errorf("%s", s)
	}
	m.leaves("the source could not be reached", "if it comes back, pgbaton finish again cleans it: it stays fenced until then", "finish", "--yes")
	if err := m.source.Restart(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if r := m.result(0, "finish", "--yes", "--unfence"); len(r["left"].([]any)) > 0 {
		t.Errorf("%v", r)
	}
	if s := m.result(0, "status"); len(s["findings"].([]any)) > 0 {
		t.Errorf("%v", s)
	}
}
