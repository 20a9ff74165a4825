package cli

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"pgbaton/internal/migrate"
	"pgbaton/internal/option"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
)

// connections are the flags that every command on a migration has.
type connections struct {
	source, target   string
	sourceFromTarget string
	targetFromSource string
	migration        string
	config           string
	pgBin            string
}

func (c *connections) register(f *pflag.FlagSet) {
	f.StringVar(&c.source, "source", "", "connection string of the database to leave (or PGBATON_SOURCE)")
	f.StringVar(&c.target, "target", "", "connection string of the database to move to (or PGBATON_TARGET)")
	f.StringVar(&c.sourceFromTarget, "source-from-target", "", "how the target's server reaches the source, where that differs")
	f.StringVar(&c.targetFromSource, "target-from-source", "", "how the source's server reaches the target, where that differs")
	option.MarkSecret(f, "source", "target", "source-from-target", "target-from-source")
	f.StringVar(&c.migration, "migration", "default", "name of the migration")
	f.StringVar(&c.config, "config", "", "YAML file that may hold every option by its flag's name")
	f.StringVar(&c.pgBin, "pg-bin", "", "directory of pg_dump and pg_restore")
}

// configure fills the flags that were not given: from the environment
// (PGBATON_SOURCE for --source, and so on), then from the configuration file.
func (a *app) configure(cmd *cobra.Command) error {
	if err := fromEnvironment(cmd.Flags()); err != nil {
		return err
	}
	if a.connections.config == "" {
		return nil
	}
	text, err := os.ReadFile(a.connections.config)
	if err != nil {
		return &usageError{fmt.Errorf("reading the configuration: %w", err)}
	}
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		// The parser's message shows the line, which may hold a password.
		return usagef("the configuration %s is not valid YAML", a.connections.config)
	}
	known := knownFlags(cmd.Root())
	for name, value := range values {
		if !known[name] {
			return usagef("the configuration %s has an unknown option %q", a.connections.config, name)
		}
		flag := cmd.Flags().Lookup(name)
		if flag == nil || flag.Changed {
			continue // another command's option, or one that was given
		}
		if err := setFlag(cmd.Flags(), name, value); err != nil {
			return usagef("the configuration %s: option %q has an invalid value", a.connections.config, name)
		}
	}
	return nil
}

// setFlag sets a flag from a YAML value; a list gives a repeatable flag once per
// element.
func setFlag(flags *pflag.FlagSet, name string, value any) error {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	for _, v := range list {
		if err := flags.Set(name, fmt.Sprint(v)); err != nil {
			return err
		}
	}
	return nil
}

// notFromEnvironment are flags that a stray variable must not set.
var notFromEnvironment = []string{"yes", "help", "json"}

func fromEnvironment(flags *pflag.FlagSet) (err error) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || err != nil || slices.Contains(notFromEnvironment, f.Name) {
			return
		}
		name := option.Variable(f.Name)
		if v, ok := os.LookupEnv(name); ok && v != "" {
			if flags.Set(f.Name, v) != nil {
				err = usagef("environment variable %s has an invalid value", name)
			}
		}
	})
	return err
}

// flagSets are the flags that all commands have, and those of each.
func flagSets(root *cobra.Command) []*pflag.FlagSet {
	sets := []*pflag.FlagSet{root.PersistentFlags()}
	for _, c := range root.Commands() {
		sets = append(sets, c.Flags())
	}
	return sets
}

func knownFlags(root *cobra.Command) map[string]bool {
	known := map[string]bool{}
	for _, set := range flagSets(root) {
		set.VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
	}
	delete(known, "config")
	delete(known, "help")
	return known
}

// secretVariables are the variables of the environment that a command of the operator's
// does not see: they may hold a password, by the flags they stand for or by libpq.
func secretVariables(root *cobra.Command) []string {
	return append(option.SecretVariables(flagSets(root)...), postgres.SecretVariables()...)
}

// migration makes the migration's configuration from the flags.
func (a *app) migration() (migrate.Config, error) {
	c := a.connections
	if c.source == "" || c.target == "" {
		missing := "--source"
		if c.source != "" {
			missing = "--target"
		}
		return migrate.Config{}, usagef("%s is missing: a connection string, as a flag, as %s in the environment, or in --config",
			missing, option.Variable(missing[2:]))
	}
	if err := validName(c.migration); err != nil {
		return migrate.Config{}, err
	}
	source, err := postgres.NewServer(postgres.Source, c.source)
	if err != nil {
		return migrate.Config{}, usagef("--source: %w", err)
	}
	target, err := postgres.NewServer(postgres.Target, c.target)
	if err != nil {
		return migrate.Config{}, usagef("--target: %w", err)
	}
	m := migrate.Config{Input: preflight.Input{Name: c.migration, Source: source, Target: target, PgBin: c.pgBin}}
	for _, o := range []struct {
		flag, value string
		server      *postgres.Server
		into        *postgres.Reach
	}{
		{"--source-from-target", c.sourceFromTarget, source, &m.SourceFromTarget},
		{"--target-from-source", c.targetFromSource, target, &m.TargetFromSource},
	} {
		given, err := postgres.ParseGiven(o.value)
		if err != nil {
			return m, usagef("%s: %w", o.flag, err)
		}
		*o.into = o.server.ReachBy(given)
	}
	return m, nil
}

// validName keeps a migration's name printable; what the cluster sees of it is
// made safe elsewhere.
func validName(name string) error {
	if name == "" || len(name) > 200 {
		return usagef("--migration must have 1 to 200 bytes")
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return usagef("--migration must not contain control characters")
	}
	return nil
}

// confirm asks before something that cannot be taken back, unless --yes says so.
func (a *app) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return usagef("%s: there is no terminal to ask at; give --yes", question)
	}
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answer, _ := bufio.NewReader(a.stdin).ReadString('\n')
	if s := strings.ToLower(strings.TrimSpace(answer)); s != "y" && s != "yes" {
		return usagef("not confirmed")
	}
	return nil
}
