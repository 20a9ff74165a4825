// Package option says what all options have in common: a flag is also a variable of
// the environment, and its value may be a secret.
package option

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Variable is the variable of the environment that stands for a flag.
func Variable(flag string) string {
	return "PGBATON_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// secret is the annotation of a flag whose value may hold a password.
const secret = "pgbaton-secret"

// MarkSecret marks flags whose values may hold a password, as connection strings do.
// Whoever declares such a flag marks it: all that keeps secrets from others goes by
// that. A flag that does not exist is a mistake in the code.
func MarkSecret(f *pflag.FlagSet, flags ...string) {
	for _, name := range flags {
		if err := f.SetAnnotation(name, secret, []string{"true"}); err != nil {
			panic(err)
		}
	}
}

// SecretVariables are the variables of the environment that stand for the flags that are
// marked secret, each once.
func SecretVariables(sets ...*pflag.FlagSet) (names []string) {
	for _, set := range sets {
		set.VisitAll(func(f *pflag.Flag) {
			if _, ok := f.Annotations[secret]; ok {
				names = append(names, Variable(f.Name))
			}
		})
	}
	slices.Sort(names)
	return slices.Compact(names)
}
