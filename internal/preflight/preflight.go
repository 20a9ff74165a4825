// Package preflight looks at both servers before a migration and says what
// stands in the way, with the exact remedy. It changes nothing.
package preflight

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// Severity says what a finding means for a start.
type Severity string

// Severities, worst first.
const (
	Blocker Severity = "blocker" // the migration cannot start
	Warning Severity = "warning" // it can; somebody should know
	Info    Severity = "info"
)

func (s Severity) rank() int {
	return slices.Index([]Severity{Blocker, Warning, Info}, s)
}

// Finding is one thing found. Its remedy is a sentence, or SQL that can be given
// to psql as it stands: what is not a statement in it is a comment.
type Finding struct {
	Code     string        `json:"code"` // stable, kebab-case
	Severity Severity      `json:"severity"`
	Side     postgres.Side `json:"side,omitempty"`
	Text     string        `json:"text"`
	Remedy   string        `json:"remedy,omitempty"`
	Objects  []string      `json:"objects,omitempty"`
}

// Report is everything found, blockers first.
type Report struct {
	Findings []Finding `json:"findings"`
	Started  bool      `json:"started"` // the source has a record of this migration
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

// Method is how the rows get to the target.
type Method string

// The three methods.
const (
	Stream Method = "stream" // parallel COPY under the slot's snapshot
	Native Method = "native" // a subscription with copy_data = true
	Dump   Method = "dump"   // a pg_dump directory under the slot's snapshot
)

// Input is what a check needs to know of a migration.
type Input struct {
	Name             string // of the migration
	Source, Target   *postgres.Server
	SourceFromTarget postgres.Reach    // how the target's server reaches the source, password included
	TargetFromSource postgres.Reach    // how the source's server reaches the target, password included
	Selection        catalog.Selection // which tables it includes
	Method           Method
	Jobs             int       // sessions that copy at a time
	IndexJobs        int       // sessions that build indexes at a time; 0: as many as Jobs
	Groups           int       // streams to begin with; 0: as many as the writes ask for
	Roles            bool      // roles will be copied
	Accept           []string  // codes of findings that the operator accepts
	TrySchema        TrySchema // whether the definitions are restored into a throw-away database of the target
	PgBin            string    // directory of pg_dump and pg_restore, "" to look for one
}

// Run looks at both servers. A side out of reach is a finding, and the other
// one is still looked at as far as that goes; an error means that the check
// itself could not be completed.
func Run(ctx context.Context, in Input) (Report, error) {
	s := &survey{Input: in}
	defer s.close()
	if err := s.run(ctx); err != nil {
		return Report{}, err
	}
	r := Report{Findings: accept(s.findings, in.Accept), Started: s.source.record != nil && !s.fresh(s.source)}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity.rank(), b.Severity.rank()), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Side, b.Side))
	})
	return r, nil
}

// acceptable are the blockers that an operator may decide to live with: what is
// not moved, or not possible afterwards, and does not endanger what is moved; and
// what others than he have not tried.
var acceptable = []string{"equal-rows", "large-objects", "unlogged-tables", "version-untested", "wal-level"}

// Acceptable lists the codes of the blockers that an operator may accept.
func Acceptable() []string { return slices.Clone(acceptable) }

// accept turns accepted blockers into warnings. Accepting what cannot be
// accepted is said, not obeyed.
func accept(findings []Finding, codes []string) []Finding {
	for i, f := range findings {
		// Without logical decoding on the source there is no migration at all.
		if f.Severity != Blocker || f.Code == "wal-level" && f.Side == postgres.Source {
			continue
		}
		if slices.Contains(acceptable, f.Code) && slices.Contains(codes, f.Code) {
			findings[i].Severity = Warning
			findings[i].Text += " (accepted)"
		}
	}
	for _, code := range codes {
		if !slices.Contains(acceptable, code) {
			findings = append(findings, Finding{Code: "accept", Severity: Warning,
				Text:   fmt.Sprintf("--accept %s has no effect: it is not a finding that can be accepted", code),
				Remedy: fmt.Sprintf("those that can be accepted: %s", list(acceptable))})
		}
	}
	return findings
}
