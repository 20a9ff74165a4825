package cli_test

import (
	"fmt"
	"time"

	"pgbaton/internal/pgtest"
)

// gatedSQL makes the largest table, which is copied first by one job. On the target its
// rows wait until somebody holds an advisory lock in the cluster; on the source they wait,
// too, from then on.
const gatedSQL = `
CREATE FUNCTION public.gate(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN i; END';
CREATE TABLE public.gated (i int PRIMARY KEY, g int GENERATED ALWAYS AS (public.gate(i)) STORED);
INSERT INTO public.gated SELECT generate_series(1, 3000);
CREATE OR REPLACE FUNCTION public.gate(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql SET search_path = pg_catalog AS $$ BEGIN
	WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = 4711) LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN i;
END $$;`

// startMeanwhile runs start and acts between its check and the copy of most tables; from
// then on the gate is open.
func (m *move) startMeanwhile(act func()) pgtest.Result {
	m.t.Helper()
	p := pgtest.Spawn(m.t, m.options("start", "--jobs", "1"))
	admin := m.target.ConnString("postgres")
	pgtest.UntilTrue(m.t, admin, time.Minute, "rows that wait at the gate", fmt.Sprintf(
		`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = '%s' AND application_name = 'pgbaton load' AND wait_event = 'PgSleep')`, m.db))
	act()
	pgtest.Hold(m.t, admin, `SELECT pg_advisory_xact_lock(4711)`)
	return p.Wait(m.t)
}
