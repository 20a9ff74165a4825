// Package plan is what a command would do, for people to read before it does it.
package plan

import (
	"strconv"
	"strings"

	"pgbaton/internal/postgres"
)

// Action is one thing that would be done, as SQL or as a command.
type Action struct {
	Where string `json:"where"` // source, target, or operator
	Do    string `json:"do"`
}

// Step is a step, or a phase of a handover, with what it would do.
type Step struct {
	Step    string   `json:"step"`
	Done    bool     `json:"done"`
	Actions []Action `json:"actions"`
}

// On makes actions of statements that would be run on a side.
func On(side postgres.Side, statements ...string) []Action {
	actions := make([]Action, len(statements))
	for i, s := range statements {
		actions[i] = Action{string(side), s}
	}
	return actions
}

// Operator makes an action of what is done where the operator works.
func Operator(do string) Action { return Action{"operator", do} }

// Fill is a statement with texts in place of its parameters: values as they would be
// sent, or, in angle brackets, what only the run will know.
func Fill(sql string, parameters ...string) string {
	var pairs []string
	for i := len(parameters) - 1; i >= 0; i-- { // $10 before $1
		pairs = append(pairs, "$"+strconv.Itoa(i+1), parameters[i])
	}
	return strings.Join(strings.Fields(strings.NewReplacer(pairs...).Replace(sql)), " ")
}
