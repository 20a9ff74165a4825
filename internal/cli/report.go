package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"pgbaton/internal/migrate"
	"pgbaton/internal/outcome"
	"pgbaton/internal/ui"
)

func (a *app) reportCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Tell the migration: timeline, handovers, pauses",
		Long: `report tells what the migration's two databases remember of it: when the copy was
complete, every handover with its phases to the millisecond, and how the fence of
the side without the baton is lifted. finish removes what it is read from: keep it
with finish --report FILE.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "markdown" && format != "json" {
				return usagef("--format must be markdown or json, not %q", format)
			}
			return a.withMigration(cmd, migrate.Looks, nil, func(ctx context.Context, m *migrate.Migration, _ *ui.Printer) error {
				report, err := m.Report(ctx)
				if err != nil {
					return err
				}
				return a.answerIn(a.json || format == "json", report, outcome.State{Baton: report.Baton}, func(outcome.Next) {
					ui.Report(a.stdout, report)
				})
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", "markdown", "markdown or json")
	return cmd
}

// keepReport writes the report to a file, before finish removes what it is read
// from. A file that is there is replaced as a whole.
func (a *app) keepReport(ctx context.Context, m *migrate.Migration, file string) error {
	report, err := m.Report(ctx)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	ui.Report(&text, report)
	temp, err := os.CreateTemp(filepath.Dir(file), ".pgbaton-report-")
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	defer os.Remove(temp.Name()) // gone when it was renamed
	_, err = temp.Write(text.Bytes())
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}
