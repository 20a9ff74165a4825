package outcome

import (
	"pgbaton/internal/migrate"
	"pgbaton/internal/postgres"
)

// Next is the command to run now. It is one that a person would run: what hands over
// or removes something still asks, and options are as before.
type Next struct {
	Command string `json:"command"` // "" when there is none
	Why     string `json:"why"`
}

// State is what a command that has ended knows of itself and of the migration.
type State struct {
	Command    string // that has ended, by its name
	Code       int    // its exit code
	Phase      string // of the migration; "" when the command has not looked
	Baton      postgres.Side
	Generation int64  // of the baton; 0: it never passed
	Working    bool   // another command is at work
	Unfinished string // the command that has not come to its end
	Paused     bool   // the stream to the side without the baton is disabled
	Broken     bool   // the stream to the side without the baton is lost
	Unread     bool   // a side could not be asked
	Left       bool   // not all could be removed
	Forth      string // after rehearse: the handover's command that was rehearsed
}

// After decides what to run after a command.
func After(s State) Next {
	switch s.Code {
	case Done:
		return s.done()
	case Usage:
		if s.Command == "" {
			return Next{"pgbaton help", "it shows the commands"}
		}
		return Next{"pgbaton " + s.Command + " --help", "it shows the command's options"}
	case NotNow:
		return s.notNow()
	case Aborted:
		return Next{"pgbaton status", "the side that had the baton serves again; when the reason is mended, pgbaton " + s.Command + " tries again"}
	case AfterPass:
		return s.again("when what the message says is mended: it continues from there, and nothing is repeated")
	case Unknown:
		return s.again("when both servers can be reached: it reads whether the baton has passed, and completes or undoes")
	}
	switch s.Command {
	case "switchover", "rollback":
		return Next{"pgbaton status", "it shows who serves, and what is left to do"}
	case "start":
		return s.again("when the reason is mended: it continues from where it stopped")
	}
	return s.again("when the reason is mended")
}

func (s State) again(why string) Next { return Next{"pgbaton " + s.Command, why} }

func (s State) notNow() Next {
	switch s.Command {
	case "check":
		return s.again("when the blockers' remedies have been run")
	case "rehearse", "switchover", "rollback":
		if s.Phase == migrate.PhaseCopying {
			return Next{"pgbaton start", "the copy is not complete: it continues"}
		}
	}
	return s.again("when the reasons are mended")
}

// done is what follows a command that has done as asked.
func (s State) done() Next {
	switch s.Command {
	case "check", "plan":
		if s.Phase == migrate.PhaseNew {
			return Next{"pgbaton start", "nothing stands in the way"}
		}
		return Next{"pgbaton status", "the migration has been started"}
	case "rehearse":
		return Next{"pgbaton " + s.Forth, "a handover would do within the pause that is allowed"}
	case "switchover", "rollback", "report":
		return Next{"pgbaton status", "it shows whether the stream to the other side flows"}
	case "finish":
		if s.Left {
			return s.again("when what is left can be removed")
		}
		return Next{"", "the migration is over"}
	case "reset":
		if s.Left {
			return s.again("when what is left can be removed")
		}
		return Next{"pgbaton check", "a new migration begins with it"}
	case "demo", "version":
		return Next{"pgbaton check", "a migration begins with it"}
	}
	return s.standing()
}

// standing is what a migration wants as it stands.
func (s State) standing() Next {
	switch {
	case s.Working:
		return Next{"pgbaton status", "a pgbaton command is at work"}
	case s.Unfinished != "":
		return Next{"pgbaton " + s.Unfinished, "it has not come to its end: run again, it does"}
	case s.Unread:
		return Next{"pgbaton status", "a server could not be asked: when it can be reached"}
	case s.Broken && s.Generation == 0:
		return Next{"pgbaton reset", "the stream to the target is lost: reset, and start again"}
	case s.Broken:
		return Next{"pgbaton finish", "the stream to the other side is lost: there is no going back"}
	}
	switch s.Phase {
	case migrate.PhaseNew:
		return Next{"pgbaton check", "a migration begins with it"}
	case migrate.PhaseCopying:
		return Next{"pgbaton start", "it is not complete: it continues"}
	case migrate.PhaseCatchingUp:
		return Next{"pgbaton status", "when the target has caught up"}
	case migrate.PhaseHeld:
		return Next{"pgbaton resume", "the subscription is disabled, and the side with the baton keeps WAL for it"}
	case migrate.PhaseStreaming:
		return Next{"pgbaton rehearse", "it measures the handover without making anyone wait"}
	case migrate.PhaseSwitched:
		if s.Paused {
			return Next{"pgbaton resume", "the way back is disabled, and the target keeps WAL for it"}
		}
		return Next{"pgbaton finish", "when the application is well there: it ends the way back, until then pgbaton rollback loses nothing"}
	case migrate.PhaseFinished:
		return Next{"", "the migration is over"}
	}
	return Next{"pgbaton status", "it shows where things stand"}
}
