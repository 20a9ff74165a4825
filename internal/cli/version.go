package cli

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"pgbaton/internal/outcome"
	"pgbaton/internal/ui"
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
			if a.json {
				ui.NewPrinter(a.stdout, a.stderr, true).Result(map[string]any{"ok": true, "version": version()}, a.next(outcome.State{}))
				return nil
			}
			_, err := fmt.Fprintf(a.stdout, "pgbaton %s\n", version())
			return err
		},
	}
}
