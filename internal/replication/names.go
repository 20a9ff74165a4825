package replication

import (
	"fmt"

	"pgbaton/internal/postgres"
)

// Direction is the way a stream flows.
type Direction string

// Forward is source to target, Reverse the way back.
const (
	Forward Direction = "forward"
	Reverse Direction = "reverse"
)

// Group is a set of tables with its own publication, slot, subscription and
// marker table. All four names derive from label, direction and number.
type Group struct {
	Label     string // of the migration, see [journal.Label]
	Direction Direction
	Number    int
}

// Name is that of the publication, the slot and the subscription alike.
func (g Group) Name() string {
	return postgres.ClusterName(g.Label, fmt.Sprintf("%s_%d", g.Direction, g.Number))
}

// MarkerTable is the group's marker table, present on both sides.
func (g Group) MarkerTable() postgres.Ident {
	return postgres.Ident{Schema: "pgbaton", Name: fmt.Sprintf("marker_%s_%d", g.Direction, g.Number)}
}

// Exactly is the pattern (a regular expression of PostgreSQL) that matches one
// name of ours. Such names hold nothing that a pattern would take for an operator.
func Exactly(name string) string { return "^" + name + "$" }

// AllOf is the pattern that matches the names of every slot and subscription of
// a migration, by its label, and of no other migration's.
func AllOf(label string) string {
	return "^" + postgres.ClusterName(label, "") + "(forward_[0-9]+|reverse_[0-9]+|leak)$"
}
