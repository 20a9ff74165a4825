package traffic

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/postgres"
)

// Sighting is where a PgBouncer leads an application, as one sees that logs in there.
type Sighting struct {
	Name string // of the PgBouncer, and of the database in it
	postgres.Sight
	Err    error // it could not be seen
	Serves bool  // if so: the PgBouncer has connections to a server for that database
}

// lookWithin bounds a look through one PgBouncer: its pool may be used up.
const lookWithin = 2 * time.Second

// Look logs in through each PgBouncer of a mover, by the name under which clients
// connect, as the role of side's server. Whatever else moves traffic cannot be looked
// through.
func Look(ctx context.Context, m Mover, r Route, side *postgres.Server, b postgres.Beacon) (seen []Sighting) {
	switch m := m.(type) {
	case Several:
		for _, one := range m {
			seen = append(seen, Look(ctx, one, r, side, b)...)
		}
	case *PgBouncers:
		seen = make([]Sighting, len(m.all))
		place := map[*pgBouncer]int{}
		for i, one := range m.all {
			place[one] = i
		}
		err := m.each(r, func(one *pgBouncer, database string) error {
			s := Sighting{Name: fmt.Sprintf("PgBouncer %s, database %s", one.name, database)}
			if s.Sight, s.Err = one.look(ctx, database, side, b); s.Err != nil {
				s.Serves = one.serves(ctx, database)
			}
			seen[place[one]] = s
			return nil
		})
		if err != nil {
			return []Sighting{{Name: "PgBouncer", Err: err}}
		}
	}
	return seen
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

// String is what people are told of it.
func (e Endpoint) String() string {
	return net.JoinHostPort(e.Host, strconv.Itoa(e.Port)) + "/" + e.Database
}
