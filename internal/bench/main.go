// Command bench measures pgbaton on throw-away servers that write to disk as
// real ones do: how long a start takes by each method, what it costs, and how
// long a handover makes an application wait. `make bench` runs it.
//
// Runs of different methods alternate, so that whatever else the machine does
// meets all of them alike. Read ratios rather than seconds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	pgbaton        string
	out            string
	from, to       int
	orders         int
	runs           int
	methods        []string
	jobs           int
	handovers      int
	handoverOrders int
	limit          time.Duration
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("the bound of --limit %s is reached", o.limit))
	defer cancel()
	err = measure(ctx, o)
	if err == nil {
		return 0
	}
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	return 1
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.pgbaton, "pgbaton", "bin/pgbaton", "the program to measure")
	flags.StringVar(&o.out, "out", "bench-out", "directory for start.md and start.json")
	flags.IntVar(&o.from, "from", 12, "major version of the source")
	flags.IntVar(&o.to, "to", 15, "major version of the target")
	flags.IntVar(&o.orders, "orders", 400_000, "orders in the shop that start copies")
	flags.IntVar(&o.runs, "runs", 3, "starts by each method")
	methods := flags.String("methods", "stream,native,dump", "methods to measure")
	flags.IntVar(&o.jobs, "jobs", 4, "--jobs of start")
	flags.IntVar(&o.handovers, "handovers", 5, "handovers of each kind, idle and under load; 0 for none")
	flags.IntVar(&o.handoverOrders, "handover-orders", 20_000, "orders in the shop that is handed over")
	flags.DurationVar(&o.limit, "limit", 10*time.Minute, "give up after this time")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.methods = strings.FieldsFunc(*methods, func(r rune) bool { return r == ',' })
	for _, m := range o.methods {
		if !slices.Contains([]string{"stream", "native", "dump"}, m) {
			return o, fmt.Errorf("--methods: there is no method %q", m)
		}
	}
	if o.runs < 1 || o.orders < 0 || o.handovers < 0 || o.handoverOrders < 0 || flags.NArg() > 0 {
		return o, errors.New("wrong usage; --help shows the flags")
	}
	return o, nil
}

// measure makes all measurements and writes the report.
func measure(ctx context.Context, o options) error {
	r := report{Machine: describeMachine(), Options: describeOptions(o), At: time.Now().UTC()}
	if len(o.methods) > 0 {
		if err := measureStarts(ctx, o, &r); err != nil {
			return err
		}
	}
	if o.handovers > 0 {
		if err := measureHandovers(ctx, o, &r); err != nil {
			return err
		}
	}
	return r.write(o.out, os.Stdout)
}

// say tells whoever waits what is being done.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
