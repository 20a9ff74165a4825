package schema

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// Sections of an archive, as pg_restore names them. Everything is for an
// archive that also holds rows.
const (
	PreData    = "pre-data"
	Data       = "data" // rows, and statistics of tables
	PostData   = "post-data"
	AfterPre   = "data post-data" // both
	Everything = ""
)

// never are the options that keep out of an archive what is not moved: the
// user's own publications and subscriptions, and our own schema.
var never = []string{"--no-publications", "--no-subscriptions", "--exclude-schema=pgbaton"}

// DumpSchema writes the definitions, as a snapshot shows them, into a file. An
// empty snapshot takes one of pg_dump's own. What a selection leaves out is left
// out of the archive by name: unlike with --schema and --table of pg_dump, it
// still has the extensions, types, functions and casts that the rest needs.
func DumpSchema(source *postgres.Server, snapshot, file string, exclude ...catalog.Exclusion) Command {
	args := append([]string{"--format=custom", "--schema-only"}, never...)
	args = append(args, exclusions(exclude)...)
	return dump(source, snapshot, file, args)
}

// WithStatistics makes a DumpSchema one that also takes the planner's statistics
// along. pg_dump must be 18 or newer, and so must a target that is to have them.
func (c Command) WithStatistics() Command {
	i := slices.Index(c.Args, "--schema-only")
	c.Args = slices.Replace(slices.Clone(c.Args), i, i+1, "--no-data", "--statistics")
	return c
}

// DumpAll writes definitions and rows into a directory, jobs tables at a time.
// Large objects are left out: they are not replicated (check says so).
func DumpAll(source *postgres.Server, snapshot, directory string, jobs int, exclude ...catalog.Exclusion) Command {
	args := append([]string{"--format=directory", fmt.Sprintf("--jobs=%d", jobs), "--no-blobs"}, never...)
	args = append(args, exclusions(exclude)...)
	return dump(source, snapshot, directory, args)
}

// exclusions are pg_dump's options for what is left out. To pg_dump they are
// patterns: a name in double quotes matches itself alone.
func exclusions(exclude []catalog.Exclusion) []string {
	var args []string
	for _, x := range exclude {
		for _, name := range x.Schemas {
			args = append(args, "--exclude-schema="+postgres.QuoteIdent(name))
		}
		for _, r := range x.Relations {
			args = append(args, "--exclude-table="+r.String())
		}
	}
	// pg_dump takes its arguments to be in the database's encoding, unless told
	// which; ours are in UTF-8.
	beyondASCII := func(r rune) bool { return r >= 0x80 }
	if slices.ContainsFunc(args, func(a string) bool { return strings.ContainsFunc(a, beyondASCII) }) {
		args = append(args, "--encoding=UTF8")
	}
	return args
}

func dump(source *postgres.Server, snapshot, file string, args []string) Command {
	if snapshot != "" {
		args = append(args, "--snapshot="+snapshot)
	}
	args = append(args, "--file="+file)
	return Command{Program: "pg_dump", Args: args, server: source}
}

// Dump runs pg_dump.
func Dump(ctx context.Context, tools Tools, c Command) error {
	stderr, err := c.run(ctx, tools, nil)
	if err == nil {
		return nil
	}
	if exitStatus(err) != 0 && stderr != "" {
		err = fmt.Errorf("%s: %s", err, stderr)
	}
	return postgres.WrapHint(postgres.Source, "pg_dump", err,
		"the message above is pg_dump's own; a missing privilege is shown by pgbaton check")
}

// RestoreOptions say what of the archive's ownership the target can have.
type RestoreOptions struct {
	Jobs    int
	NoOwner bool   // an owner role does not exist on the target
	NoGrant bool   // a grantee or grantor does not exist on the target
	List    string // file with the entries to restore, "" for all
}

// Restore builds the pg_restore of a section. It does not stop at the first
// error, so that a DBA sees all of them; RunRestore judges them.
func Restore(target *postgres.Server, archive, section string, o RestoreOptions) Command {
	args := []string{"--verbose"}
	for _, one := range strings.Fields(section) {
		args = append(args, "--section="+one)
	}
	if o.Jobs > 1 && section != PreData {
		args = append(args, fmt.Sprintf("--jobs=%d", o.Jobs))
	}
	if o.List != "" {
		args = append(args, "--use-list="+o.List)
	}
	if o.NoOwner {
		args = append(args, "--no-owner")
	}
	if o.NoGrant {
		args = append(args, "--no-privileges")
	}
	// Thousands of small commits; the load as a whole is made durable at its end.
	return Command{Program: "pg_restore", Args: append(args, archive), server: target, settings: []string{"synchronous_commit=off"}}
}

