package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/cluster"
	"pgbaton/internal/event"
	"pgbaton/internal/journal"
	"pgbaton/internal/migrate"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
)

// ground is two databases of one cluster, between which a migration was begun.
type ground struct {
	t      *testing.T
	config migrate.Config
	uris   map[postgres.Side]string
}

// at is the server of a side, as it was given.
func (g *ground) at(side postgres.Side) **postgres.Server {
	if side == postgres.Source {
		return &g.config.Source
	}
	return &g.config.Target
}

// give gives a side's connection string.
func (g *ground) give(side postgres.Side, uri string) {
	g.t.Helper()
	server, err := postgres.NewServer(side, uri)
	if err != nil {
		g.t.Fatal(err)
	}
	*g.at(side) = server
	g.config.SourceFromTarget, g.config.TargetFromSource = g.config.Source.ReachBy(nil), g.config.Target.ReachBy(nil)
}

func newGround(t *testing.T, c *cluster.Cluster, name string) *ground {
	t.Helper()
	g := &ground{t: t, config: migrate.Config{Input: preflight.Input{Name: "m", Method: migrate.Stream}, Observe: func(event.Event) {}}, uris: map[postgres.Side]string{}}
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		db := name + "_" + string(side)
		pgtest.Exec(t, c.ConnString("postgres"), `CREATE DATABASE `+db)
		g.uris[side] = c.ConnString(db)
		g.give(side, g.uris[side])
	}
	return g
}

