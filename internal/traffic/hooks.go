package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
)

// Hooks are the operator's commands. Each runs in a shell, in a process group
// of its own; an empty one does nothing. They learn what happens from the
// environment: PGBATON_PHASE (pause, switch, resume, abort), PGBATON_MIGRATION,
// and PGBATON_TO_SIDE, _HOST, _PORT, _DATABASE and the same for PGBATON_FROM_.
// After an abort traffic belongs where it came from: TO is then the holder.
type Hooks struct {
	OnPause, OnSwitch, OnResume, OnAbort string

	Surroundings
}

var _ Mover = Hooks{}

// hookOptions ask for hooks.
type hookOptions struct {
	OnPause  string `json:"on_pause"`
	OnSwitch string `json:"on_switch"`
	OnResume string `json:"on_resume"`
	OnAbort  string `json:"on_abort"`
}

func (o *hookOptions) about() about {
	return about{title: "hook", flags: "--on-…", plan: Plan{Pause: "<--on-pause>", Switch: "<--on-switch>", Resume: "<--on-resume>"}}
}

func (o *hookOptions) register(f *pflag.FlagSet) {
	f.StringVar(&o.OnPause, "on-pause", "", "command that holds the application back")
	f.StringVar(&o.OnSwitch, "on-switch", "", "command that points the application at PGBATON_TO_HOST, _PORT, _DATABASE")
	f.StringVar(&o.OnResume, "on-resume", "", "command that lets the application go again")
	f.StringVar(&o.OnAbort, "on-abort", "", "command that lets the application go where it came from, after an abort")
}

// mover makes hooks also of no commands at all.
func (o *hookOptions) mover(s Surroundings) (Mover, error) {
	return Hooks{OnPause: o.OnPause, OnSwitch: o.OnSwitch, OnResume: o.OnResume, OnAbort: o.OnAbort, Surroundings: s}, nil
}

// Names implements Mover. What the commands hold back is known to them alone.
func (h Hooks) Names() []string { return nil }

// Close implements Mover.
func (h Hooks) Close() {}

// Check implements Mover: a shell must be able to read each command, and to find
// its first word.
func (h Hooks) Check(ctx context.Context, _ Route, _ time.Duration) (reasons []refusal.Reason, err error) {
	for _, hook := range []struct{ flag, command string }{
		{"--on-pause", h.OnPause}, {"--on-switch", h.OnSwitch}, {"--on-resume", h.OnResume}, {"--on-abort", h.OnAbort},
	} {
		if hook.command == "" {
			continue
		}
		if out, err := exec.CommandContext(ctx, "/bin/sh", "-n", "-c", hook.command).CombinedOutput(); err != nil {
			reasons = append(reasons, refusal.Reason{Why: fmt.Sprintf("the shell cannot read %s: %s", hook.flag, strings.TrimSpace(string(out))), Remedy: "mend the command"})
			continue
		}
		word, _, _ := strings.Cut(strings.TrimSpace(hook.command), " ")
		if !plainWord.MatchString(word) {
			continue // an expansion or an assignment: only running it tells
		}
		if err := exec.CommandContext(ctx, "/bin/sh", "-c", `command -v -- "$1" >/dev/null`, "sh", word).Run(); err != nil {
			reasons = append(reasons, refusal.Reason{Why: fmt.Sprintf("the command of %s does not exist: %s", hook.flag, word), Remedy: "give its full path"})
		}
	}
	return reasons, ctx.Err()
}

// Rehearse implements Mover: a command is not run for nothing.
func (h Hooks) Rehearse(context.Context, Route, time.Duration) (Rehearsal, error) {
	return Rehearsal{How: "a hook is not run, its time comes on top"}, nil
}

// Again implements Mover: a command is not run for nothing.
func (h Hooks) Again(context.Context, Route) error { return nil }

// Look implements Mover: where the commands lead applications is known to them alone.
func (h Hooks) Look(context.Context, Route, *postgres.Server, postgres.Beacon) []Sighting { return nil }

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./+-]+$`)

// Pause holds traffic back.
func (h Hooks) Pause(ctx context.Context, r Route) error {
	return h.run(ctx, "pause", h.OnPause, r)
}

// Switch points traffic at the route's end.
func (h Hooks) Switch(ctx context.Context, r Route) error {
	return h.run(ctx, "switch", h.OnSwitch, r)
}

// Resume lets traffic go again.
func (h Hooks) Resume(ctx context.Context, r Route) error {
	return h.run(ctx, "resume", h.OnResume, r)
}

// Abort lets traffic go where it came from, after a handover was given up.
func (h Hooks) Abort(ctx context.Context, r Route) error {
	r.From, r.To = r.To, r.From
	return h.run(ctx, "abort", h.OnAbort, r)
}

// run executes one hook. When ctx ends, its whole process group is killed.
func (h Hooks) run(ctx context.Context, phase, command string, r Route) error {
	if command == "" {
		return nil
	}
	// The command waits at a gate until it has been announced: there is no moment
	// in which it runs and nobody else knows of it. Should we die before, it ends.
	gate, open, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("hook --on-%s: %w", phase, err)
	}
	defer open.Close()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `read -r go <&3 || exit 1; exec 3<&-; exec /bin/sh -c "$1"`, "sh", command)
	cmd.ExtraFiles = []*os.File{gate}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // a grandchild that keeps our pipe open does not hold us
	cmd.Env = append(without(os.Environ(), h.Secrets), "PGBATON_PHASE="+phase, "PGBATON_MIGRATION="+r.Migration)
	for prefix, e := range map[string]Endpoint{"PGBATON_TO_": r.To, "PGBATON_FROM_": r.From} {
		cmd.Env = append(cmd.Env, prefix+"SIDE="+string(e.Side), prefix+"HOST="+e.Host,
			prefix+"PORT="+strconv.Itoa(e.Port), prefix+"DATABASE="+e.Database)
	}
	said := &lastWords{}
	cmd.Stderr, cmd.Stdout = said, said
	if h.Output != nil {
		out := io.MultiWriter(h.Output, said)
		cmd.Stderr, cmd.Stdout = out, out
	}
	err = cmd.Start()
	gate.Close()
	if err == nil {
		if h.Announce != nil {
			h.Announce(cmd.Process.Pid)
			defer h.Announce(-cmd.Process.Pid)
		}
		if _, err = open.WriteString("go\n"); err == nil {
			open.Close()
		}
		err = errors.Join(err, cmd.Wait())
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("hook --on-%s did not finish in time and was killed: %w", phase, ctx.Err())
	case errors.Is(err, exec.ErrWaitDelay):
		return nil // the command itself ended well; something it started in the background lives on
	}
	return fmt.Errorf("hook --on-%s failed: %w%s", phase, err, said.suffix())
}

// without takes variables out of an environment.
func without(env, names []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(names, name)
	})
}

// lastWords keeps the end of what a command printed.
type lastWords struct{ b []byte }

// Write implements io.Writer.
func (l *lastWords) Write(p []byte) (int, error) {
	l.b = append(l.b, p...)
	if len(l.b) > 2000 {
		l.b = l.b[len(l.b)-2000:]
	}
	return len(p), nil
}

func (l *lastWords) suffix() string {
	if s := strings.TrimSpace(string(l.b)); s != "" {
		return ": " + s
	}
	return ""
}
