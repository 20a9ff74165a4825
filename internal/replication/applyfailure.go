package replication

import (
	"context"

	"pgbaton/internal/postgres"
)

// ApplyFailure is the server's message with which the apply worker of a group fails,
// as far as it can be found out from outside (see [Rehearse]); "" when none shows.
func ApplyFailure(ctx context.Context, from *postgres.Server, publisher postgres.DB, to *postgres.Server, subscriber postgres.DB, group string, oid uint32) (string, error) {
	applied, known, err := AppliedUpTo(ctx, subscriber, oid)
	if err != nil {
		return "", to.Wrap("reading the position applied", err)
	}
	if !known {
		return "", nil
	}
	return Rehearse(ctx, from, publisher, to, group, applied)
}

// MendApply is the remedy for it.
func MendApply(subscriber postgres.Side) string {
	return "mend the row or the definition on the " + string(subscriber) + " (as the role that pgbaton uses: the database is fenced); the worker tries again by itself every few seconds"
}
