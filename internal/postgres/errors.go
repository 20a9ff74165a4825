package postgres

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs on which pgbaton branches
// (https://www.postgresql.org/docs/current/errcodes-appendix.html).
const (
	InvalidPassword       = "28P01"
	InvalidAuthorization  = "28000"
	ProtocolViolation     = "08P01"
	UndefinedDatabase     = "3D000"
	UndefinedTable        = "42P01"
	UndefinedColumn       = "42703"
	UndefinedFunction     = "42883"
	UndefinedObject       = "42704"
	InvalidSchema         = "3F000"
	DuplicateDatabase     = "42P04"
	FeatureNotSupported   = "0A000"
	InsufficientPrivilege = "42501"
	LockNotAvailable      = "55P03"
	ObjectInUse           = "55006"
	QueryCanceled         = "57014"
	TooManyConnections    = "53300"
	ConfigLimitExceeded   = "53400"
	InvalidOptionName     = "HV00D"
	AdminShutdown         = "57P01"
)

// Error is something that failed on one side, with the remedy.
type Error struct {
	Side  Side
	Doing string // what was being done: "creating the publication"
	Err   error
	Hint  string // what to do next; may be empty
}

// Error says what failed and where. The server's SQLSTATE, detail and hint are
// part of it.
func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s: %s", e.Side, e.Doing, Describe(e.Err))
}

// Unwrap gives the cause, so that *pgconn.PgError stays reachable.
func (e *Error) Unwrap() error { return e.Err }

// Wrap names the side and the action of an error; nil stays nil.
func Wrap(side Side, doing string, err error) error {
	return WrapHint(side, doing, err, "")
}

// WrapHint is Wrap with a remedy.
func WrapHint(side Side, doing string, err error, hint string) error {
	if err == nil {
		return nil
	}
	return &Error{Side: side, Doing: doing, Err: err, Hint: hint}
}

// WrapRights is Wrap with a remedy for want of rights: whatever else fails it does not mend.
func WrapRights(side Side, doing string, err error, hint string) error {
	if Code(err) != InsufficientPrivilege {
		hint = ""
	}
	return WrapHint(side, doing, err, hint)
}

// Hint returns the remedies attached to an error, outermost first.
func Hint(err error) string {
	var hints []string
	for err != nil {
		if e, ok := err.(*Error); ok && e.Hint != "" && !slices.Contains(hints, e.Hint) {
			hints = append(hints, e.Hint)
		}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, one := range joined.Unwrap() {
				if h := Hint(one); h != "" && !slices.Contains(hints, h) {
					hints = append(hints, h)
				}
			}
			break
		}
		err = errors.Unwrap(err)
	}
	return strings.Join(hints, "; ")
}

// Code returns the SQLSTATE of a server error, "" for any other error.
func Code(err error) string {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return pe.Code
	}
	return ""
}

// Gone says whether a server has answered that something a statement names is not there.
func Gone(err error) bool {
	return slices.Contains([]string{UndefinedTable, UndefinedColumn, UndefinedFunction, UndefinedObject, InvalidSchema}, Code(err))
}

// Refused says whether a server has answered, and would answer the same the next time:
// that it will not do something, not that it cannot do it now.
func Refused(err error) bool {
	var pe *pgconn.PgError
	if !errors.As(err, &pe) || pe.Severity != "ERROR" || len(pe.Code) != 5 {
		return false
	}
	switch pe.Code[:2] {
	// connection, rollback, resources, prerequisite state, operator, system, internal
	case "08", "40", "53", "55", "57", "58", "XX":
		return false
	}
	return true
}

// Ended says whether a session was ended by somebody, as a fence does, or not let in:
// the server said so, or the connection just broke. A server that nobody can connect to
// has ended nothing.
func Ended(err error) bool {
	if err == nil {
		return false
	}
	if pe := (*pgconn.PgError)(nil); errors.As(err, &pe) {
		return pe.Code == AdminShutdown || NotLetIn(err)
	}
	if dial := (*net.OpError)(nil); errors.As(err, &dial) {
		return dial.Op != "dial" && !dial.Timeout()
	}
	// the last: a statement of a session that had ended before
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err)
}

// NotLetIn says whether a role may not connect to the database.
func NotLetIn(err error) bool {
	pe := (*pgconn.PgError)(nil)
	return errors.As(err, &pe) && pe.Code == InsufficientPrivilege && pe.SeverityUnlocalized == "FATAL"
}

// Describe prints an error with the server's detail and hint, which pgconn
// leaves out of its own text.
func Describe(err error) string {
	text := err.Error()
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		if pe.Detail != "" && !strings.Contains(text, pe.Detail) {
			text += "; detail: " + pe.Detail
		}
		if pe.Hint != "" && !strings.Contains(text, pe.Hint) {
			text += "; server's hint: " + pe.Hint
		}
	}
	return text
}
