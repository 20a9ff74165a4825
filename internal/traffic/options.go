package traffic

import (
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// Options are what a command is told of what stands between the application and its
// database, for each kind of mover. A guardian gets them as JSON.
type Options struct {
	PgBouncer pgBouncerOptions `json:"pgbouncer"`
	Hooks     hookOptions      `json:"hooks"`
}

// kinds are all there are, in the order in which they act. A new kind is a file with its
// options and its mover, and a line here.
func (o *Options) kinds() []kind { return []kind{&o.PgBouncer, &o.Hooks} }

// kind is a way to move traffic: the options that ask for it.
type kind interface {
	about() about
	// register declares the flags, and marks those that may hold a secret.
	register(f *pflag.FlagSet)
	// mover makes the mover; nil when nobody has asked for one. Its errors are about
	// the flags.
	mover(s Surroundings) (Mover, error)
}

// about is what can be said of a kind before there is a mover.
type about struct {
	title string // what it is called; the names of its movers begin with it
	flags string // what its flags begin with
	plan  Plan
}

// Plan says for people what a mover's actions do.
type Plan struct{ Pause, Switch, Resume string }

// Surroundings are what a mover finds where it runs.
type Surroundings struct {
	Output io.Writer // for what the operator's commands print
	// Announce, if not nil, is told the process group of a command of the operator's
	// before the command begins, and its negative when it has ended: whoever takes over
	// from us can end it.
	Announce func(group int)
	Secrets  []string // variables of the environment that no command of the operator's sees
}

// Register declares the flags of all kinds.
func (o *Options) Register(f *pflag.FlagSet) {
	for _, k := range o.kinds() {
		k.register(f)
	}
}

// Mover makes what was asked for. An error is wrong usage.
func (o *Options) Mover(s Surroundings) (Mover, error) {
	var all several
	for _, k := range o.kinds() {
		m, err := k.mover(s)
		switch {
		case err != nil:
			return nil, err
		case m == nil:
			all.absent = append(all.absent, k.about().title)
		default:
			all.movers = append(all.movers, m)
		}
	}
	return all, nil
}

// Planned says what the actions of any kind do.
func Planned() Plan {
	var pauses, switches, resumes []string
	for _, k := range new(Options).kinds() {
		p := k.about().plan
		pauses, switches, resumes = append(pauses, p.Pause), append(switches, p.Switch), append(resumes, p.Resume)
	}
	const or = ", or "
	return Plan{strings.Join(pauses, or), strings.Join(switches, or), strings.Join(resumes, or)}
}

// SameRemedy is how a command is told of a mover that it lacks, by the name that the
// journal has of it.
func SameRemedy(name string) (remedy string) {
	var every []string
	for _, k := range new(Options).kinds() {
		a := k.about()
		if strings.HasPrefix(name, a.title+" ") {
			every = []string{a.flags}
			break
		}
		every = append(every, a.flags)
	}
	return "give this command the same " + strings.Join(every, " or ") + " options, so that it can let the traffic go"
}
