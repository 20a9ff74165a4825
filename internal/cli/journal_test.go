package cli_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"pgbaton/internal/fence"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// reasons runs a command that is refused and returns its reasons: why, remedy.
func (m *move) reasons(args ...string) (reasons [][2]string) {
	m.t.Helper()
	for _, r := range m.result(3, args...)["reasons"].([]any) {
		remedy, _ := r.(map[string]any)["remedy"].(string)
		reasons = append(reasons, [2]string{r.(map[string]any)["why"].(string), remedy})
	}
	return reasons
}

// writer is a session that may change what a fence makes read-only.
func writer(t *testing.T, uri string) *postgres.Session {
	t.Helper()
	conn := pgtest.Connect(t, uri)
	mustExec(t, conn, `SET default_transaction_read_only = off`)
	return conn
}

// TestJournalNeeded: what the phases will need of the journals is read before anyone
// waits; each refusal's remedy puts it right.
func TestJournalNeeded(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 15)
	m.loadApp()
	pgtest.Exec(t, m.sourceURI(), `REVOKE CONNECT ON DATABASE app FROM PUBLIC`,
		`CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`,
		`CREATE TRIGGER always AFTER INSERT ON app.filler FOR EACH ROW EXECUTE PROCEDURE app.nothing()`,
		`ALTER TABLE app.filler ENABLE ALWAYS TRIGGER always`)
	m.result(0, "start")
	source, target := pgtest.Connect(t, m.sourceURI()), writer(t, m.targetURI())
	const saved = ` FROM pgbaton.journal WHERE kind = 'fence' AND key = 'saved'`
	for _, damage := range []struct {
		conn postgres.DB
		sql  string
		says string
	}{
		{target, `DELETE` + saved, "what the fence saved is gone"},
		{target, `UPDATE pgbaton.journal SET value = '{}' WHERE kind = 'fence'`, "damaged"},
		{target, `UPDATE pgbaton.journal SET value = jsonb_set(value, '{grants}', '[]') WHERE kind = 'fence'`, "damaged"},
		{target, `UPDATE pgbaton.journal SET value = jsonb_set(value, '{grants}', '[]') - 'sum' WHERE kind = 'fence'`, "lets nobody connect"},
		{target, `UPDATE pgbaton.journal SET value = '"x"' WHERE kind = 'quiet-trigger'`, "damaged"},
		{source, `INSERT INTO pgbaton.journal VALUES ('handover', 'paused', '[1]')`, "damaged"},
		{source, `INSERT INTO pgbaton.journal VALUES ('handover', 'guardian', '[1]')`, "damaged"},
		{source, `INSERT INTO pgbaton.journal VALUES ('handover', 'stream', '[1]')`, "damaged"},
		{target, `INSERT INTO pgbaton.journal VALUES ('handover', 'traffic', '[1]')`, "damaged"},
		{source, `INSERT INTO pgbaton.journal VALUES ('filenode', 'x', '[1]')`, "damaged"},
		{target, `INSERT INTO pgbaton.journal VALUES ('check', 'x', '[1]')`, "damaged"},
		{target, `INSERT INTO pgbaton.journal VALUES ('event-trigger', 'x', '"x"')`, "damaged"},
		{source, `INSERT INTO pgbaton.journal VALUES ('fence', 'saved', '{}')`, "damaged"},
	} {
		mustExec(t, damage.conn, damage.sql)
		if damage.conn == target && strings.Contains(damage.sql, "'fence'") && damage.says != "lets nobody connect" {
			if s := m.result(0, "status"); !strings.Contains(texts(s["findings"]), "the target is closed to applications") {
				t.Errorf("%s: status: %v", damage.sql, s["findings"])
			}
		}
		reasons := m.reasons("switchover", "--yes")
		if len(reasons) != 1 || !strings.Contains(reasons[0][0], damage.says) {
			t.Errorf("%s: %q", damage.sql, reasons)
			continue
		}
		if s := m.result(0, "status"); damage.conn == source || !strings.Contains(damage.sql, "'fence'") { // of a target that is shut, see above
			_, entry, _ := strings.Cut(reasons[0][0], "entry ")
			if notes := s["findings"].([]any); len(notes) != 1 || !strings.HasSuffix(texts(notes), ": entry "+entry) || notes[0].(map[string]any)["remedy"] != reasons[0][1] ||
				s["phase"] != "streaming" || s["lag_seconds"] != 0.0 {
				t.Errorf("%s: status: phase %v, lag %v, findings %v; want %q", damage.sql, s["phase"], s["lag_seconds"], notes, reasons)
			}
		}
		mustExec(t, damage.conn, reasons[0][1])
		m.run(0, "rehearse")
	}
	// What only status reads.
	mustExec(t, target, `UPDATE pgbaton.journal SET value = '[1]' WHERE kind = 'copy' AND key = 'progress'`)
	mustExec(t, source, `INSERT INTO pgbaton.journal VALUES ('handover', 'stale', '[1]')`)
	s := m.result(0, "status")
	if notes := s["findings"].([]any); len(notes) != 2 || s["phase"] != "streaming" {
		t.Errorf("damaged entries that only status reads: %v", s)
	} else {
		for i, conn := range []postgres.DB{target, source} { // in the order in which they are read
			mustExec(t, conn, notes[i].(map[string]any)["remedy"].(string))
		}
	}
	if s := m.result(0, "status"); len(s["findings"].([]any)) != 0 {
		t.Errorf("status: %v", s["findings"])
	}
	// What is not known of a slot can be put right by nothing in the journal.
	mustExec(t, source, `INSERT INTO pgbaton.journal (kind, key, value) SELECT 'slot', slot_name, '[1]' FROM pg_replication_slots
		ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value`)
	if s := m.result(0, "status"); !strings.Contains(texts(s["findings"]), "is suspect") {
		t.Errorf("a damaged slot entry: status: %v", s["findings"])
	}
	if reasons := m.reasons("resume"); !strings.Contains(reasons[0][0], "damaged") {
		t.Errorf("a damaged slot entry: resume: %q", reasons)
	}
	if reasons := m.reasons("switchover", "--yes"); len(reasons) != 1 || !strings.Contains(reasons[0][0], "damaged") || !strings.Contains(reasons[0][1], "pgbaton reset") {
		t.Errorf("a damaged slot entry: %q", reasons)
	}
	mustExec(t, source, `DELETE FROM pgbaton.journal WHERE kind = 'slot'`)

	// Lost inside the pause: the process knows what it has read.
	gate := fifo(t)
	p := pgtest.Spawn(t, m.options("switchover", "--yes", "--json", "--on-pause", "echo paused; read _ <"+gate))
	p.AwaitStderr(t, "paused")
	mustExec(t, target, `DELETE`+saved)
	open(t, gate)
	if r := p.Wait(t); r.Code != 0 {
		t.Fatalf("%s", r)
	}
	if sides := m.writable(t.Context()); !slices.Equal(sides, []string{"target"}) {
		t.Fatalf("writable: %v", sides)
	}

	// Closed, and nobody knows how it was open: the command says how it is opened.
	for _, sql := range []string{`REVOKE ALL ON DATABASE app FROM app, PUBLIC`, `ALTER DATABASE app SET default_transaction_read_only = on`} {
		mustExec(t, target, sql)
	}
	r := m.result(6, "switchover", "--yes")
	pgtest.Exec(t, m.targetURI(), byHand(t, r["hint"].(string)))
	m.run(0, "switchover", "--yes")
	if sides := m.writable(t.Context()); !slices.Equal(sides, []string{"target"}) {
		t.Fatalf("opened by hand: %v", sides)
	}
}

