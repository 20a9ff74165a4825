package outcome_test

import (
	"testing"

	"pgbaton/internal/migrate"
	. "pgbaton/internal/outcome"
)

// TestAfter goes a migration's way, and off it.
func TestAfter(t *testing.T) {
	for _, c := range []struct {
		after State
		want  string
	}{
		{State{Command: "check", Phase: migrate.PhaseNew}, "pgbaton start"},
		{State{Command: "check"}, "pgbaton status"},
		{State{Command: "check", Phase: migrate.PhaseNew, Code: NotNow}, "pgbaton check"},
		{State{Command: "plan", Phase: migrate.PhaseNew}, "pgbaton start"},
		{State{Command: "start", Phase: migrate.PhaseStreaming}, "pgbaton rehearse"},
		{State{Command: "start", Phase: migrate.PhaseHeld}, "pgbaton resume"},
		{State{Command: "start", Code: Failed}, "pgbaton start"},
		{State{Command: "start", Code: NotNow}, "pgbaton start"},
		{State{Command: "pause", Phase: migrate.PhaseHeld}, "pgbaton resume"},
		{State{Command: "pause", Phase: migrate.PhaseHeld, Broken: true}, "pgbaton reset"},
		{State{Command: "pause", Phase: migrate.PhaseHeld, Broken: true, Generation: 1}, "pgbaton finish"},
		{State{Command: "resume"}, "pgbaton status"},
		{State{Command: "rehearse", Forth: "rollback"}, "pgbaton rollback"},
		{State{Command: "rehearse", Code: NotNow}, "pgbaton rehearse"},
		{State{Command: "rehearse", Code: NotNow, Phase: migrate.PhaseCopying}, "pgbaton start"},
		{State{Command: "switchover", Code: NotNow, Phase: migrate.PhaseCopying}, "pgbaton start"},
		{State{Command: "switchover", Code: NotNow}, "pgbaton switchover"},
		{State{Command: "switchover"}, "pgbaton status"},
		{State{Command: "switchover", Code: Failed}, "pgbaton status"},
		{State{Command: "switchover", Code: Aborted}, "pgbaton status"},
		{State{Command: "rollback", Code: AfterPass}, "pgbaton rollback"},
		{State{Command: "rollback", Code: Unknown}, "pgbaton rollback"},
		{State{Command: "finish"}, ""},
		{State{Command: "finish", Left: true}, "pgbaton finish"},
		{State{Command: "reset"}, "pgbaton check"},
		{State{Command: "reset", Left: true}, "pgbaton reset"},
		{State{Command: "report"}, "pgbaton status"},
		{State{Command: "version"}, "pgbaton check"},
		{State{Command: "demo"}, "pgbaton check"},
		{State{Code: Usage}, "pgbaton help"},
		{State{Command: "start", Code: Usage}, "pgbaton start --help"},
		{State{Command: "status", Code: Failed}, "pgbaton status"},

		{State{Command: "status", Phase: migrate.PhaseNew}, "pgbaton check"},
		{State{Command: "status", Phase: migrate.PhaseCopying}, "pgbaton start"},
		{State{Command: "status", Phase: migrate.PhaseCopying, Working: true}, "pgbaton status"},
		{State{Command: "status", Phase: migrate.PhaseCatchingUp}, "pgbaton status"},
		{State{Command: "status", Phase: migrate.PhaseStreaming}, "pgbaton rehearse"},
		{State{Command: "status", Phase: migrate.PhaseHeld}, "pgbaton resume"},
		{State{Command: "status", Phase: migrate.PhaseHeld, Broken: true}, "pgbaton reset"},
		{State{Command: "status", Phase: migrate.PhaseSwitched}, "pgbaton finish"},
		{State{Command: "status", Phase: migrate.PhaseSwitched, Paused: true}, "pgbaton resume"},
		{State{Command: "status", Phase: migrate.PhaseSwitched, Unfinished: "switchover"}, "pgbaton switchover"},
		{State{Command: "status", Phase: migrate.PhaseStreaming, Unfinished: "switchover", Working: true}, "pgbaton status"},
		{State{Command: "status", Phase: migrate.PhaseStreaming, Unread: true}, "pgbaton status"},
		{State{Command: "status", Phase: migrate.PhaseFinished}, ""},
	} {
		got := After(c.after)
		if got.Command != c.want || got.Why == "" {
			t.Errorf("%+v: %+v, not %s", c.after, got, c.want)
		}
	}
}
