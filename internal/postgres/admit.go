package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// PoolerError says that what answers at an address is no PostgreSQL server but a
// connection pooler in front of one. A session of ours must be one session of one
// server: with the settings that it was opened with, its locks and its snapshot.
type PoolerError struct{ Evidence string }

// Error implements error.
func (e *PoolerError) Error() string {
	return "this is a connection pooler, not the server: " + e.Evidence
}

// errOtherServer says that an address leads to another server than before.
var errOtherServer = errors.New("another server answers there than when this command began (its system identifier differs)")

// comparable says whether a setting shows as it was given: those of every session of
// ours do, but for what the server shows as 0 over a Unix socket, and a name that it
// may have made printable.
func comparable(name string) bool {
	_, ours := sessionSettings(learned{version: newestVersion, quiet: silences(newestVersion)})[name]
	return ours && name != "application_name" && !strings.HasPrefix(name, "tcp_")
}

// newestVersion stands for a server that knows every setting of ours.
const newestVersion Version = 1 << 30

// admit makes sure that a new session is what was asked for: its process is the one
// that the server told of when the session began, in two transactions of the first
// session of all, and its settings are those that it was opened with. A pooler gives
// a client neither. The first session also tells the server's identity, by which
// later ones know it.
func (s *Server) admit(ctx context.Context, conn *pgconn.PgConn, settings map[string]string) error {
	s.mu.Lock()
	first, identity := s.learned.version == 0, s.identity
	s.mu.Unlock()
	looks, may := 1, identity != ""
	if first {
		looks = 2
	}
	for range looks {
		shown, err := inspect(ctx, conn, settings, may)
		if err != nil {
			return err
		}
		if identity != "" && shown.identity != identity {
			return errOtherServer
		}
		may, identity = shown.mayIdentify, shown.identity
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity = identity
	return nil
}

// shown is what a session says of itself.
type shown struct {
	mayIdentify bool
	identity    string // the system identifier, if it was asked for
}

// inspect looks at a session once, in a transaction of its own.
func inspect(ctx context.Context, conn *pgconn.PgConn, asked map[string]string, identify bool) (shown, error) {
	var names []string
	for name := range asked {
		if comparable(name) {
			names = append(names, QuoteLiteral(name))
		}
	}
	sql := `
		SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.unnest(ARRAY[` + strings.Join(names, ", ") + `]) AS s (name)
		UNION ALL SELECT ' pid', pg_catalog.pg_backend_pid()::text
		UNION ALL SELECT ' may', pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')::text`
	if identify {
		sql += `
		UNION ALL SELECT ' system', system_identifier::text FROM pg_catalog.pg_control_system()`
	}
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return shown{}, err
	}
	is := map[string]string{}
	for _, row := range results[0].Rows {
		is[string(row[0])] = string(row[1])
	}
	if told := fmt.Sprint(conn.PID()); is[" pid"] != told {
		return shown{}, &PoolerError{Evidence: fmt.Sprintf("it told of server process %s, and the session is of process %s", told, is[" pid"])}
	}
	for name, value := range asked {
		if comparable(name) && is[name] != value {
			return shown{}, &PoolerError{Evidence: fmt.Sprintf("%s was asked for as '%s', and is '%s'", name, value, is[name])}
		}
	}
	return shown{mayIdentify: is[" may"] == "true", identity: is[" system"]}, nil
}
