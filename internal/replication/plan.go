package replication

import (
	"fmt"

	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
)

// This file has what a plan shows of streams: the statements, as they are sent.

const anyRemark = " -- if there is any"

// PlanSetSequences is what SetSequences sends.
func PlanSetSequences() string {
	return plan.Fill(setSequencesSQL, "<names>", "<values>", "<whether they were called>")
}

// PlanMarker is what WriteMarker sends.
func PlanMarker(g Group, kind string) string {
	return plan.Fill(writeMarkerSQL(g.MarkerTable()), "<token>", postgres.QuoteLiteral(kind))
}

// PlanTrip is what a marker's way through a stream sends to the publisher.
func PlanTrip(g Group) []string {
	return []string{PlanMarker(g, Heartbeat), plan.Fill(isReadSQL, postgres.QuoteLiteral(g.Name())),
		plan.Fill(oldMarkersSQL(g), "<tokens>", postgres.QuoteLiteral(Heartbeat)) + anyRemark}
}

// PlanDisable is what SetEnabled sends to disable a subscription.
func PlanDisable(name string) []string {
	return []string{"ALTER SUBSCRIPTION " + postgres.QuoteIdent(name) + " DISABLE", plan.Fill(endWorkersSQL, postgres.QuoteLiteral(name))}
}

// PlanDropSubscription is what DropSubscription sends.
func PlanDropSubscription(name string) []string {
	q := postgres.QuoteIdent(name)
	return append(PlanDisable(name), "ALTER SUBSCRIPTION "+q+" SET (slot_name = NONE)", "DROP SUBSCRIPTION "+q)
}

// PlanDropSlot is what DropSlots sends for a slot.
func PlanDropSlot(name string) []string {
	return []string{plan.Fill(endReadersSQL, postgres.QuoteLiteral(Exactly(name))), plan.Fill(dropSlotSQL, postgres.QuoteLiteral(name)) + anyRemark}
}

// PlanLeaveNewSlot is what LeaveNewSlot sends.
func PlanLeaveNewSlot(g Group) string {
	return plan.Fill(fmt.Sprintf(leaveNewSQL, g.MarkerTable()), postgres.QuoteLiteral(g.Name()), "<token>", "<position>")
}

// PlanLetOn is what LetOn sends to the publisher, and to the subscriber.
func PlanLetOn(g Group) (publisher, subscriber []string) {
	return []string{plan.Fill(isReadSQL, postgres.QuoteLiteral(g.Name())), plan.Fill(readBySQL, postgres.QuoteLiteral(g.Name()), "<its OID>")},
		[]string{"ALTER SUBSCRIPTION " + postgres.QuoteIdent(g.Name()) + " ENABLE"}
}

// PlanForgetSlot is what ForgetSlot sends.
func PlanForgetSlot(g Group) string { return slotEntries.PlanDelete(g.Name()) }
