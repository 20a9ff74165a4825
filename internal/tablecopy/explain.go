package tablecopy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/phrase"
	"pgbaton/internal/postgres"
)

// SQLSTATEs that a copy has a remedy for, beyond those of package postgres.
const (
	invalidParameterValue        = "22023"
	objectNotInPrerequisiteState = "55000"
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
	classLimit                   = "54" // a value is too long for an index, for instance
	classRaised                  = "P0"
	classExternal                = "38"
)

// droppedRows says that the target stored fewer rows than it was sent, without an error.
type droppedRows struct{ sent, stored int64 }

func (d droppedRows) Error() string {
	return fmt.Sprintf("the source sent %s and the target stored %d", phrase.Count(d.sent, "row"), d.stored)
}

// explainRelay names the table in an error of relay, and adds the remedy.
func (l *loader) explainRelay(t postgres.Ident, err error) error {
	var e *postgres.Error
	if !errors.As(err, &e) {
		return err // ctx has ended
	}
	return postgres.WrapHint(e.Side, fmt.Sprintf("%s of %s", e.Doing, t), e.Err, l.hintOr(e.Hint, e.Side, t, e.Err))
}

// explain makes an error of one side name the table, with the remedy.
func (l *loader) explain(side postgres.Side, doing string, t postgres.Ident, err error) error {
	if err == nil {
		return nil
	}
	return blame(side, err, postgres.WrapHint(side, fmt.Sprintf("%s %s", doing, t), err, l.hintOr(postgres.Hint(err), side, t, err)), t)
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
// a constraint, an expression cannot be computed from it, or an index cannot hold it.
func ofRows(code string) bool {
	return slices.ContainsFunc([]string{classIntegrity, classData, classLimit, classRaised, classExternal}, func(class string) bool {
		return strings.HasPrefix(code, class)
	})
}

// hintOr keeps a hint that is there and else finds one.
func (l *loader) hintOr(known string, side postgres.Side, t postgres.Ident, err error) string {
	if known != "" {
		return known
	}
	const again = "then run start again"
	code := postgres.Code(err)
	var dropped droppedRows
	switch {
	case errors.As(err, &dropped):
		return fmt.Sprintf("a trigger on the target drops rows: ALTER TABLE %s DISABLE TRIGGER USER there, %s", t, again)
	case lost(err):
		return fmt.Sprintf("the connection to the %s was lost: see its server's log and the network between, %s", side, again)
	case code == adminShutdown, code == crashShutdown, strings.HasPrefix(code, classConnection):
		return fmt.Sprintf("someone ended the session or the %s's server: see its log, %s", side, again)
	case code == postgres.QueryCanceled:
		return "someone cancelled the statement; run start again"
	case code == diskFull:
		return fmt.Sprintf("give the %s's server more disk space, %s", side, again)
	case code == postgres.InsufficientPrivilege && side == postgres.Source:
		return "a right was taken since start began: pgbaton check prints the statements that give it back; " + again
	case code == postgres.InsufficientPrivilege:
		return fmt.Sprintf("on the target %s needs the rights of the owner of %s: GRANT that role to it; "+
			"where the message names a function, that owner must be allowed to EXECUTE it; %s", postgres.QuoteIdent(l.job.Target.User()), t, again)
	case changed(err):
		return fmt.Sprintf("%s was changed on one side after start began: %s", t, strings.TrimPrefix(again, "then "))
	case side == postgres.Target && ofRows(code):
		return fmt.Sprintf("repair the rows of %s on the source, %s: it copies the tables concerned again", t, again)
	}
	return "remove the cause, " + again
}

// changed says whether what a statement of ours names is not there as it was. Where a
// function of the user's does not find something, the server gives a context.
func changed(err error) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case postgres.UndefinedTable, postgres.InvalidSchema, postgres.UndefinedColumn:
		return e.Where == ""
	}
	return e.Code == badCopyFormat || e.Code == invalidBinary
}

// lost tells whether it is the connection that failed, not the server.
func lost(err error) bool {
	var e net.Error
	return errors.As(err, &e) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}
