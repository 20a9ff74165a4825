package tablecopy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
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
	classData                    = "22"
	classRaised                  = "P0"
	classExternal                = "38"
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
	return blame(side, err, postgres.WrapHint(side, fmt.Sprintf("%s %s", doing, t), err, hintOr(postgres.Hint(err), side, t, err)), t)
}

// RowsError is a failure that rows are to blame for, which are on the target already
// and do not satisfy an index, a key or a check: no later try with these rows can
// succeed. Once they are repaired on the source, their tables have to be copied again.
type RowsError struct {
	Tables []postgres.Ident // whose rows it may be
	Err    error
}

// Error is that of the failure.
func (e *RowsError) Error() string { return e.Err.Error() }

// Unwrap gives the failure.
func (e *RowsError) Unwrap() error { return e.Err }

// blame makes an error a RowsError if it is one of rows. cause is what the server
// said: it may know which of the tables it was.
func blame(side postgres.Side, cause, err error, tables ...postgres.Ident) error {
	if side != postgres.Target || !ofRows(postgres.Code(cause)) {
		return err
	}
	return &RowsError{Tables: tables, Err: err}
}

// ofRows says whether it is for what is in a row that a statement failed: it violates
// a constraint, or an expression cannot be computed from it.
func ofRows(code string) bool {
	return slices.ContainsFunc([]string{classIntegrity, classData, classRaised, classExternal}, func(class string) bool {
		return strings.HasPrefix(code, class)
	})
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
		return fmt.Sprintf("%s was changed on one side after start began: %s", t, strings.TrimPrefix(again, "then "))
	case code == untranslatableCharacter, code == characterNotInRepertoire:
		return fmt.Sprintf("the target cannot store this text: repair the rows of %s on the source, %s; or pgbaton reset, and start into a database with the encoding of the source's", t, again)
	case side == postgres.Target && ofRows(code):
		return fmt.Sprintf("rows of %s are not as this asks for: repair them on the source, %s: it copies what they are in anew", t, again)
	}
	return "remove the cause, " + again
}

// lost tells whether it is the connection that failed, not the server.
func lost(err error) bool {
	var e net.Error
	return errors.As(err, &e) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}
