package replication_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"pgbaton/internal/journal"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
)

// stream is a slot on a publisher and a subscriber that this test plays: it gets the
// markers that it is given.
type stream struct {
	t                     *testing.T
	publisher, subscriber *postgres.Session
	v                     postgres.Version
	group                 replication.Group
}

func (s *stream) exec(conn *postgres.Session, sql string, args ...any) {
	s.t.Helper()
	if _, err := conn.Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// deliver brings the subscriber all markers but those of the tokens left out.
func (s *stream) deliver(leftOut ...string) {
	s.t.Helper()
	rows, err := s.publisher.Query(s.t.Context(), fmt.Sprintf("SELECT token FROM %s WHERE token <> ALL ($1)", s.group.MarkerTable()), append([]string{}, leftOut...))
	if err != nil {
		s.t.Fatal(err)
	}
	tokens, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		s.t.Fatal(err)
	}
	s.exec(s.subscriber, fmt.Sprintf("INSERT INTO %s SELECT t, 'heartbeat', now() FROM unnest($1::text[]) t ON CONFLICT DO NOTHING", s.group.MarkerTable()), tokens)
}

func (s *stream) make() {
	s.t.Helper()
	point, err := replication.CreateSlotHere(s.t.Context(), s.publisher, s.group.Name())
	if err == nil {
		err = replication.LeaveNewSlot(s.t.Context(), s.publisher, s.group, point)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stream) advance() {
	s.exec(s.publisher, fmt.Sprintf("INSERT INTO %s VALUES (%s, 'x', now())", s.group.MarkerTable(), "md5(random()::text)"))
	s.exec(s.publisher, `SELECT pg_replication_slot_advance($1, pg_current_wal_insert_lsn())`, s.group.Name())
}

func (s *stream) leave() {
	s.t.Helper()
	if err := replication.LeaveSlot(s.t.Context(), s.publisher, s.group); err != nil {
		s.t.Fatal(err)
	}
}

// gap wants a gap of which is said what; "" for none.
func (s *stream) gap(says string) {
	s.t.Helper()
	got, err := replication.Gap(s.t.Context(), s.publisher, s.subscriber, s.group)
	if err != nil || says == "" && got != "" || !strings.Contains(got, says) {
		s.t.Errorf("gap %q, %v, want %q", got, err, says)
	}
}

// trip sends a marker, delivers all but those left out, and wants a gap or none.
func (s *stream) trip(gap bool, leftOut ...string) *replication.Trip {
	s.t.Helper()
	t, err := replication.SendMarker(s.t.Context(), s.publisher, s.group)
	if err != nil {
		s.t.Fatal(err)
	}
	s.deliver(leftOut...)
	seen, got, err := t.Arrived(s.t.Context(), s.publisher, s.subscriber, time.Second)
	if err != nil || !seen || (got != "") != gap {
		s.t.Errorf("seen %t, gap %q, %v, want a gap: %t", seen, got, err, gap)
	}
	return t
}

// TestContinuity: which states of slot and markers are a gap, and which are none.
func TestContinuity(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 12)
	admin := pgtest.Connect(t, c.ConnString("postgres"))
	const moved = "changes may be missing on the target: slot "
	for number, test := range []struct {
		name string
		play func(*stream)
	}{
		{"a slot that nobody knows", func(s *stream) { s.exec(s.publisher, `DELETE FROM pgbaton.journal`); s.advance(); s.gap("") }},
		{"a new slot", func(s *stream) { s.gap(""); s.gap("") }},
		{"moved", func(s *stream) { s.advance(); s.gap(moved); s.gap(moved) }},
		{"moved, and found out only once", func(s *stream) { s.advance(); s.gap(moved); s.deliver(); s.gap(moved); s.trip(true) }},
		{"its subscription is gone", func(s *stream) {
			s.exec(s.publisher, `UPDATE pgbaton.journal SET value = value || '{"subscription": 1}' WHERE kind = 'slot'`)
			const twice = "changes would be applied twice on the target: somebody dropped subscription"
			s.gap(twice)
			s.leave()
			s.gap(twice)
		}},
		{"left twice, moved in between", func(s *stream) { s.advance(); s.leave(); s.gap(moved) }},
		{"read by our own worker, and left again", func(s *stream) {
			s.trip(false)
			s.advance()
			s.gap("")
			s.leave()
			s.gap("")
			s.advance()
			s.gap(moved)
		}},
		{"let on by somebody, and stopped again", func(s *stream) {
			s.deliver()
			s.advance()
			s.gap("")
			s.leave()
			s.advance()
			s.gap(moved)
		}},
		{"made again", func(s *stream) {
			s.exec(s.publisher, `SELECT pg_drop_replication_slot($1)`, s.group.Name())
			s.exec(s.publisher, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, s.group.Name())
			s.gap(moved)
		}},
		{"made again by us", func(s *stream) {
			s.trip(false)
			s.exec(s.publisher, `SELECT pg_drop_replication_slot($1)`, s.group.Name())
			s.make()
			s.gap("")
			s.trip(false)
		}},
		{"gone", func(s *stream) { s.exec(s.publisher, `SELECT pg_drop_replication_slot($1)`, s.group.Name()); s.gap("") }},
		{"on another timeline", func(s *stream) {
			s.exec(s.publisher, `UPDATE pgbaton.journal SET value = value || '{"timeline": "00000009"}' WHERE kind = 'slot'`)
			s.gap("was promoted, or restored")
		}},
		{"a marker that did not arrive", func(s *stream) {
			one, err := replication.SendMarker(s.t.Context(), s.publisher, s.group)
			if err != nil {
				s.t.Fatal(err)
			}
			s.trip(true, one.Token)
			s.gap("never arrived")
		}},
		{"a marker that is still under way", func(s *stream) {
			one := s.trip(false)
			two, err := replication.SendMarker(s.t.Context(), s.publisher, s.group)
			if err != nil {
				s.t.Fatal(err)
			}
			if seen, gap, err := two.Arrived(s.t.Context(), s.publisher, s.subscriber, 0); seen || gap != "" || err != nil {
				s.t.Errorf("seen %t, gap %q, %v", seen, gap, err)
			}
			s.deliver(one.Token)
			s.trip(false)
		}},
		{"markers removed by another status meanwhile", func(s *stream) {
			one, err := replication.SendMarker(s.t.Context(), s.publisher, s.group)
			if err != nil {
				s.t.Fatal(err)
			}
			two := s.trip(false) // it removes what came before it
			s.exec(s.subscriber, fmt.Sprintf("DELETE FROM %s WHERE token <> $1", s.group.MarkerTable()), two.Token)
			s.exec(s.subscriber, fmt.Sprintf("INSERT INTO %s VALUES ($1, 'heartbeat', now()) ON CONFLICT DO NOTHING", s.group.MarkerTable()), one.Token)
			if seen, gap, err := one.Arrived(s.t.Context(), s.publisher, s.subscriber, time.Second); !seen || gap != "" || err != nil {
				s.t.Errorf("seen %t, gap %q, %v", seen, gap, err)
			}
		}},
		{"its publication changed", func(s *stream) {
			s.trip(false)
			name, table := s.group.Name(), s.group.MarkerTable()
			s.exec(s.publisher, replication.SetTablesSQL(name, []postgres.Ident{table}))
			s.gap("") // nothing has changed
			s.exec(s.publisher, `CREATE TABLE t (i int PRIMARY KEY)`)
			s.exec(s.publisher, replication.SetTablesSQL(name, []postgres.Ident{table, {Schema: "public", Name: "t"}}))
			if err := replication.RememberPublished(s.t.Context(), s.publisher, s.group); err != nil {
				s.t.Fatal(err)
			}
			s.gap("") // it was us
			s.exec(s.publisher, fmt.Sprintf(`ALTER PUBLICATION %s DROP TABLE t`, name))
			s.gap("") // not in there: that is for whoever compares the tables
			s.exec(s.publisher, fmt.Sprintf(`ALTER PUBLICATION %s ADD TABLE ONLY t`, name))
			s.gap("somebody changed publication")
		}},
		{"a published table dropped", func(s *stream) {
			table := s.group.MarkerTable()
			s.exec(s.publisher, `CREATE TABLE t (i int PRIMARY KEY)`)
			s.exec(s.publisher, replication.SetTablesSQL(s.group.Name(), []postgres.Ident{table, {Schema: "public", Name: "t"}}))
			if err := replication.RememberPublished(s.t.Context(), s.publisher, s.group); err != nil {
				s.t.Fatal(err)
			}
			s.exec(s.publisher, `DROP TABLE t`)
			s.gap("")
		}},
		{"a marker alone", func(s *stream) {
			s.trip(false)
			for range 2 {
				if err := replication.LeaveMarker(s.t.Context(), s.publisher, s.group); err != nil {
					s.t.Fatal(err)
				}
			}
			if n := pgtest.QueryValue[int](s.t, s.publisher, fmt.Sprintf(`SELECT count(*)::int FROM %s`, s.group.MarkerTable())); n != 2 {
				s.t.Errorf("%d markers, want the one that arrived and one", n)
			}
			s.advance()
			s.gap("") // it may have been our own worker
			s.trip(true, pgtest.QueryValue[string](s.t, s.publisher, `SELECT value ->> 'marker' FROM pgbaton.journal WHERE kind = 'slot'`))
		}},
		{"its publication without updates for a while", func(s *stream) {
			s.exec(s.publisher, fmt.Sprintf(`ALTER PUBLICATION %s SET (publish = 'insert')`, s.group.Name()))
			s.gap("somebody changed publication")
		}},
		{"read by somebody else", func(s *stream) {
			s.exec(s.publisher, `UPDATE pgbaton.journal SET at = now() - interval '1 hour' WHERE kind = 'slot'`)
			server, err := postgres.NewServer(postgres.Source, c.ConnString(s.publisher.Config().Database))
			if err != nil {
				s.t.Fatal(err)
			}
			reader, err := server.ConnectReplication(s.t.Context())
			if err != nil {
				s.t.Fatal(err)
			}
			defer reader.Close(s.t.Context())
			reader.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf(`START_REPLICATION SLOT %[1]s LOGICAL 0/0 (proto_version '1', publication_names '%[1]s')`, s.group.Name())})
			if err := reader.Frontend().Flush(); err != nil {
				s.t.Fatal(err)
			}
			pgtest.UntilTrue(s.t, c.ConnString("postgres"), time.Minute, "it reads", `SELECT active FROM pg_replication_slots WHERE slot_name = $1`, s.group.Name())
			s.gap("is read by somebody else")
		}},
	} {
		s := &stream{t: t, v: 120000, group: replication.Group{Label: fmt.Sprintf("t%d", number), Direction: replication.Forward, Number: 1}}
		t.Run(test.name, func(t *testing.T) {
			s.t = t
			for i, into := range []**postgres.Session{&s.publisher, &s.subscriber} {
				db := fmt.Sprintf("db_%d_%d", number, i)
				s.exec(admin, "CREATE DATABASE "+db)
				*into = pgtest.Connect(t, c.ConnString(db))
				s.exec(*into, journal.SchemaSQL())
				s.exec(*into, replication.MarkerTableSQL(s.group.MarkerTable()))
			}
			s.exec(s.publisher, replication.PublicationSQL(s.group.Name(), []postgres.Ident{s.group.MarkerTable()}, true))
			s.make()
			test.play(s)
		})
	}
}
