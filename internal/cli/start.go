package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/phrase"
	"pgbaton/internal/preflight"
	"pgbaton/internal/ui"
)

func (a *app) startCommand() *cobra.Command {
	var f startFlags
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Bring the target from nothing to streaming; run again, it continues",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withMigration(cmd, migrate.Asks, f.apply, func(ctx context.Context, m *migrate.Migration, p *ui.Printer) error {
				result, err := m.Start(ctx)
				if err != nil {
					return err
				}
				p.Close()
				return a.answer(okayStart{true, result}, outcome.State{Phase: result.Phase}, func(next outcome.Next) {
					copied := ""
					if result.BytesCopied > 0 {
						copied = fmt.Sprintf("%s, %s copied", phrase.Count(result.TablesCopied, "table"), ui.Bytes(result.BytesCopied))
						if result.BytesPerSec > 0 {
							copied += fmt.Sprintf(" at %s/s", ui.Bytes(int64(result.BytesPerSec)))
						}
						copied += ". "
					}
					fmt.Fprintf(a.stdout, "%sThe migration is %s after %s.\n", copied, result.Phase, ui.Seconds(result.Seconds))
					ui.Next(a.stdout, next)
				})
			})
		},
	}
	f.register(cmd, preflight.TryFew)
	return cmd
}

// okayStart is the result of a start that went well.
type okayStart struct {
	OK bool `json:"ok"`
	migrate.StartResult
}
