// Command pgbaton moves a live PostgreSQL database to another server.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"pgbaton/internal/cli"
)

func main() {
	// Ten thousand tables make some garbage; memory next to a database is worth more
	// than the little time that this takes.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	os.Exit(cli.Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
