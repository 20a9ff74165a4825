package cli

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"pgbaton/internal/demo"
	"pgbaton/internal/outcome"
)

// demoName is the command's name.
const demoName = "demo"

func (a *app) demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   demoName,
		Short: "Watch a shop under load move between two throw-away servers",
		Long: `demo starts two throw-away servers, a PgBouncer where one is found, and a small
online shop with shoppers. It moves the shop from one server to the other, back,
and there again: check, start, status, rehearse, switchover, rollback, switchover,
report, finish. It shows what the shoppers noticed, and proves that every order
acknowledged to one of them is there exactly once. The programs are looked for in
POSTGRES_DIR and where the usual packages put them; "make demo" brings them.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.From < 10 || o.To > 19 || o.From > o.To {
				return usagef("--from and --to must be majors from 10 to 19, --to not the older")
			}
			o.PostgresDir, o.PgBin = os.Getenv("POSTGRES_DIR"), a.connections.pgBin
			o.Out = a.stdout
			if a.json {
				o.Out = a.stderr
			}
			report, err := demo.Run(cmd.Context(), o)
			if err != nil && cmd.Context().Err() != nil {
				return errStopped
			}
			if err != nil {
				return err
			}
			okay := struct {
				OK bool `json:"ok"`
				demo.Report
			}{true, report}
			return a.answer(okay, outcome.State{}, func(outcome.Next) {}) // its story has been told
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.From, "from", demo.DefaultFrom, "major version of the old server")
	flags.IntVar(&o.To, "to", demo.DefaultTo, "major version of the new server")
	flags.BoolVar(&o.Keep, "keep", false, "stop after the first switchover and leave everything running until Ctrl-C")
	flags.BoolVar(&o.Direct, "direct", false, "connect the shop without PgBouncer: a hook points it at the other server")
	flags.IntVar(&o.Port, "port", demo.DefaultPort, "port of the storefront")
	flags.IntVar(&o.Orders, "orders", demo.DefaultOrders, "orders in the shop's history")
	return cmd
}

// errStopped is the end of a demo that was interrupted: it has cleaned up.
var errStopped = errors.New("the demo was stopped; nothing of it is left")
