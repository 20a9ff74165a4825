package postgres

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Beacon is a mark by which any session, of whatever role, knows that it is in the
// same database of the same running server: an advisory lock under a random key
// (https://www.postgresql.org/docs/current/view-pg-locks.html). A standby has locks
// of its own, so it does not show it, though its system identifier is the same.
type Beacon struct{ key int64 }

// LightBeacon marks the server and database of a session, until the session ends or
// the beacon is put out.
func LightBeacon(ctx context.Context, conn *Session) (Beacon, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand never fails on a supported system
	}
	beacon := Beacon{int64(binary.NativeEndian.Uint64(b[:]))}
	_, err := conn.Exec(ctx, lightSQL, beacon.key)
	return beacon, err
}

// PutOut ends the mark.
func (b Beacon) PutOut(ctx context.Context, conn *Session) error {
	_, err := conn.Exec(ctx, putOutSQL, b.key)
	return err
}

// Sight is what a session sees of where it is.
type Sight struct {
	Here  bool   // the beacon: same server, same database
	Where string // for people
}

// Look says where a session is. One message, in the simple protocol: it may lead
// through a pooler, and find names by whatever search_path the database has.
func (b Beacon) Look(ctx context.Context, conn *pgconn.PgConn) (Sight, error) {
	results, err := conn.Exec(ctx, fmt.Sprintf(`
		BEGIN READ ONLY; SET LOCAL search_path = '';
		SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l
				WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
					AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
					AND (l.classid::int8 << 32 | l.objid::int8) = '%d'::int8),
			pg_catalog.format('database %%I of the %%s at %%s', pg_catalog.current_database(),
				CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'standby' ELSE 'server' END,
				coalesce(pg_catalog.host(pg_catalog.inet_server_addr()) || ', port ' || pg_catalog.inet_server_port()::text,
					'a Unix socket, port ' || pg_catalog.current_setting('port')));
		COMMIT`, b.key)).ReadAll()
	if err != nil {
		return Sight{}, err
	}
	row := results[2].Rows[0]
	return Sight{Here: string(row[0]) == "t", Where: string(row[1])}, nil
}

// lookAt opens a session to look around in.
func (s *Server) lookAt(ctx context.Context, at *member, l learned) (*pgconn.PgConn, error) {
	config, _ := at.session(s.Database())
	config.ValidateConnect = nil // we look ourselves
	maps.Copy(config.RuntimeParams, sessionSettings(l))
	return pgconn.ConnectConfig(ctx, config)
}

// LeadsTo logs in through the host and port by which others will be led here, at every
// address that the host's name has, and says why that does not lead to the beacon; ""
// when it does. An address that does not answer is no reason as long as another does.
func (s *Server) LeadsTo(ctx context.Context, b Beacon) (why string, err error) {
	m := s.place()
	addresses := []string{m.address}
	if m.address == "" && !filepath.IsAbs(m.host) {
		if addresses, err = m.config.LookupFunc(ctx, m.host); err != nil {
			return fmt.Sprintf("the name %s: %v", m.host, err), nil
		}
	}
	var reached bool
	for _, address := range addresses {
		at := &member{host: m.host, address: address, config: m.config}
		conn, failed := s.lookAt(ctx, at, s.known())
		if Code(failed) == UndefinedObject { // a setting that an older server does not have: another one
			conn, failed = s.lookAt(ctx, at, learned{})
		}
		if failed != nil {
			why = fmt.Sprintf("%s: %s", at, &attempts{failed})
			continue
		}
		sight, err := b.Look(ctx, conn)
		_ = conn.Close(ctx)
		if err != nil {
			return "", err
		}
		if !sight.Here {
			return fmt.Sprintf("%s leads to %s", at, sight.Where), nil
		}
		reached = true
	}
	if reached {
		why = ""
	}
	return why, nil
}

const (
	lightSQL  = `SELECT pg_catalog.pg_advisory_lock_shared($1)`
	putOutSQL = `SELECT pg_catalog.pg_advisory_unlock_shared($1)`
)

// PlanBeacon is what lighting and putting out a beacon sends, for a plan.
func PlanBeacon() []string {
	return []string{strings.Replace(lightSQL, "$1", "<beacon>", 1), strings.Replace(putOutSQL, "$1", "<beacon>", 1)}
}
