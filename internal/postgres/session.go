package postgres

import (
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Session is a session on a side's server: it knows which side that is, and which
// version.
type Session struct {
	*pgx.Conn
	*Server
}

// Version is that of the session's server.
func (s *Session) Version() Version { return VersionOf(s.Conn) }

// VersionOf is the version of the server that a session, or a transaction, is on.
func VersionOf(db any) Version {
	switch c := db.(type) {
	case interface{ Version() Version }: // a Session
		return c.Version()
	case *pgx.Conn:
		return parseServerVersion(c.PgConn().ParameterStatus("server_version"))
	case interface{ Conn() *pgx.Conn }: // a transaction
		return VersionOf(c.Conn())
	}
	panic(fmt.Sprintf("%T is no session", db))
}
