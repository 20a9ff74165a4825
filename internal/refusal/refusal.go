// Package refusal holds the answer "not now, because": a condition is not met
// and nothing was changed.
package refusal

import "strings"

// Refusal lists the reasons for which something was not done. It becomes exit
// code 3.
type Refusal struct {
	What    string   // what was refused: "switchover"
	Reasons []Reason // at least one
}

// Reason is one condition that is not met, with its remedy.
type Reason struct {
	Why    string `json:"why"`
	Remedy string `json:"remedy,omitempty"`
}

// New makes a refusal with one reason.
func New(what, why, remedy string) *Refusal {
	return &Refusal{What: what, Reasons: []Reason{{Why: why, Remedy: remedy}}}
}

// Error prints every reason.
func (r *Refusal) Error() string {
	why := make([]string, len(r.Reasons))
	for i, reason := range r.Reasons {
		why[i] = reason.Why
	}
	return r.What + " refused: " + strings.Join(why, "; ")
}
