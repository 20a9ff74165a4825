package fence

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// The statements of the leak check.
const (
	openLeakSQL  = `SELECT pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput', true)`
	leaksSQL     = `SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', $2)`
	closeLeakSQL = `SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1`
)

// OpenLeakCheck makes a temporary logical slot right after the fence: whatever
// is written to a published table from here on can be seen in it (f of rule 2).
// It lives as long as the session, at most. Its creation waits for transactions
// open in the whole cluster.
func OpenLeakCheck(ctx context.Context, conn *postgres.Session, slot string) error {
	_, err := conn.Exec(ctx, openLeakSQL, slot)
	return err
}

// tryFor bounds the trying of a slot: its creation waits for every open
// transaction that has written.
const tryFor = 500 * time.Millisecond

// TryLeakCheck makes the slot, reads it if publications are named, and drops it.
// busy says that open transactions kept it from being made in time.
func TryLeakCheck(ctx context.Context, conn *postgres.Session, slot string, publications []string) (busy bool, err error) {
	if _, err := conn.Exec(ctx, fmt.Sprintf("SET statement_timeout = %d", tryFor.Milliseconds())); err != nil {
		return false, err
	}
	err = OpenLeakCheck(ctx, conn, slot)
	_, resetErr := conn.Exec(ctx, "SET statement_timeout = 0")
	if postgres.Code(err) == postgres.QueryCanceled && ctx.Err() == nil {
		return true, resetErr
	}
	if err = errors.Join(err, resetErr); err != nil {
		return false, err
	}
	if len(publications) > 0 {
		if _, err := Leaks(ctx, conn, slot, publications); err != nil {
			return false, err
		}
	}
	return false, CloseLeakCheck(ctx, conn, slot)
}

// CloseLeakCheck drops the slot.
func CloseLeakCheck(ctx context.Context, conn *postgres.Session, slot string) error {
	_, err := conn.Exec(ctx, closeLeakSQL, slot)
	return err
}

// Leaks peeks into the slot and lists the published tables that somebody other
// than pgbaton has written to since the fence.
func Leaks(ctx context.Context, conn *postgres.Session, slot string, publications []string) ([]string, error) {
	quoted := make([]string, len(publications))
	for i, p := range publications {
		quoted[i] = postgres.QuoteIdent(p)
	}
	rows, err := conn.Query(ctx, leaksSQL, slot, strings.Join(quoted, ","))
	if err != nil {
		return nil, err
	}
	messages, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, err
	}
	relations := map[uint32]postgres.Ident{}
	written := map[string]bool{}
	var leaks []string
	for _, m := range messages {
		for _, oid := range changed(m, relations) {
			t := relations[oid]
			if name := t.String(); t.Schema != "pgbaton" && !written[name] {
				written[name] = true
				leaks = append(leaks, name)
			}
		}
	}
	return leaks, nil
}

// changed reads one pgoutput message: it notes a relation's name and returns
// the relations that a change names
// (https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html).
func changed(m []byte, relations map[uint32]postgres.Ident) []uint32 {
	if len(m) < 5 {
		return nil
	}
	first := binary.BigEndian.Uint32(m[1:5])
	switch m[0] {
	case 'R': // relation: oid, namespace, name
		parts := strings.SplitN(string(m[5:]), "\x00", 3)
		if len(parts) == 3 {
			if parts[0] == "" {
				parts[0] = "pg_catalog"
			}
			relations[first] = postgres.Ident{Schema: parts[0], Name: parts[1]}
		}
	case 'I', 'U', 'D':
		return []uint32{first}
	case 'T': // truncate: count, options, oids
		var oids []uint32
		for i := 6; i+4 <= len(m) && len(oids) < int(first); i += 4 {
			oids = append(oids, binary.BigEndian.Uint32(m[i:i+4]))
		}
		return oids
	}
	return nil
}

// LeakError says that a published table was written to after the fence.
func LeakError(tables []string) error {
	return fmt.Errorf("somebody wrote to %s after the fence: a session of a superuser, or of pgbaton's own role, that overrides the read-only default", strings.Join(tables, ", "))
}