// byHand takes from a remedy the transaction that is to be run.
func byHand(t *testing.T, remedy string) string {
	t.Helper()
	_, statements, ok := strings.Cut(remedy, ": BEGIN READ WRITE; ")
	statements, _, found := strings.Cut(statements, "; COMMIT")
	if !ok || !found {
		t.Fatalf("no statements in %q", remedy)
	}
	return "BEGIN READ WRITE; " + statements + "; COMMIT"
}

// TestClosedHolder: a handover has died behind the fence, and what the fence saved is
// damaged or lost since. Traffic is not let go to a side that is shut, nothing takes
// its grants of now for those to come back, and every command says how it is opened.
func TestClosedHolder(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 15)
	m.loadApp()
	pgtest.Exec(t, m.sourceURI(), `REVOKE CONNECT ON DATABASE app FROM PUBLIC`)
	m.result(0, "start")
	source := writer(t, m.sourceURI())
	const saved = ` FROM pgbaton.journal WHERE kind = 'fence' AND key = 'saved'`
	for _, damage := range []string{`UPDATE pgbaton.journal SET value = '{}' WHERE kind = 'fence'`, `DELETE` + saved} {
		if _, err := fence.Raise(t.Context(), source, m.db, []string{"postgres"}, nil); err != nil {
			t.Fatal(err)
		}
		mustExec(t, source, `INSERT INTO pgbaton.journal VALUES ('handover', 'paused', '{"attempt": 1}') ON CONFLICT DO NOTHING`)
		mustExec(t, source, damage)
		if sides := m.writable(t.Context()); len(sides) != 0 {
			t.Fatalf("writable: %v", sides)
		}
		remedies := map[string]string{}
		for range 2 { // the second finds what the first has left
			for _, command := range [][]string{{"rehearse"}, {"switchover", "--yes"}} {
				reasons := m.reasons(command...)
				if len(reasons) != 1 || !strings.Contains(reasons[0][0], "the source is closed to applications") {
					t.Fatalf("%s after %s: %q", command[0], damage, reasons)
				}
				remedies[command[0]] = reasons[0][1]
			}
		}
		if n := pgtest.QueryValue[int](t, source, `SELECT count(*)::int FROM pgbaton.journal WHERE key = 'paused'`); n != 1 {
			t.Fatal("traffic was let go")
		}
		s := m.result(0, "status")
		for _, f := range s["findings"].([]any) {
			if f := f.(map[string]any); strings.Contains(f["text"].(string), "the source is closed") {
				remedies["status"] = f["remedy"].(string)
			}
		}
		if remedies["status"] == "" || remedies["status"] != remedies["rehearse"] || remedies["status"] != remedies["switchover"] {
			t.Errorf("status: %v, remedies %q", s["findings"], remedies)
		}
		pgtest.Exec(t, m.sourceURI(), byHand(t, remedies["switchover"]))
		if sides := m.writable(t.Context()); !slices.Equal(sides, []string{"source"}) {
			t.Fatalf("opened by hand: writable: %v", sides)
		}
	}
	m.run(0, "switchover", "--yes")
	if sides := m.writable(t.Context()); !slices.Equal(sides, []string{"target"}) {
		t.Fatalf("writable: %v", sides)
	}
	m.run(0, "rollback", "--yes")
	if sides := m.writable(t.Context()); !slices.Equal(sides, []string{"source"}) {
		t.Fatalf("writable: %v", sides)
	}
}

