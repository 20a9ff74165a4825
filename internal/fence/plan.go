package fence

import (
	"slices"
	"strings"

	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
)

// This file has what a plan shows of the fence: its statements, as they are sent.

// PlanRaise is what Raise sends for a database as Read found it.
func (s Saved) PlanRaise(database string, granted []string) []string {
	return []string{savedEntry.PlanPut(), inOneMessage(s.RaiseSQL(database, granted))}
}

// PlanRehearse is what Rehearse sends.
func (s Saved) PlanRehearse(database string, granted []string) []string {
	return []string{inOneMessage(s.RaiseSQL(database, granted)) + rolledBackRemark, "REVOKE <its grants, given back as they are>" + rolledBackRemark}
}

// PlanRehearseLift is what RehearseLift sends to a side whose fence saved what is not
// known yet.
func PlanRehearseLift() string { return "REVOKE <what its fence saved, given back>" + rolledBackRemark }

// PlanLift is what Lift sends to such a side.
func PlanLift() []string {
	return []string{"SAVEPOINT lift; <what its fence saved, given back>; RELEASE SAVEPOINT lift", savedEntry.PlanDelete()}
}

const rolledBackRemark = " -- rolled back"

func inOneMessage(statements []string) string { return plan.Fill(strings.Join(statements, "; ")) }

// PlanEvict is what Evict sends.
func PlanEvict() string {
	return plan.Fill(terminateSQL, "<every other session>") + " -- if there are any"
}

// PlanOpenLeakCheck is what OpenLeakCheck sends.
func PlanOpenLeakCheck(slot string) string {
	return plan.Fill(openLeakSQL, postgres.QuoteLiteral(slot))
}

// PlanLeaks is what Leaks sends.
func PlanLeaks(slot string) string {
	return plan.Fill(leaksSQL, postgres.QuoteLiteral(slot), "<publications>")
}

// PlanCloseLeakCheck is what CloseLeakCheck sends.
func PlanCloseLeakCheck(slot string) string {
	return plan.Fill(closeLeakSQL, postgres.QuoteLiteral(slot))
}

// PlanTryLeakCheck is what TryLeakCheck sends.
func PlanTryLeakCheck(slot string, reads bool) []string {
	all := []string{PlanOpenLeakCheck(slot), PlanLeaks(slot), PlanCloseLeakCheck(slot)}
	if !reads {
		all = slices.Delete(all, 1, 2)
	}
	return all
}
