package preflight

import (
	_ "embed"
	"strings"
)

// catalogList names what the program's statements use of pg_catalog and everybody
// may use by default: relations, and, with parentheses, functions that tell of the
// server or change it. A test compares it with the statements.
//
//go:embed catalogs.txt
var catalogList string

// catalogUse are its relations and functions.
func catalogUse() (relations, functions []string) {
	for name := range strings.FieldsSeq(catalogList) {
		if function, ok := strings.CutSuffix(name, "()"); ok {
			functions = append(functions, function)
		} else {
			relations = append(relations, name)
		}
	}
	return relations, functions
}