// TestJournalLost: a journal that somebody has emptied is told by status, and by finish,
// which cleans all the same.
func TestJournalLost(t *testing.T) {
	t.Parallel()
	m := newMove(t, 13, 15)
	m.loadApp()
	pgtest.Exec(t, m.sourceURI(), `CREATE TABLE app.keyless (a int)`)
	m.result(0, "start")
	m.run(0, "switchover", "--yes")
	for _, loss := range []string{`DELETE FROM pgbaton.journal`, `DROP TABLE pgbaton.journal`, `DROP TABLE pgbaton.migration`, `DROP SCHEMA pgbaton CASCADE`} {
		t.Run(loss, func(t *testing.T) {
			m.t = t
			source := writer(t, m.sourceURI())
			mustExec(t, source, loss)
			s := m.result(0, "status")
			if loss != `DROP SCHEMA pgbaton CASCADE` && !strings.Contains(texts(s["findings"]), "source: the journal of pgbaton is gone") {
				t.Errorf("status: %v", s["findings"])
			}
			if t.Failed() || loss == `DELETE FROM pgbaton.journal` {
				if reasons := m.reasons("rollback", "--yes"); !strings.Contains(reasons[0][0], "source: the journal of pgbaton is gone") {
					t.Errorf("rollback: %q", reasons)
				}
			}
			source.Close(t.Context())
		})
	}
	m.t = t
	r := m.result(0, "finish", "--yes")
	for _, text := range []string{"source: the journal of pgbaton is gone", `"app"."keyless"`, "source: the database is closed"} {
		if !strings.Contains(texts(r["left"]), text) {
			t.Errorf("finish does not say %q: %v", text, r["left"])
		}
	}
	for _, uri := range []string{m.sourceURI(), m.targetURI()} {
		conn := pgtest.Connect(t, uri)
		if n := pgtest.QueryValue[int](t, conn, `SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgbaton')::int
			+ (SELECT count(*) FROM pg_publication)::int + (SELECT count(*) FROM pg_subscription)::int
			+ (SELECT count(*) FROM pg_replication_slots)::int`); n != 0 {
			t.Errorf("%d things of ours are left", n)
		}
	}
	identity := remedyOf(t, r["left"], `"app"."keyless"`) // it was not FULL before
	identity, _, _ = strings.Cut(strings.TrimPrefix(identity, "for those that were not FULL before: "), "; and ")
	pgtest.Exec(t, m.sourceURI(), `SET default_transaction_read_only = off`, identity)
	if is := pgtest.QueryValue[string](t, pgtest.Connect(t, m.sourceURI()), `SELECT relreplident::text FROM pg_class WHERE oid = 'app.keyless'::regclass`); is != "d" {
		t.Errorf("after %q the replica identity is %q", identity, is)
	}
	for _, l := range r["left"].([]any) { // as it stands, but for the advice in brackets
		remedy := l.(map[string]any)["remedy"].(string)
		if sql, _, ok := strings.Cut(remedy, " (PostgreSQL's"); ok {
			pgtest.Exec(t, m.sourceURI(), sql)
		}
	}
	if sides := m.writable(context.WithoutCancel(t.Context())); len(sides) != 2 {
		t.Errorf("writable after the source was opened by hand: %v", sides)
	}
}

// remedyOf is the remedy of the note that says a text.
func remedyOf(t *testing.T, notes any, text string) string {
	t.Helper()
	for _, n := range notes.([]any) {
		if n := n.(map[string]any); strings.Contains(n["text"].(string), text) {
			return n["remedy"].(string)
		}
	}
	t.Fatalf("no note says %q: %v", text, notes)
	return ""
}

// hintBelow is the hint below the first line of an output that says a text.
func hintBelow(t *testing.T, output, text string) string {
	t.Helper()
	_, rest, _ := strings.Cut(output, text)
	for line := range strings.Lines(rest) { // a server's own hint begins none
		if hint, found := strings.CutPrefix(strings.TrimSpace(line), "hint: "); found {
			return hint
		}
	}
	t.Fatalf("no hint below %q in\n%s", text, output)
	return ""
}

// texts joins the texts of notes.
func texts(notes any) string {
	var all []string
	for _, n := range notes.([]any) {
		all = append(all, n.(map[string]any)["text"].(string))
	}
	return strings.Join(all, "\n")
}
