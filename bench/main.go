// Command bench measures pgbaton on throw-away servers that write to disk as
// real ones do: how long a start takes by each method, what it costs, and how
// long a handover makes an application wait. `make bench` runs it. `make
// bench-copy` compares the copying with other tools, which takes hours.
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
	pgbaton    string
	out        string
	from, to   int
	orders     int
	runs       int
	methods    []string
	jobs       int
	handovers  int
	series     []series
	clients    int
	rate       float64
	statements bool
	limit      time.Duration
	copy       copyOptions
	largeRows  int
	largePairs []versions
	showFloor  bool
	parts      []string
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
	if o.showFloor {
		fmt.Print(floorScript)
		return 0
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
	flags.StringVar(&o.out, "out", "bench-out", "directory for the results: start.md, start.json, handover.md, and so on")
	flags.IntVar(&o.from, "from", 12, "major version of the source of start")
	flags.IntVar(&o.to, "to", 15, "major version of the target of start")
	flags.IntVar(&o.orders, "orders", 400_000, "orders in the shop that start copies")
	flags.IntVar(&o.runs, "runs", 0, "starts by each method (0 stands for 3), copies by each contestant (5)")
	methods := flags.String("methods", "stream,native,dump", "methods to measure")
	flags.IntVar(&o.jobs, "jobs", 4, "--jobs of start, and of other contestants")
	flags.IntVar(&o.handovers, "handovers", 10, "handovers each way in each series")
	var names []string
	for _, s := range allSeries {
		names = append(names, s.Name)
	}
	wanted := flags.String("series", strings.Join(names, ","), "series of handovers to measure")
	flags.IntVar(&o.clients, "clients", 10, "clients during handovers")
	flags.Float64Var(&o.rate, "rate", 300, "transactions a second of all clients together")
	flags.BoolVar(&o.statements, "statements", false, "log all statements of handovers and show what each phase consists of; this slows them down")
	databases := flags.String("databases", strings.Join(allDatabases, ","), "databases to copy")
	pairs := flags.String("pairs", "12-15,13-17,15-18", "source and target to copy between")
	rivals := flags.String("contestants", strings.Join(contestantNames(), ","), "who copies; not everybody copies every database")
	flags.StringVar(&o.copy.pgcopydb, "pgcopydb", "", "the pgcopydb to measure (default the newest that scripts/fetch-postgres brought)")
	flags.StringVar(&o.copy.before, "before", "", "another build of pgbaton to copy with, between the runs of this one")
	flags.Float64Var(&o.copy.scale, "scale", 1, "size of the databases to copy; 1 is about 3, 3 GB and 10,000 tables")
	flags.BoolVar(&o.copy.kill, "kill", false, "also kill copies by pgbaton and go on with them")
	flags.IntVar(&o.largeRows, "large-rows", 5_000_000, "rows of a large transaction")
	large := flags.String("large-pairs", "15-18,17-18", "source and target of large transactions")
	flags.BoolVar(&o.showFloor, "show-floor", false, "print the script that is the floor of copy, and do nothing else")
	flags.DurationVar(&o.limit, "limit", 0, "give up after this time (default 25m, 24h with copy or large)")
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "Usage: bench [flags] [%s]\n\nWithout a part: %s.\n", strings.Join(allParts, "] ["), strings.Join(usualParts, " and "))
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.parts = flags.Args(); len(o.parts) == 0 {
		o.parts = usualParts
	}
	for _, part := range o.parts {
		if !slices.Contains(allParts, part) {
			return o, fmt.Errorf("there is no part %q; --help shows them (flags come first)", part)
		}
	}
	for name := range strings.SplitSeq(*wanted, ",") {
		i := slices.Index(names, name)
		if i < 0 {
			return o, fmt.Errorf("--series: there is no series %q", name)
		}
		o.series = append(o.series, allSeries[i])
	}
	o.methods = strings.FieldsFunc(*methods, func(r rune) bool { return r == ',' })
	for _, m := range o.methods {
		if !slices.Contains([]string{"stream", "native", "dump"}, m) {
			return o, fmt.Errorf("--methods: there is no method %q", m)
		}
	}
	if o.limit == 0 {
		o.limit = 25 * time.Minute
		if slices.Contains(o.parts, "copy") || slices.Contains(o.parts, "large") {
			o.limit = 24 * time.Hour
		}
	}
	if err := o.copy.parse(*databases, *pairs, *rivals); err != nil {
		return o, err
	}
	for text := range strings.SplitSeq(*large, ",") {
		v, err := parseVersions(text)
		if err != nil {
			return o, fmt.Errorf("--large-pairs: %w", err)
		}
		o.largePairs = append(o.largePairs, v)
	}
	if o.runs < 0 || o.largeRows < 1 || o.jobs < 1 || o.copy.scale <= 0 || o.orders < 0 || o.handovers < 1 || o.clients < 1 || o.rate <= 0 {
		return o, errors.New("wrong usage; --help shows the flags")
	}
	return o, nil
}

// allParts can be measured one by one; usualParts are those that do not take
// hours.
var (
	allParts   = []string{"start", "handover", "copy", "large"}
	usualParts = allParts[:2]
)

// measure makes the measurements and writes a report of each part.
func measure(ctx context.Context, o options) error {
	for _, part := range o.parts {
		o := o
		if o.runs == 0 {
			if o.runs = 3; part == "copy" {
				o.runs = 5
			}
		}
		r := report{Machine: describeMachine(), Options: describeOptions(o), At: time.Now().UTC()}
		do := measureStarts
		switch part {
		case "handover":
			do = measureHandovers
		case "copy":
			do, r.Options = measureCopies, describeCopyOptions(o)
		case "large":
			do, r.Options = measureLarge, []string{fmt.Sprintf("--large-rows %d --runs %d", o.largeRows, o.runs)}
		}
		if err := do(ctx, o, &r); err != nil {
			return err
		}
		if err := errors.Join(r.write(o.out, part, os.Stdout), r.broken()); err != nil {
			return err
		}
	}
	return nil
}

// say tells whoever waits what is being done.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
