package journal

import (
	"strings"

	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
)

// This file has what a plan shows of the journal.

// PlanPut is the statement of Put.
func (e Entry[T]) PlanPut() string { return planPut(e.name.Kind, e.name.Key) }

// PlanDelete is the statement of Delete.
func (e Entry[T]) PlanDelete() string { return planDelete(e.name.Kind, e.name.Key) }

// PlanReplaced is the statement of Replaced.
func (e Entry[T]) PlanReplaced(old Name) string {
	return plan.Fill(replaceStatement, postgres.QuoteLiteral(old.Kind), postgres.QuoteLiteral(old.Key),
		postgres.QuoteLiteral(e.name.Kind), postgres.QuoteLiteral(e.name.Key), "<value>")
}

// PlanPut is the statement of Put.
func (e Entries[T]) PlanPut(key string) string { return planPut(e.name.Kind, key) }

// PlanPutNew is the statement of PutNew.
func (e Entries[T]) PlanPutNew(key string) string {
	return plan.Fill(putNewStatement, postgres.QuoteLiteral(e.name.Kind), literal(key), "<value>")
}

// PlanDelete is the statement of Delete.
func (e Entries[T]) PlanDelete(key string) string { return planDelete(e.name.Kind, key) }

// PlanClear is the statement of Clear for a name.
func PlanClear(n Name) string {
	return plan.Fill(clearStatement, postgres.QuoteLiteral(n.Kind), postgres.QuoteLiteral(n.Key))
}

// PlanRaise is the statement of RaiseAttempt.
func PlanRaise() string { return plan.Fill(raiseSQL, "<this process>") }

func planPut(kind, key string) string {
	return plan.Fill(putStatement, postgres.QuoteLiteral(kind), literal(key), "<value>")
}

func planDelete(kind, key string) string {
	return plan.Fill(deleteStatement, postgres.QuoteLiteral(kind), literal(key))
}

// literal is a key as a literal, but for one that only the run will know.
func literal(key string) string {
	if strings.HasPrefix(key, "<") {
		return key
	}
	return postgres.QuoteLiteral(key)
}
