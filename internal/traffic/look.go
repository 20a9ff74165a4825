package traffic

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/postgres"
)

// Sighting is where a mover leads an application, as one sees that logs in there.
type Sighting struct {
	Name string // of what is looked through, and of the database in it
	postgres.Sight
	Err    error // it could not be seen
	Serves bool  // if so: there are connections to a server for that database

	AdmitRemedy   string // before a handover, if it could not be seen: so that it can be
	PointRemedy   string // before a handover, if it leads elsewhere: so that it leads to the holder
	PeekRemedy    string // after one, if it could not be seen: how to see it by other means
	CorrectRemedy string // after one, if it leads elsewhere, or nowhere: so that it leads to the taker
}

// lookWithin bounds a look through one PgBouncer: its pool may be used up.
const lookWithin = 2 * time.Second

// Look implements Mover: it logs in through each PgBouncer by the name under which
// clients connect.
func (m *PgBouncers) Look(ctx context.Context, r Route, side *postgres.Server, b postgres.Beacon) []Sighting {
	seen := make([]Sighting, len(m.all))
	place := map[*pgBouncer]int{}
	for i, one := range m.all {
		place[one] = i
	}
	err := m.each(r, func(one *pgBouncer, database string) error {
		s := sighting(fmt.Sprintf("%s %s, database %s", pgBouncerTitle, one.name, database))
		if s.Sight, s.Err = one.look(ctx, database, side, b); s.Err != nil {
			s.Serves = one.serves(ctx, database)
		}
		seen[place[one]] = s
		return nil
	})
	if err != nil {
		s := sighting(pgBouncerTitle)
		s.Err = err
		return []Sighting{s}
	}
	return seen
}

// sighting is one that has not been seen yet.
func sighting(name string) (s Sighting) {
	s.Name = name
	s.AdmitRemedy = "let pgbaton's role log in there (auth_file, auth_query), or look yourself"
	s.PointRemedy = "name the database under which the application connects (--pgbouncer-database), or correct its entry and RELOAD"
	s.PeekRemedy = "look yourself: PgBouncer's SHOW SERVERS says where its connections lead"
	s.CorrectRemedy = "correct the entry and RELOAD, or remove what keeps PgBouncer from logging in there"
	return s
}

// look connects as an application does, and sees where it is.
func (b *pgBouncer) look(ctx context.Context, database string, side *postgres.Server, beacon postgres.Beacon) (postgres.Sight, error) {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	config := b.config.Copy()
	config.Database, config.User, config.Password = database, side.User(), side.Conninfo()["password"]
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return postgres.Sight{}, fmt.Errorf("logging in as %s: %w", quoteName(side.User()), oneLine(ctx, err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	sight, err := beacon.Look(ctx, conn)
	if err != nil {
		err = fmt.Errorf("looking as %s: %w", quoteName(side.User()), oneLine(ctx, err))
	}
	return sight, err
}

// serves says whether there are connections to a server for a database: then clients
// get through, even if a look does not.
func (b *pgBouncer) serves(ctx context.Context, database string) (yes bool) {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	err := b.reached(ctx, func(c *console) error {
		a, err := c.ask(ctx, "SHOW POOLS")
		yes = slices.ContainsFunc(findPools(a, database), func(p pool) bool { return p.servers > 0 })
		return err
	})
	return err == nil && yes
}
