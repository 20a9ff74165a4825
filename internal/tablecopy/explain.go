package tablecopy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"pgbaton/internal/postgres"
)

// SQLSTATEs that a copy has a remedy for, beyond those of package postgres.
const (
	invalidParameterValue        = "22023"
	objectNotInPrerequisiteState = "55000"
	undefinedColumn              = "42703"
	untranslatableCharacter      = "22P05"
	characterNotInRepertoire     = "22021"
	badCopyFormat                = "22P04"
	invalidBinary                = "22P03"
	diskFull                     = "53100"
	adminShutdown                = "57P01"
	crashShutdown                = "57P02"
	cannotConnectNow             = "57P03"
	tooManyConnections           = "53300"
	serializationFailure         = "40001"
	deadlockDetected             = "40P01"
	classIntegrity               = "23"
	classConnection              = "08"
)

// explainRelay names the table in an error of relay, and adds the remedy.
func explainRelay(t postgres.Ident, err error) error {
	var e *postgres.Error
	if !errors.As(err, &e) {
		return err // ctx has ended
	}
	return postgres.WrapHint(e.Side, fmt.Sprintf("%s of %s", e.Doing, t), e.Err, hintOr(e.Hint, e.Side, t, e.Err))
}

// explain makes an error of one side name the table, with the remedy.
func explain(side postgres.Side, doing string, t postgres.Ident, err error) error {
	if err == nil {
		return nil
	}
	return postgres.WrapHint(side, fmt.Sprintf("%s %s", doing, t), err, hintOr(postgres.Hint(err), side, t, err))
}

// hintOr keeps a hint that is there and else finds one.
func hintOr(known string, side postgres.Side, t postgres.Ident, err error) string {
	if known != "" {
		return known
	}
	const again = "then run start again"
	code := postgres.Code(err)
	switch {
	case lost(err):
		return fmt.Sprintf("the connection to the %s was lost: see its server's log and the network between, %s", side, again)
	case code == adminShutdown, code == crashShutdown, strings.HasPrefix(code, classConnection):
		return fmt.Sprintf("someone ended the session or the %s's server: see its log, %s", side, again)
	case code == postgres.QueryCanceled:
		return "someone cancelled the statement; run start again"
	case code == diskFull:
		return fmt.Sprintf("give the %s's server more disk space, %s", side, again)
	case code == postgres.InsufficientPrivilege && side == postgres.Source:
		return fmt.Sprintf("GRANT SELECT ON %s to pgbaton's role, and ALTER ROLE … BYPASSRLS if the table has row security; %s", t, again)
	case code == postgres.InsufficientPrivilege:
		return fmt.Sprintf("pgbaton's role must own %s or be a member of the role that does; %s", t, again)
	case code == postgres.UndefinedTable, code == postgres.InvalidSchema, code == undefinedColumn, code == badCopyFormat, code == invalidBinary:
		return fmt.Sprintf("%s is not the same on both sides: was it changed after start began? make them equal, %s", t, again)
	case code == untranslatableCharacter, code == characterNotInRepertoire:
		return fmt.Sprintf("the target cannot store this text: create its database with the encoding of the source's, or repair the rows of %s on the source, %s", t, again)
	case side == postgres.Target && strings.HasPrefix(code, classIntegrity):
		return fmt.Sprintf("rows of the source do not satisfy a constraint of the target's %s: repair them on the source, or drop the constraint if it is the target's only, %s", t, again)
	}
	return "remove the cause, " + again
}

// lost tells whether it is the connection that failed, not the server.
func lost(err error) bool {
	var e net.Error
	return errors.As(err, &e) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}
