package tablecopy

import (
	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/postgres"
)

const (
	// sessionEncoding is the client_encoding of every session of ours, in which
	// we send names.
	sessionEncoding = "UTF8"
	// noEncoding is the encoding of a database whose text is bytes.
	noEncoding = "SQL_ASCII"
)

// encodings tells in which encoding rows are sent and taken. They travel as the
// source stores them, so that nothing is converted twice.
//
// Bytes of no known encoding must be valid in the target's. It is told that they
// are in its own, for it would not check them if told the truth: COPY FROM in
// text and SQL_ASCII puts invalid strings into a UTF8 database (seen on 15, 17
// and 18, not on 12 and 13).
func encodings(source, target *pgconn.PgConn) (send, store string) {
	send, store = serverEncoding(source), serverEncoding(source)
	if send == noEncoding {
		store = serverEncoding(target)
	}
	return send, store
}

// serverEncoding is that of the database; every server tells it at connection
// start.
func serverEncoding(conn *pgconn.PgConn) string { return conn.ParameterStatus("server_encoding") }

// inEncoding makes the rows of a COPY travel in an encoding. Only the rows: a
// server converts the query string as a whole when it arrives, so names remain
// in the session's encoding.
//
// COPY's own option ENCODING would not do, for it does not reach the strings in
// a binary stream.
func inEncoding(encoding, copySQL string) string {
	if encoding == sessionEncoding {
		return copySQL
	}
	return setEncoding(encoding) + "; " + copySQL + "; " + setEncoding(sessionEncoding)
}

func setEncoding(name string) string { return "SET client_encoding TO " + postgres.QuoteLiteral(name) }
