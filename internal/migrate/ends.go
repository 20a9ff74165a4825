package migrate

import (
	"context"
	"fmt"

	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// This file binds a migration to its two databases (rule 17). A slot, once a second
// subscriber has read from it, has given that one what the first will never see.

// bound refuses every command between other databases than those of the migration.
func (s *Sessions) bound(ctx context.Context, c Config, source, target *journal.Record) error {
	for _, record := range []*journal.Record{source, target} {
		if record == nil || record.Ends == nil {
			continue
		}
		for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
			if err := s.isEnd(ctx, c, record, side); err != nil {
				return err
			}
		}
	}
	if source != nil && source.Ends == nil && target == nil && s.TargetConn != nil {
		return s.unbound(ctx, c)
	}
	return nil
}

// isEnd makes sure that the database given for a side is the one that a record
// names.
func (s *Sessions) isEnd(ctx context.Context, c Config, record *journal.Record, side postgres.Side) error {
	want := record.Ends.Of(side)
	have, known, err := s.identify(ctx, c, side)
	if err != nil || !known {
		return err
	}
	is := want.Same(have)
	if conn := s.conn(side); conn != nil && !is {
		is, err = want.Is(ctx, conn, have)
	}
	if err != nil || is {
		return c.Server(side).Wrap("identifying the database", err)
	}
	system := ""
	if want.System != "" && want.System != have.System {
		system = fmt.Sprintf(" (system identifier %s, and here %s)", want.System, have.System)
	}
	return refusal.New("this command", fmt.Sprintf("the %s of migration %q is %s%s, and not %s", side, record.Name, want.Address, system, have.Address),
		fmt.Sprintf("give --%[1]s that database; to move elsewhere, end that migration first: pgbaton reset (or finish) with that --%[1]s", side))
}

// identify tells which database a side was given as. A target that does not exist
// yet is known by its cluster and its name.
func (s *Sessions) identify(ctx context.Context, c Config, side postgres.Side) (d journal.Database, known bool, err error) {
	server := c.Server(side)
	if conn := s.conn(side); conn != nil {
		d, err = journal.ReadDatabase(ctx, conn, server)
		return d, err == nil, c.Server(side).Wrap("identifying the database", err)
	}
	if side == postgres.Source || postgres.Code(s.TargetErr) != postgres.UndefinedDatabase {
		return d, false, nil // out of reach
	}
	conn, err := schema.ConnectMaintenance(ctx, server)
	if err != nil {
		return d, false, nil // whoever needs it says so
	}
	defer conn.Close(context.WithoutCancel(ctx))
	d = journal.Database{Name: server.Database(), Address: server.Address()}
	d.System, err = journal.ReadSystem(ctx, conn)
	return d, err == nil, c.Server(side).Wrap("identifying the server", err)
}

// unbound judges a migration that was begun before the ends were recorded: a target
// without a record is only its target as long as the source has nothing that
// another one could be reading from.
func (s *Sessions) unbound(ctx context.Context, c Config) error {
	numbers, err := replication.GroupNumbers(ctx, s.SourceConn, nil, c.Group())
	if err != nil {
		return c.Source.Wrap("listing publications and slots", err)
	}
	if len(numbers) == 0 {
		return nil
	}
	return refusal.New("this command", fmt.Sprintf("the source has the slots of migration %q, and the database given as --target, %s, has no record of it: it streams to another one",
		c.Name, c.Target.Address()), "give --target the database that was given to start; if that is gone, pgbaton reset with its address removes what is on the source")
}

// ends are the two databases, as start finds them.
func (st *start) ends(ctx context.Context) (journal.Ends, error) {
	ends := journal.Ends{Label: st.label}
	var err error
	if ends.Source, _, err = st.identify(ctx, st.Config, postgres.Source); err != nil {
		return ends, err
	}
	ends.Target, _, err = st.identify(ctx, st.Config, postgres.Target)
	return ends, err
}