// record makes the record of a side; "" is one from before there were ids in names.
func (g *ground) record(side postgres.Side, id string) {
	g.t.Helper()
	ctx := g.t.Context()
	r := journal.Record{Name: "m", ID: id, Side: side, Method: string(migrate.Stream)}
	if id != "" {
		r.Ends = &journal.Ends{Label: journal.Label("m", id)}
		for side, into := range map[postgres.Side]*journal.Database{postgres.Source: &r.Ends.Source, postgres.Target: &r.Ends.Target} {
			conn := pgtest.Connect(g.t, g.uris[side])
			var err error
			if *into, err = journal.ReadDatabase(ctx, conn, *g.at(side)); err != nil {
				g.t.Fatal(err)
			}
			conn.Close(ctx)
		}
	}
	conn := pgtest.Connect(g.t, g.uris[side])
	defer conn.Close(ctx)
	err := journal.Create(ctx, conn, r, func(tx pgx.Tx) error {
		return journal.One[catalog.Selection](journal.Selection).Put(ctx, tx, catalog.Selection{})
	})
	if err == nil {
		group := replication.Group{Label: r.Label(), Direction: replication.Forward, Number: 1}
		_, err = conn.Exec(ctx, replication.MarkerTableSQL(group.MarkerTable()))
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// publishes makes what a run has on the source, subscribes what it has on the target.
func (g *ground) publishes(name string) {
	pgtest.Exec(g.t, g.uris[postgres.Source], `CREATE PUBLICATION `+name, `SELECT pg_create_logical_replication_slot('`+name+`', 'pgoutput')`)
}

func (g *ground) subscribes(name string) {
	pgtest.Exec(g.t, g.uris[postgres.Target], `SET client_min_messages = error`,
		`CREATE SUBSCRIPTION `+name+` CONNECTION 'dbname=nothing' PUBLICATION `+name+` WITH (connect = false, slot_name = '`+name+`')`)
}

// status and reset are the commands.
func (g *ground) status() (s *migrate.Status, err error) {
	err = migrate.Enter(g.t.Context(), g.config, migrate.Looks, func(ctx context.Context, m *migrate.Migration) (err error) {
		s, err = m.Status(ctx)
		return err
	})
	return s, err
}

func (g *ground) reset() (r migrate.CleanResult, err error) {
	err = migrate.Enter(g.t.Context(), g.config, migrate.Operates, func(ctx context.Context, m *migrate.Migration) (err error) {
		r, err = m.Reset(ctx, false)
		return err
	})
	return r, err
}

// cleaned requires that reset leaves nothing to say, and nothing of ours on the sides.
func (g *ground) cleaned(sides ...postgres.Side) {
	g.t.Helper()
	r, err := g.reset()
	if err != nil || len(r.Left) > 0 {
		g.t.Errorf("reset: %v, left %v", err, r.Left)
	}
	g.nothing(sides...)
}

func (g *ground) nothing(sides ...postgres.Side) {
	g.t.Helper()
	for _, side := range sides {
		if n := g.things(side); n != 0 {
			g.t.Errorf("%d things of ours are left on the %s", n, side)
		}
	}
}

func (g *ground) things(side postgres.Side) int {
	g.t.Helper()
	conn := pgtest.Connect(g.t, g.uris[side])
	defer conn.Close(g.t.Context())
	return pgtest.QueryValue[int](g.t, conn, `SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgbaton')::int + (SELECT count(*) FROM pg_publication)::int
		+ (SELECT count(*) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database())::int
		+ (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())::int`)
}

// refused requires a refusal that says why, and returns its remedy.
func refused(t *testing.T, err error, why string) (remedy string) {
	t.Helper()
	r := (*refusal.Refusal)(nil)
	if !errors.As(err, &r) || !strings.Contains(r.Reasons[0].Why, why) {
		t.Fatalf("want a refusal that says %q: %v", why, err)
	}
	return r.Reasons[0].Remedy
}

// nowhere is a server that is out of reach.
const nowhere = "postgresql://postgres@127.0.0.1:1/gone"

// TestResetOfRemains: what is left of migrations that were interrupted by hand is
// refused by the other commands, and removed by reset as they say.
func TestResetOfRemains(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 17)
	t.Run("two runs", func(t *testing.T) {
		g := newGround(t, c, "runs")
		g.record(postgres.Source, "11111111a")
		g.record(postgres.Target, "22222222b")
		g.publishes("pgbaton_m_11111111_forward_1")
		g.publishes("pgbaton_m_22222222_forward_1")
		g.subscribes("pgbaton_m_22222222_forward_1")
		const why = "source and target belong to different runs of migration m"
		_, err := g.status()
		if remedy := refused(t, err, why); !strings.Contains(remedy, "pgbaton reset removes what both runs have left") {
			t.Error(remedy)
		}
		for _, passed := range []struct{ change, back, why, remedy string }{
			{`UPDATE pgbaton.migration SET generation = 1, took = true`, `UPDATE pgbaton.migration SET generation = 0, took = false`, why, "check --source and --target"},
			{`INSERT INTO pgbaton.journal VALUES ('handover', 'drained', '{}')`, `DELETE FROM pgbaton.journal WHERE key = 'drained'`, "the target may be the only current copy", "check --source; if"},
		} {
			pgtest.Exec(t, g.uris[postgres.Target], passed.change)
			_, err := g.reset()
			if remedy := refused(t, err, passed.why); !strings.HasPrefix(remedy, passed.remedy) || strings.Contains(remedy, "pgbaton reset") {
				t.Error(remedy)
			}
			pgtest.Exec(t, g.uris[postgres.Target], passed.back)
		}
		g.cleaned(postgres.Source, postgres.Target)
		if s, err := g.status(); err != nil || s.Phase != migrate.PhaseNew || len(s.Findings) > 0 {
			t.Errorf("%v: %+v", err, s)
		}
	})
	t.Run("a handover that got as far as the pass", func(t *testing.T) {
		g := newGround(t, c, "drained")
		g.record(postgres.Target, "55555555e")
		g.subscribes("pgbaton_m_55555555_forward_1")
		pgtest.Exec(t, g.uris[postgres.Target], `INSERT INTO pgbaton.journal VALUES ('handover', 'drained', '{}')`)
		const only = "the target may be the only current copy"
		_, err := g.reset()
		if remedy := refused(t, err, only); remedy != "check --source; if the target is really not needed, drop its subscriptions and the database by hand" {
			t.Error(remedy)
		}
		g.record(postgres.Source, "55555555e") // as where the source was a copy from before
		pgtest.Exec(t, g.uris[postgres.Source], `UPDATE pgbaton.migration SET generation = 1, handed_over = true, took = false`)
		_, err = g.reset()
		refused(t, err, "the target holds the baton")
		pgtest.Exec(t, g.uris[postgres.Source], `DROP SCHEMA pgbaton CASCADE`)
		pgtest.Exec(t, g.uris[postgres.Target], `ALTER SUBSCRIPTION pgbaton_m_55555555_forward_1 SET (slot_name = NONE)`, `DROP SUBSCRIPTION pgbaton_m_55555555_forward_1`)
		pgtest.Exec(t, c.ConnString("postgres"), `DROP DATABASE drained_target`)
		g.cleaned(postgres.Source)
	})
	t.Run("another target", func(t *testing.T) {
		g := newGround(t, c, "unbound")
		g.record(postgres.Source, "")
		g.record(postgres.Target, "")
		g.publishes("pgbaton_m_forward_1")
		g.give(postgres.Target, c.ConnString("postgres"))
		_, err := g.status()
		if remedy := refused(t, err, "has no record of it: it streams to another one"); remedy != "give --target the database that was given to start; if that is gone, pgbaton reset with its address removes what is on the source" {
			t.Error(remedy)
		}
		g.give(postgres.Target, g.uris[postgres.Target])
		if _, err := g.status(); err != nil {
			t.Errorf("with the right target: %v", err)
		}
		g.give(postgres.Target, nowhere)
		if r, err := g.reset(); err != nil || len(r.Left) != 1 || !strings.Contains(r.Left[0].Text, "the target could not be reached") {
			t.Errorf("%v: %v", err, r.Left)
		}
		g.nothing(postgres.Source)
	})
	t.Run("a damaged entry", func(t *testing.T) {
		g := newGround(t, c, "damaged")
		for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
			g.record(side, "33333333c")
		}
		g.publishes("pgbaton_m_33333333_forward_1")
		pgtest.Exec(t, g.uris[postgres.Source], `INSERT INTO pgbaton.journal VALUES ('role', 'created', '"not a list"')`)
		r, err := g.reset()
		if err != nil || len(r.Left) != 1 || !strings.Contains(r.Left[0].Text, `entry role "created" of pgbaton.journal is damaged`) {
			t.Fatalf("%v: %v", err, r.Left)
		}
		if n := g.things(postgres.Source); n != 1 {
			t.Errorf("%d things are left on the source", n)
		}
		sql, then, ok := strings.Cut(r.Left[0].Remedy, ", there, in a session with ")
		setting, then, found := strings.Cut(then, "; ")
		if !ok || !found || then != "then run the same command again" {
			t.Fatal(r.Left[0].Remedy)
		}
		pgtest.Exec(t, g.uris[postgres.Source], "SET "+setting, sql)
		g.cleaned(postgres.Source, postgres.Target)
	})
	t.Run("roles on a target out of reach", func(t *testing.T) {
		g := newGround(t, c, "roles")
		g.record(postgres.Source, "44444444d")
		pgtest.Exec(t, g.uris[postgres.Source], `INSERT INTO pgbaton.journal VALUES ('role', 'created', '["It''s"]')`)
		pgtest.Exec(t, c.ConnString("postgres"), `CREATE ROLE "It's"`)
		g.give(postgres.Target, nowhere)
		r, err := g.reset()
		if err != nil {
			t.Fatal(err)
		}
		var said string
		for _, l := range r.Left {
			if sql, _, ok := strings.Cut(l.Remedy, ", when nothing depends on it"); ok {
				said = sql
			}
		}
		pgtest.Exec(t, c.ConnString("postgres"), said)
		if pgtest.QueryValue[bool](t, pgtest.Connect(t, c.ConnString("postgres")), `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'It''s')`) {
			t.Error(fmt.Sprint("the role is still there after ", said))
		}
	})
}
