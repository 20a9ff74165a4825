package cli_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// absentStandby names a standby that is to have everything first, and is not there: nothing
// flows, until that is taken back as status says.
func (m *move) absentStandby() {
	t := m.t
	pgtest.Exec(t, m.source.ConnString("postgres"), `SELECT pg_create_physical_replication_slot('absent', true)`)
	if err := m.source.Reload(t.Context(), map[string]string{"synchronized_standby_slots": cluster.StandbySlot + ",absent"}); err != nil {
		t.Fatal(err)
	}
	const says = "and none reads slot absent"
	var findings any
	pgtest.Until(t, time.Minute, "status says that a standby is absent", func() bool {
		findings = m.result(0, "status")["findings"]
		return strings.Contains(texts(findings), says)
	})
	_, sql, found := strings.Cut(remedyOf(t, findings, says), "connect the standby; or on the source: ")
	for _, one := range strings.Split(sql, "; ") {
		pgtest.Exec(t, m.source.ConnString("postgres"), one)
	}
	pgtest.Until(t, time.Minute, "the stream goes on", func() bool {
		s := m.result(0, "status")
		return s["phase"] == "streaming" && len(s["findings"].([]any)) == 0
	})
	if !found {
		t.Error(sql)
	}
	// As before: the standby that is there is waited for.
	pgtest.Exec(t, m.source.ConnString("postgres"), `ALTER SYSTEM RESET synchronized_standby_slots`, `SELECT pg_drop_replication_slot('absent')`)
	if err := m.source.Reload(t.Context(), map[string]string{"synchronized_standby_slots": cluster.StandbySlot}); err != nil {
		t.Fatal(err)
	}
}

// TestPromotedStandby: the source's server is lost while it streams, its standby is
// promoted, and the migration goes on there: the slot is carried over.
func TestPromotedStandby(t *testing.T) {
	t.Parallel()
	syncs := map[string]string{"sync_replication_slots": "on", "hot_standby_feedback": "on", "wal_retrieve_retry_interval": "100ms"}
	m := &move{t: t, source: pgtest.Start(t, 17, syncs), target: pgtest.Start(t, 18, syncs), db: "app"}
	m.loadApp()
	pgtest.Exec(t, m.source.ConnString("postgres"), `SELECT pg_create_physical_replication_slot('`+cluster.StandbySlot+`', true)`)
	if err := m.source.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	standby := pgtest.StartOptions(t, cluster.Options{Major: 17, Settings: syncs, StandbyOf: m.source})
	if err := m.source.Restart(t.Context(), map[string]string{"synchronized_standby_slots": cluster.StandbySlot}); err != nil {
		t.Fatal(err)
	}
	m.env = []string{
		fmt.Sprintf("PGBATON_SOURCE=host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres dbname=app target_session_attrs=read-write", m.source.Port(), standby.Port()),
		"PGBATON_TARGET=" + m.targetURI(),
	}
	w := pgtest.StartWriters(t.Context(), t, m.source.ConnStringAs("app", "", m.db), 2, pgtest.WritersOptions{Rate: 50})
	m.run(0, "start")
	if r := m.run(0, "status"); !strings.Contains(r.Stdout, "standbys can carry it on") || strings.Contains(r.Stdout, "attention") {
		t.Errorf("before the loss:\n%s", r.Stdout)
	}
	m.absentStandby()
	// A new session each time: the standby's postmaster, which starts the slot sync
	// worker that did not find its primary again, looks no sooner than something happens.
	pgtest.Until(t, 2*time.Minute, "the standby has the slot", func() bool {
		conn, err := pgx.Connect(t.Context(), standby.ConnString("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		return pgtest.QueryValue[bool](t, conn, `SELECT EXISTS (SELECT FROM pg_replication_slots WHERE synced AND NOT temporary AND slot_name LIKE 'pgbaton\_%')`)
	})
	if err := w.Await(t.Context(), 20); err != nil {
		t.Fatal(err)
	}
	// What is acknowledged and not on the standby is lost with the server: that is
	// a matter of synchronous_standby_names, not ours.
	w.Stop()
	at := pgtest.QueryValue[string](t, pgtest.Connect(t, m.source.ConnString("postgres")), `SELECT pg_current_wal_flush_lsn()::text`)
	pgtest.UntilTrue(t, standby.ConnString("postgres"), time.Minute, "the standby has everything", `SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn`, at)

	if err := m.source.Kill(); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, standby.ConnString("postgres"), `SELECT pg_promote()`)
	m.source = standby
	more := pgtest.StartWriters(t.Context(), t, m.source.ConnStringAs("app", "", m.db), 2, pgtest.WritersOptions{Rate: 50, First: 10})
	var s map[string]any
	pgtest.Until(t, time.Minute, "the stream goes on", func() bool {
		s = m.result(0, "status")
		return s["phase"] == "streaming"
	})
	if text := fmt.Sprint(s["findings"]); !strings.Contains(text, "is a standby that was promoted") {
		t.Errorf("status does not say that the server is another one: %v", s)
	}
	if err := more.Await(t.Context(), 20); err != nil {
		t.Fatal(err)
	}
	more.Stop()
	m.run(0, "switchover", "--yes")
	m.same()
	for _, each := range []*pgtest.Writers{w, more} {
		if problems := each.Check(t.Context(), pgtest.Connect(t, m.targetURI())); len(problems) > 0 {
			t.Fatalf("writes:\n%s", strings.Join(problems, "\n"))
		}
	}
	s = m.result(0, "status")
	if slots := s["slots"].([]any); len(slots) != 1 || slots[0].(map[string]any)["failover"] != true {
		t.Errorf("the way back's slot: %v", slots)
	}
	m.run(0, "rollback", "--yes")
	m.same()
}
