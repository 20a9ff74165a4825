package schema_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/journal"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// TestRefresh: views are refreshed with the settings that a session of their owner
// begins with, not with those of our session or our role; one that reads another by
// a function waits for it; what fails stays due.
func TestRefresh(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, 15)
	uri := c.ConnString("postgres")
	pgtest.Exec(t, uri, `CREATE ROLE one`, `CREATE ROLE other`,
		`ALTER ROLE postgres SET DateStyle = 'SQL, DMY'`, `ALTER ROLE postgres SET statement_timeout = '1h'`, `ALTER ROLE postgres SET mine.mood = 'postgres'`,
		`ALTER DATABASE postgres SET IntervalStyle = 'iso_8601'`, `ALTER DATABASE postgres SET search_path = app, public`,
		`ALTER ROLE one SET IntervalStyle = 'sql_standard'`, `ALTER ROLE one SET DateStyle = 'German'`, `ALTER ROLE one SET TimeZone = 'Asia/Tokyo'`,
		`ALTER ROLE one IN DATABASE postgres SET TimeZone = 'Asia/Kathmandu'`, `ALTER ROLE one SET statement_timeout = 1`,
		`ALTER ROLE one SET mine.mood = 'one'`, `ALTER ROLE one SET role = 'other'`, `ALTER ROLE one SET log_min_messages = 'notice'`,
		`CREATE SCHEMA app; GRANT ALL ON SCHEMA app TO one, other`)
	server, err := postgres.NewServer(postgres.Target, uri)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := server.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := journal.Create(t.Context(), conn, journal.Record{Name: "m", ID: "1", Side: postgres.Target, Method: "stream"}, nil); err != nil {
		t.Fatal(err)
	}
	const shows = ` AS SELECT current_setting('DateStyle') || ', ' || current_setting('IntervalStyle') || ', ' || current_setting('TimeZone') || ', '
		|| current_setting('search_path') || ', ' || coalesce(current_setting('mine.mood', true), 'nothing') || ', ' || current_setting('log_min_messages') || ', '
		|| current_setting('statement_timeout') AS v WITH NO DATA`
	pgtest.Exec(t, uri, `SET ROLE one`, `CREATE MATERIALIZED VIEW app.ones`+shows, `RESET ROLE`,
		`SET ROLE other`, `CREATE MATERIALIZED VIEW app.others`+shows, `RESET ROLE`,
		`CREATE FUNCTION app.reads() RETURNS text LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT v FROM app.zz); END'`,
		`CREATE MATERIALIZED VIEW app.zz AS SELECT 'deep' AS v WITH NO DATA`, `CREATE MATERIALIZED VIEW app.aa AS SELECT app.reads() AS v WITH NO DATA`,
		`CREATE TABLE app.late ()`, `CREATE MATERIALIZED VIEW app."not yet" AS SELECT count(*) / (SELECT count(*) FROM app.late) AS v WITH NO DATA`,
		`CREATE MATERIALIZED VIEW app.full AS SELECT 1 AS v`, `CREATE MATERIALIZED VIEW app.dropped AS SELECT 1 / 0 AS v WITH NO DATA`)

	view := func(name string, populated bool) catalog.MatView {
		return catalog.MatView{Ident: postgres.Ident{Schema: "app", Name: name}, Populated: populated}
	}
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		return schema.Enlist(t.Context(), tx, []catalog.MatView{view("ones", true), view("others", true), view("zz", true), view("aa", true),
			view("not yet", true), view("full", false), view("elsewhere", true), view("dropped", true)})
	})
	if err != nil {
		t.Fatal(err)
	}
	refresh := func(want ...string) {
		t.Helper()
		failed, err := schema.Refresh(t.Context(), server, conn)
		if err != nil {
			t.Fatal(err)
		}
		told, err := schema.Failed(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		for _, all := range [][]schema.Due{failed, told} {
			var texts []string
			for _, d := range all {
				texts = append(texts, d.Text()+" -> "+d.Remedy(server.Version(), "pgbaton resume"))
			}
			got := strings.Join(texts, "\n")
			if len(all) != len(want) {
				t.Errorf("%d are due, not %d:\n%s", len(all), len(want), got)
			}
			for _, w := range want {
				if !strings.Contains(got, w) {
					t.Errorf("%q is not in\n%s", w, got)
				}
			}
		}
	}
	const elsewhere = `"app"."elsewhere" could not be refreshed: there is no such view here -> create it there; pgbaton resume tries it again`
	const zero = `"app"."not yet" is not populated: ERROR: division by zero (SQLSTATE 22012) -> remove the cause there; pgbaton resume tries it again`
	refresh(elsewhere, zero, `"app"."dropped" is not populated`)
	observer := pgtest.Connect(t, uri)
	for sql, want := range map[string]string{
		`SELECT v FROM app.ones`:   `German, DMY, sql_standard, Asia/Kathmandu, app, public, one, notice, 0`,
		`SELECT v FROM app.others`: `ISO, MDY, iso_8601, GMT, app, public, nothing, warning, 0`,
		`SELECT v FROM app.aa`:     `deep`,
		`SELECT relispopulated::text FROM pg_catalog.pg_class WHERE oid = 'app.full'::regclass`: `false`,
	} {
		got := pgtest.QueryValue[string](t, observer, sql)
		if strings.Contains(sql, "others") { // what initdb or the server's file say is not ours to know
			got, want = strings.Join(strings.Split(got, ", ")[2:3], ""), "iso_8601"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
	pgtest.Exec(t, uri, `DROP MATERIALIZED VIEW app.dropped`, `CREATE MATERIALIZED VIEW app.elsewhere AS SELECT 1 AS v WITH NO DATA`, `INSERT INTO app.late DEFAULT VALUES`)
	refresh()
	if n := pgtest.QueryValue[int](t, observer, `SELECT v::int FROM app."not yet"`); n != 1 {
		t.Errorf("%d", n)
	}
}
