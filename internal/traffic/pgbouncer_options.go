package traffic

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"pgbaton/internal/option"
)

// pgBouncerTitle is what the names of PgBouncers begin with, in the journal too.
const pgBouncerTitle = "PgBouncer"

// pgBouncerOptions ask for PgBouncers; see NewPgBouncers.
type pgBouncerOptions struct {
	AdminURIs []string `json:"admin_uris"`
	Database  string   `json:"database"`
	Inis      []string `json:"inis"`
}

func (o *pgBouncerOptions) about() about {
	return about{title: pgBouncerTitle, flags: "--pgbouncer", plan: Plan{
		Pause:  "PAUSE <database> on PgBouncer",
		Switch: "host, port and dbname in PgBouncer's configuration and RELOAD",
		Resume: "RESUME <database> on PgBouncer",
	}}
}

func (o *pgBouncerOptions) register(f *pflag.FlagSet) {
	f.StringArrayVar(&o.AdminURIs, "pgbouncer", nil, "connection string of a PgBouncer's admin console (repeatable)")
	f.StringVar(&o.Database, "pgbouncer-database", "", "name under which clients connect to PgBouncer, where it is not that of the database")
	f.StringArrayVar(&o.Inis, "pgbouncer-ini", nil, "PgBouncer's configuration file, where PgBouncer itself does not know its path (repeatable)")
	option.MarkSecret(f, "pgbouncer")
}

func (o *pgBouncerOptions) mover(Surroundings) (Mover, error) {
	if len(o.AdminURIs) == 0 {
		if o.Database != "" || len(o.Inis) > 0 {
			return nil, errors.New("--pgbouncer-database and --pgbouncer-ini go with --pgbouncer")
		}
		return nil, nil
	}
	m, err := NewPgBouncers(o.AdminURIs, o.Database, o.Inis)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Rehearse implements Mover: it asks each PgBouncer once more, as fast as the order to
// pause will be answered when no transaction is in the way.
func (m *PgBouncers) Rehearse(ctx context.Context, r Route, budget time.Duration) (Rehearsal, error) {
	began := time.Now()
	_, err := m.Check(ctx, r, budget)
	return Rehearsal{Measured: true, Took: time.Since(began),
		How: "a round trip to " + strings.Join(m.Names(), ", ") + "; open transactions come on top"}, err
}

// Again implements Mover: a RESUME of what nobody holds back harms nobody.
func (m *PgBouncers) Again(ctx context.Context, r Route) error { return m.Abort(ctx, r) }
