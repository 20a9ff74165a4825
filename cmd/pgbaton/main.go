// Command pgbaton moves a live PostgreSQL database to another server.
package main

import (
	"context"
	"os"

	"pgbaton/internal/cli"
)

func main() {
	os.Exit(cli.Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
