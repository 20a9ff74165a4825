package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"pgbaton/internal/catalog"
	"pgbaton/internal/migrate"
	"pgbaton/internal/preflight"
)

// startFlags are shared by check, plan and start.
type startFlags struct {
	method     string
	jobs       int
	indexJobs  int
	groups     string
	maxRate    size
	maxSlotWAL size
	splitAbove size
	hold       bool
	roles      bool
	accept     []string
	dumpDir    string
	trySchema  bool
	selection  catalog.Selection
	tries      func() preflight.TrySchema
}

// register adds them; trySchema is what the command does when it was not told.
func (f *startFlags) register(cmd *cobra.Command, trySchema preflight.TrySchema) {
	flags := cmd.Flags()
	flags.StringVar(&f.method, "method", string(migrate.Stream), "how the rows get there: stream, native or dump")
	flags.IntVar(&f.jobs, "jobs", 4, "tables, or parts of big ones, copied at a time")
	flags.IntVar(&f.indexJobs, "index-jobs", 0, "method stream: indexes built at a time (default: as many as --jobs)")
	flags.StringVar(&f.groups, "groups", "1", "method stream: streams that apply changes in parallel, or auto")
	flags.Var(&f.maxRate, "max-rate", "method stream: bytes copied a second at most, for example 50MB")
	flags.Var(&f.maxSlotWAL, "max-slot-wal", "method stream: give up the copy when the source has to keep more WAL for it, for example 100GB")
	flags.Var(&f.splitAbove, "split-above", "method stream: copy tables larger than this in parts (default: those that would keep all others waiting)")
	flags.BoolVar(&f.hold, "hold", false, "leave the subscription disabled")
	flags.BoolVar(&f.roles, "roles", false, "copy roles that are missing on the target")
	flags.StringSliceVar(&f.accept, "accept", nil, "accept a finding of check by its code (repeatable)")
	flags.BoolVar(&f.trySchema, "try-schema", false, "restore the definitions into a throw-away database of the target first, and show what fails (start does so by itself up to 1,000 objects; =false: never)")
	f.tries = func() preflight.TrySchema {
		switch {
		case f.trySchema:
			return preflight.TryAlways
		case flags.Changed("try-schema"):
			return preflight.TryNever
		}
		return trySchema
	}
	flags.StringVar(&f.dumpDir, "dump-dir", "", "method dump: keep the archive in this directory")
	// A pattern may hold commas.
	flags.StringArrayVar(&f.selection.Schemas, "schema", nil, "move only schemas that match this pattern (repeatable)")
	flags.StringArrayVar(&f.selection.ExcludeSchemas, "exclude-schema", nil, "leave out schemas that match (repeatable)")
	flags.StringArrayVar(&f.selection.Tables, "table", nil, "move only tables that match this pattern (repeatable)")
	flags.StringArrayVar(&f.selection.ExcludeTables, "exclude-table", nil, "leave out tables that match (repeatable)")
}

func (f *startFlags) apply(m *migrate.Config) error {
	if !slices.Contains([]string{"stream", "native", "dump"}, f.method) {
		return usagef("--method must be stream, native or dump, not %q", f.method)
	}
	if f.jobs < 1 || f.jobs > 256 {
		return usagef("--jobs must be between 1 and 256")
	}
	if f.indexJobs < 0 || f.indexJobs > 256 {
		return usagef("--index-jobs must be between 1 and 256")
	}
	if f.dumpDir != "" && f.method != "dump" {
		return usagef("--dump-dir goes with --method dump")
	}
	groups := 0
	if f.groups != "auto" {
		var err error
		if groups, err = strconv.Atoi(f.groups); err != nil || groups < 1 || groups > 64 {
			return usagef("--groups must be auto or a number between 1 and 64, not %q", f.groups)
		}
	}
	if f.method != "stream" {
		for _, o := range []struct {
			name  string
			given bool
		}{
			{"--groups", groups != 1}, {"--index-jobs", f.indexJobs > 0}, {"--max-rate", f.maxRate > 0},
			{"--max-slot-wal", f.maxSlotWAL > 0}, {"--split-above", f.splitAbove > 0},
		} {
			if o.given {
				return usagef("%s goes with --method stream", o.name)
			}
		}
	}
	for _, code := range f.accept {
		if !slices.Contains(preflight.Acceptable(), code) {
			return usagef("--accept %s: only these findings can be accepted: %s", code, strings.Join(preflight.Acceptable(), ", "))
		}
	}
	if err := f.selection.Check(); err != nil {
		return &usageError{err}
	}
	m.Method, m.Jobs, m.IndexJobs, m.Hold, m.Roles = migrate.Method(f.method), f.jobs, f.indexJobs, f.hold, f.roles
	if m.IndexJobs == 0 {
		m.IndexJobs = f.jobs
	}
	m.TrySchema = f.tries()
	m.Groups, m.MaxRate, m.MaxSlotWAL, m.SplitAbove = groups, int64(f.maxRate), int64(f.maxSlotWAL), int64(f.splitAbove)
	m.Accept, m.DumpDir, m.Selection = f.accept, f.dumpDir, f.selection
	return nil
}

// size is a number of bytes that is written with a unit, as PostgreSQL's settings
// are: 1GB is 1024MB. 0 is none.
type size int64

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"TB", 1 << 40}, {"GB", 1 << 30}, {"MB", 1 << 20}, {"kB", 1 << 10}, {"B", 1}, {"", 1}}

// Set implements pflag.Value.
func (s *size) Set(text string) error {
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(strings.TrimSpace(text), u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 1 || n > (1<<62)/u.bytes {
			break
		}
		*s = size(n * u.bytes)
		return nil
	}
	return fmt.Errorf("%q is not a size such as 500MB or 20GB", text)
}

// String implements pflag.Value.
func (s *size) String() string {
	for _, u := range sizeUnits {
		if *s > 0 && int64(*s)%u.bytes == 0 {
			return strconv.FormatInt(int64(*s)/u.bytes, 10) + u.suffix
		}
	}
	return ""
}

// Type implements pflag.Value: what help shows in place of the value.
func (s *size) Type() string { return "size" }
