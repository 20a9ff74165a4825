package replication

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/postgres"
)

// TestSubscribeFailure: only what failed in connecting is said to be a matter of
// reaching the other server.
func TestSubscribeFailure(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		code       string
		version    postgres.Version
		connecting bool
		says       string
	}{
		{"08006", 180001, true, "--source-from-target"},
		{"XX000", 120001, true, "--source-from-target"}, // before 15 without a code of its own
		{"XX000", 170001, false, "remove the reason that the target's server gives"},
		{"2F003", 160001, false, "with a password"},
		{"42501", 170001, false, "pg_create_subscription"},
		{"42501", 150001, false, "only a superuser"},
		{"P0001", 150001, false, "remove the reason that the target's server gives"}, // an event trigger of the user's
		{"23505", 120001, false, "remove the reason that the target's server gives"},
	} {
		connecting, hint := SubscribeFailure(postgres.Target, tc.version, &pgconn.PgError{Code: tc.code})
		if connecting != tc.connecting || !strings.Contains(hint, tc.says) || !connecting && strings.Contains(hint, "firewalls") {
			t.Errorf("%s on %s: %t, %q", tc.code, tc.version, connecting, hint)
		}
	}
}

// TestSlotHint: a remedy belongs to its cause; without one there is none.
func TestSlotHint(t *testing.T) {
	t.Parallel()
	for err, says := range map[error]string{
		&pgconn.PgError{Code: "42501"}: "the role needs REPLICATION",
		&pgconn.PgError{Code: "53400"}: "raise max_replication_slots and restart",
		&pgconn.PgError{Code: "57014"}: "it waits for every open transaction",
		&pgconn.PgError{Code: "XX000"}: "",
	} {
		if hint := SlotHint(err); !strings.Contains(hint, says) || says == "" && hint != "" {
			t.Errorf("%v: %q", err, hint)
		}
	}
	if hint := SlotHint(fmt.Errorf("timeout: %w", context.DeadlineExceeded)); !strings.Contains(hint, "it waits for") {
		t.Errorf("%q", hint)
	}
}
