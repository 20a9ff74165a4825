package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"pgbaton/internal/option"
)

// TestSecretVariables: whatever takes a connection string is a secret, and so is what it
// was until now.
func TestSecretVariables(t *testing.T) {
	t.Parallel()
	root := new(app).root()
	have := secretVariables(root)
	for _, name := range []string{"PGBATON_SOURCE", "PGBATON_TARGET", "PGBATON_SOURCE_FROM_TARGET", "PGBATON_TARGET_FROM_SOURCE", "PGBATON_PGBOUNCER", "PGPASSWORD"} {
		if !slices.Contains(have, name) {
			t.Errorf("%s is no secret: %q", name, have)
		}
	}
	if slices.Contains(have, "PGBATON_MIGRATION") {
		t.Errorf("a migration's name is no secret: %q", have)
	}
	found := 0
	for _, set := range flagSets(root) {
		set.VisitAll(func(f *pflag.Flag) {
			if strings.Contains(f.Usage, "connection string") {
				found++
				if name := option.Variable(f.Name); !slices.Contains(have, name) {
					t.Errorf("--%s takes a connection string, and %s is no secret", f.Name, name)
				}
			}
		})
	}
	if found < 3 {
		t.Errorf("only %d flags take a connection string", found)
	}
}
