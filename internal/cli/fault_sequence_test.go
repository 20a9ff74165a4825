package cli_test

import (
	"fmt"
	"testing"

	"pgbaton/internal/pgtest"
)

// At its end, called and not; downwards; round and round; with a stride and a
// cache; of each type; and one that was never used.
var edgeSequences = []string{
	`CREATE SEQUENCE app.full MAXVALUE 5; SELECT setval('app.full', 5, true)`,
	`CREATE SEQUENCE app.almost_full MAXVALUE 5; SELECT setval('app.almost_full', 5, false)`,
	`CREATE SEQUENCE app.down INCREMENT -3 MINVALUE -10 MAXVALUE 100 START 100; SELECT nextval('app.down') FROM generate_series(1, 7)`,
	`CREATE SEQUENCE app.down_empty INCREMENT -1 MINVALUE -2 MAXVALUE -1; SELECT setval('app.down_empty', -2, true)`,
	`CREATE SEQUENCE app.round MINVALUE 1 MAXVALUE 3 CYCLE; SELECT setval('app.round', 3, true)`,
	`CREATE SEQUENCE app.round_down INCREMENT -1 MINVALUE 1 MAXVALUE 3 START 3 CYCLE; SELECT setval('app.round_down', 1, true)`,
	`CREATE SEQUENCE app.cached CACHE 20 INCREMENT 5; SELECT nextval('app.cached')`,
	`CREATE SEQUENCE app.small AS smallint; SELECT setval('app.small', 32767, true)`,
	`CREATE SEQUENCE app.big; SELECT setval('app.big', 9223372036854775807, true)`,
	`CREATE SEQUENCE app.lowest MINVALUE -9223372036854775808 START -9223372036854775808`,
	`CREATE SEQUENCE app.never START 42`,
	`CREATE SEQUENCE app."Q ""ü""" START 7; SELECT nextval('app."Q ""ü"""')`,
}

const manySequences = `
DO $$ BEGIN
	FOR i IN 1..1000 LOOP
		EXECUTE format('CREATE SEQUENCE app.many_%s INCREMENT %s', i, 1 + i % 7);
		PERFORM setval(format('app.many_%s', i)::regclass, i * 1000, i % 2 = 0);
	END LOOP;
END $$`

// TestFaultSequences: sequences at their ends and a thousand others give the same
// next value, or refuse in the same way, on the other side, forth and back. The
// comparison is pgtest's own: it asks each for its next value.
func TestFaultSequences(t *testing.T) {
	t.Parallel()
	b := newBedWith(t, 13, 17, func(b *bed) {
		pgtest.Exec(t, b.app(source), edgeSequences...)
		pgtest.Exec(t, b.app(source), manySequences)
	})
	for _, to := range []string{target, source, target} {
		for _, p := range b.done(to)["phases"].([]any) {
			if p := p.(map[string]any); p["name"] == "sequences" {
				t.Logf("%s of 1,014 sequences: %v ms", commandTo(to), p["ms"])
			}
		}
		// They move on, each its own way.
		conn := pgtest.Connect(t, b.app(to))
		mustExec(t, conn, `SELECT nextval(format('app.many_%s', i)::regclass) FROM generate_series(1, 1000, 3) i`)
		mustExec(t, conn, `SELECT nextval('app.round'), nextval('app.round_down'), nextval('app.cached'), nextval('app.never'), nextval('app.lowest')`)
	}
	for name, want := range map[string]string{"full": "ERROR", "small": "ERROR", "big": "ERROR", "down_empty": "ERROR"} {
		conn := pgtest.Connect(t, b.app(target))
		if _, err := conn.Exec(t.Context(), fmt.Sprintf(`SELECT nextval('app.%s')`, name)); err == nil {
			t.Errorf("sequence %s has a next value, want %s", name, want)
		}
	}
	b.account(target)
}
