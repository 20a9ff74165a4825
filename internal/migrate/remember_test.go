package migrate

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/journal"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
	"pgbaton/internal/refusal"
)

// TestRemember: what a migration includes is taken from the side that still knows it;
// where none does, it is not everything.
func TestRemember(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t, 17)
	admin := pgtest.Connect(t, cluster.ConnString("postgres"))
	selection := catalog.Selection{ExcludeTables: []string{"public.secret"}}
	var conns []*postgres.Session
	for _, side := range []postgres.Side{postgres.Source, postgres.Target} {
		if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+string(side)); err != nil {
			t.Fatal(err)
		}
		conn := pgtest.Connect(t, cluster.ConnString(string(side)))
		conns = append(conns, conn)
		err := journal.Create(t.Context(), conn, journal.Record{Name: "m", ID: "1", Side: side, Method: "stream"},
			func(tx pgx.Tx) error { return selectionEntry.Put(t.Context(), tx, selection) })
		if err != nil {
			t.Fatal(err)
		}
	}
	s := &Sessions{SourceConn: conns[0], TargetConn: conns[1]}
	for _, loss := range []string{``, `UPDATE pgbaton.journal SET value = '[1]'`, `DELETE FROM pgbaton.journal`} {
		for _, conn := range conns {
			if _, err := conn.Exec(t.Context(), loss); err != nil {
				t.Fatal(err)
			}
			c := Config{Input: preflight.Input{Name: "m", Method: Stream}}
			if err := c.recall(t.Context(), s); err != nil {
				t.Fatalf("%s: %v", loss, err)
			}
			if loss != "" && conn == conns[1] { // on both
				_, err := startLocked(t.Context(), c, s)
				if refused := (*refusal.Refusal)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "which tables the migration includes is not known") {
					t.Errorf("start, on both sides %s: %v", loss, err)
				}
				continue
			}
			if !slices.Equal(c.Selection.ExcludeTables, selection.ExcludeTables) {
				t.Errorf("%s: %+v", loss, c.Selection)
			}
		}
		for _, conn := range conns {
			if err := selectionEntry.Put(t.Context(), conn, selection); err != nil {
				t.Fatal(err)
			}
		}
	}
}
