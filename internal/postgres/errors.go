package postgres

import (
	"errors"
	"fmt"
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
	UndefinedObject       = "42704"
	InvalidSchema         = "3F000"
	DuplicateObject       = "42710"
	DuplicateDatabase     = "42P04"
	FeatureNotSupported   = "0A000"
	InsufficientPrivilege = "42501"
	LockNotAvailable      = "55P03"
	ObjectInUse           = "55006"
	QueryCanceled         = "57014"
	TooManyConnections    = "53300"
	ConfigLimitExceeded   = "53400"
	InvalidOptionName     = "HV00D"
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
