package preflight

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"pgbaton/internal/replication"
)

// syncNumber matches how many standbys a commit waits for: "2 (a, b)", "ANY 2 (*)".
var syncNumber = regexp.MustCompile(`(?i)^\s*(?:first|any)?\s*(\d+)\s*\(`)

// checkSynchronous finds a server whose commits wait for standbys that are not there:
// everything that writes would stand still there, without a word
// (https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION).
func checkSynchronous(ctx context.Context, _ *survey, e *end) error {
	if err := checkSynchronized(ctx, e); err != nil {
		return err
	}
	names := e.setting["synchronous_standby_names"]
	if names == "" {
		return nil
	}
	need := 1
	if m := syncNumber.FindStringSubmatch(names); m != nil {
		need, _ = strconv.Atoi(m[1]) // digits
	}
	// Who may not see others' statistics learns of no state at all.
	var connected, hidden int
	err := e.conn.QueryRow(ctx, `
		SELECT pg_catalog.count(*) FILTER (WHERE sync_state IN ('sync', 'quorum'))::int, pg_catalog.count(*) FILTER (WHERE sync_state IS NULL)::int
		FROM pg_catalog.pg_stat_replication`).Scan(&connected, &hidden)
	if err != nil || connected+hidden >= need {
		return err
	}
	e.stands = true
	e.add(Finding{Code: "synchronous-standbys", Severity: Blocker, Side: e.Side,
		Text: fmt.Sprintf("every commit waits for %s named in synchronous_standby_names (%s), and %d of them connected: pgbaton's would, too, for ever",
			plural(need, "standby server"), names, connected),
		Remedy: "ALTER SYSTEM SET synchronous_standby_names = '';\nSELECT pg_catalog.pg_reload_conf();\n-- no restart needed; or connect the standby"})
	return nil
}

// checkSynchronized finds a server that holds back, for standbys that are not there,
// what standbys are to carry on: our slots, too.
func checkSynchronized(ctx context.Context, e *end) error {
	absent, err := replication.AbsentStandbys(ctx, e.conn)
	if err != nil || len(absent) == 0 {
		return err
	}
	e.add(Finding{Code: "synchronized-standby-slots", Severity: Blocker, Side: e.Side,
		Text: fmt.Sprintf("no standby reads slot %s, named in synchronized_standby_slots: until one does, the server sends nothing from the slots of a migration",
			strings.Join(absent, ", ")),
		Remedy: "ALTER SYSTEM SET synchronized_standby_slots = '';\nSELECT pg_catalog.pg_reload_conf();\n-- no restart needed; or connect the standby"})
	return nil
}
