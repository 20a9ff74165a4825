package replication

import (
	"fmt"
	"strings"

	"pgbaton/internal/postgres"
)

// SQLSTATEs of a CREATE SUBSCRIPTION that fails.
const (
	passwordRequired = "2F003" // since 16: of who is no superuser
	internalError    = "XX000" // before 15 of a connection that fails, too (libpqwalreceiver.c)
	classConnection  = "08"
)

// SubscribeFailure says what to do when a side's server does not create a
// subscription, or none is rehearsed. connecting says that it is the connection to the
// other server that failed: whatever else it was, another address does not help.
func SubscribeFailure(subscriber postgres.Side, v postgres.Version, err error) (connecting bool, hint string) {
	publisher := subscriber.Other()
	flag := fmt.Sprintf("--%s-from-%s", publisher, subscriber)
	switch code := postgres.Code(err); {
	case strings.HasPrefix(code, classConnection), code == internalError && v.Major() < 15:
		return true, fmt.Sprintf("the %s's server must reach the %s: give the address that it can use with %s; open firewalls, let pg_hba.conf and listen_addresses of the %s admit it; and its role there needs REPLICATION",
			subscriber, publisher, flag, publisher)
	case code == passwordRequired:
		return false, fmt.Sprintf("of a role without SUPERUSER the server asks for a password, that in the connection string, and the %s must ask for it too: give %s with a password, and let pg_hba.conf of the %s have scram-sha-256 for it",
			publisher, flag, publisher)
	case code == postgres.InsufficientPrivilege && v.Major() >= 16:
		return false, "the role must be superuser, or have pg_create_subscription and CREATE on the database: pgbaton check prints the GRANTs"
	case code == postgres.InsufficientPrivilege:
		return false, "before 16 only a superuser may create subscriptions (managed services: the administrative role)"
	}
	return false, fmt.Sprintf("remove the reason that the %s's server gives: it is not the connection to the %s that failed", subscriber, publisher)
}
