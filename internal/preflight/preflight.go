// Package preflight looks at both servers before a migration and says what
// stands in the way. It changes nothing.
package preflight

import (
	"context"

	"pgbaton/internal/postgres"
)

// Severity says what a finding means for a start.
type Severity string

// Severities, worst first.
const (
	Blocker Severity = "blocker"
	Warning Severity = "warning"
	Info    Severity = "info"
)

// Finding is one thing found, with its remedy.
type Finding struct {
	Code     string        `json:"code"`
	Severity Severity      `json:"severity"`
	Side     postgres.Side `json:"side,omitempty"`
	Text     string        `json:"text"`
	Remedy   string        `json:"remedy,omitempty"`
	Objects  []string      `json:"objects,omitempty"`
}

// Report is everything found, blockers first.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Blockers are the findings with which a migration cannot start.
func (r Report) Blockers() []Finding {
	var found []Finding
	for _, f := range r.Findings {
		if f.Severity == Blocker {
			found = append(found, f)
		}
	}
	return found
}

// Input is what a check needs to know.
type Input struct {
	Source, Target   *postgres.Server
	SourceFromTarget postgres.Conninfo
	TargetFromSource postgres.Conninfo
	Migration        string
	Method           string
	Jobs             int
	Roles            bool
	Accept           []string
	PgBin            string
}

// Run checks.
func Run(ctx context.Context, in Input) (Report, error) {
	return Report{}, nil
}
