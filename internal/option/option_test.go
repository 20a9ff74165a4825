package option

import (
	"slices"
	"testing"

	"github.com/spf13/pflag"
)

// TestSecretVariables: they are those of the marked flags, and a mark on a flag that does
// not exist is noticed.
func TestSecretVariables(t *testing.T) {
	t.Parallel()
	one, other := pflag.NewFlagSet("", pflag.ContinueOnError), pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, f := range []*pflag.FlagSet{one, other} {
		f.String("both-have-it", "", "")
		MarkSecret(f, "both-have-it")
	}
	one.String("open", "", "")
	other.StringArray("a-b", nil, "")
	MarkSecret(other, "a-b")
	if names := SecretVariables(one, other); !slices.Equal(names, []string{"PGBATON_A_B", "PGBATON_BOTH_HAVE_IT"}) {
		t.Errorf("%q", names)
	}
	defer func() {
		if recover() == nil {
			t.Error("a flag that is not there was marked")
		}
	}()
	MarkSecret(one, "a-b")
}