// RunRestore runs pg_restore and fails unless every error it met is harmless. helps
// are errors of statements without which the database is the same: comments, labels,
// statistics. onItem hears each finished item of a parallel restore: its number in
// the archive's list.
func RunRestore(ctx context.Context, tools Tools, c Command, onItem func(id string)) (helps []string, err error) {
	failures, helps, err := restore(ctx, tools, c, onItem)
	if err != nil || len(failures) == 0 {
		return helps, err
	}
	texts := make([]string, len(failures))
	for i, f := range failures {
		texts[i] = f.Message
	}
	return nil, postgres.WrapHint(postgres.Target, "pg_restore", fmt.Errorf("%s", strings.Join(texts, "\n")),
		"the target cannot hold the source's definitions as they are: change them on the source, then run start again")
}

// restore runs pg_restore and returns what failed, without what is harmless. An error
// is one of pg_restore itself, or the context's.
func restore(ctx context.Context, tools Tools, c Command, onItem func(id string)) (failures []Failure, helps []string, err error) {
	stderr, err := c.run(ctx, tools, func(line string) {
		if m := finishedItem.FindStringSubmatch(line); m != nil && onItem != nil {
			onItem(m[1])
		}
	})
	failures, helps = restoreFailures(stderr)
	if err == nil && len(failures) == 0 {
		return nil, helps, nil
	}
	if len(failures) == 0 && exitStatus(err) == 1 && strings.Contains(stderr, "errors ignored on restore") {
		return nil, helps, nil // only harmless ones
	}
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	if len(failures) == 0 {
		failures = []Failure{{Message: strings.Join(tail(stderr, 5), "\n")}}
	}
	return failures, helps, nil
}

// Failure is something that pg_restore could not do.
type Failure struct {
	Object  string // `VIEW "public.sales"`, as pg_restore names it; of a parallel restore perhaps another; may be empty
	Message string // the server's, and the statement, on several lines
}

var (
	finishedItem = regexp.MustCompile(`finished item (\d+) `)
	creating     = regexp.MustCompile(`^pg_restore: (?:creating|processing|executing) (.+)$`)
	chatter      = regexp.MustCompile(`^pg_restore: (connecting|creating|processing|executing|launching|finished|entering|skipping|dropping|setting|implied|disabling|enabling|from TOC|while |warning: errors ignored)`)
)

// harmless are statements that fail where nothing is lost: settings of a newer
// pg_dump that an older server does not know, and the comment that only an
// extension's owner may set (the extension brings the same comment).
var harmless = []string{"Command was: SET transaction_timeout", "Command was: COMMENT ON EXTENSION"}

// helping matches failures of statements that only help. (A mark of CLUSTER stands in
// the statement that makes its index.)
var helping = regexp.MustCompile(`Command was: (SELECT \* FROM pg_catalog.pg_restore_(relation|attribute)_stats\(|(COMMENT ON|SECURITY LABEL|CREATE STATISTICS|ALTER STATISTICS|ALTER (TABLE|INDEX|FOREIGN TABLE|MATERIALIZED VIEW) .* (SET STATISTICS|CLUSTER ON)) )`)

// restoreFailures cuts pg_restore's messages into failures, without the harmless
// ones, and puts those aside that only help. A failure begins with "pg_restore:
// error:" and goes on until the next message.
func restoreFailures(stderr string) (failures []Failure, helps []string) {
	object := ""
	var current []string
	end := func() {
		text := strings.Join(current, "\n")
		current = nil
		if text == "" {
			return
		}
		for _, h := range harmless {
			if strings.Contains(text, h) {
				return
			}
		}
		if helping.MatchString(text) {
			helps = append(helps, text)
			return
		}
		failures = append(failures, Failure{object, text})
	}
	for _, line := range strings.Split(stderr, "\n") {
		switch {
		case strings.HasPrefix(line, "pg_restore: error:"):
			end()
			current = []string{strings.TrimPrefix(line, "pg_restore: error: ")}
		case chatter.MatchString(line):
			end()
			if m := creating.FindStringSubmatch(line); m != nil {
				object = m[1]
			}
		case current != nil:
			current = append(current, line)
		}
	}
	end()
	return failures, helps
}

func tail(s string, n int) []string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return all[max(0, len(all)-n):]
}

// Items lists the archive's entries that hold rows: number to table.
func Items(ctx context.Context, tools Tools, archive string) (map[string]postgres.Ident, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(tools.Dir, "pg_restore"), "--list", archive).Output()
	if err != nil {
		return nil, fmt.Errorf("pg_restore --list: %w", err)
	}
	items := map[string]postgres.Ident{}
	for _, line := range strings.Split(string(out), "\n") {
		if m := tableData.FindStringSubmatch(line); m != nil {
			items[m[1]] = postgres.Ident{Schema: m[2], Name: m[3]}
		}
	}
	return items, nil
}

// tableData matches "4032; 0 16402 TABLE DATA public orders owner". A name with
// a space makes schema and table ambiguous here; the number is what counts.
var tableData = regexp.MustCompile(`^(\d+); \d+ \d+ TABLE DATA (\S+) (.*) \S+$`)
