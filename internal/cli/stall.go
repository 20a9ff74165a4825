package cli

import (
	"github.com/spf13/cobra"

	"pgbaton/internal/event"
	"pgbaton/internal/migrate"
	"pgbaton/internal/postgres"
	"pgbaton/internal/ui"
)

// tellsStalls says whether a command tells what its statements wait for: with --json
// some print one object and no more.
func tellsStalls(cmd *cobra.Command, printer *ui.Printer) bool {
	return !printer.JSON() || cmd.Name() != "status" && cmd.Name() != "report"
}

// watchStalls says what a statement of ours waits for, on either side, when that takes
// more than a moment.
func watchStalls(m migrate.Config, printer *ui.Printer) {
	for _, server := range []*postgres.Server{m.Source, m.Target} {
		server.Watch(func(s postgres.Stall) {
			printer.Observe(event.Waiting{For: s.For, Side: s.Side, Behind: s.Behind, Seconds: s.Elapsed.Seconds()})
		})
	}
}
