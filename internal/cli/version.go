package cli

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"pgbaton/internal/outcome"
)

// version is the module's, as the build recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			_ = a.answer(map[string]any{"ok": true, "version": version()}, outcome.State{}, func(outcome.Next) {
				_, err = fmt.Fprintf(a.stdout, "pgbaton %s\n", version())
			})
			return err
		},
	}
}
