package schema

import (
	"pgbaton/internal/catalog"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// This file has what a plan shows of triggers and materialized views.

// PlanQuiet is what QuietTriggers sends for triggers of tables.
func PlanQuiet(triggers []Trigger) (statements []string) {
	for _, t := range triggers {
		statements = append(statements, quietEntries.PlanPutNew(t.Table.String()+"."+t.Name), t.QuietSQL())
	}
	return append(statements, "ALTER EVENT TRIGGER <each that fires> DISABLE -- if there is any")
}

// PlanRestore is what RestoreTriggers sends.
func PlanRestore(triggers []Trigger) (statements []string) {
	for _, t := range triggers {
		statements = append(statements, t.RestoreSQL(), quietEntries.PlanDelete(t.Table.String()+"."+t.Name))
	}
	return statements
}

// PlanRefresh is what Enlist and Refresh send for the views of a holder.
func PlanRefresh(views []catalog.MatView) []string {
	statements := []string{journal.PlanClear(journal.ViewDue)}
	for _, v := range views {
		if v.Populated {
			name := v.Ident.String()
			statements = append(statements, dueEntries.PlanPut(name), PlannedRefresh(v, v.Concurrently), dueEntries.PlanDelete(name))
		}
	}
	return statements
}

// PlannedRefresh is how a plan shows a refresh.
func PlannedRefresh(v catalog.MatView, concurrently bool) string {
	return RefreshSQL(v, concurrently) + " -- with the settings of its owner, " + postgres.QuoteIdent(v.Owner)
}
