package journal

import (
	"context"
	"encoding/json"

	"pgbaton/internal/postgres"
)

// Ends binds a migration to its two databases (rule 17): no command goes on between
// others, whatever they call themselves.
type Ends struct {
	Label  string   `json:"label"` // what names of slots, publications and subscriptions carry
	Source Database `json:"source"`
	Target Database `json:"target"`
}

// Label is what the names of a migration carry that the whole cluster sees: its
// name, and the beginning of its id, which no other run of that name has, from
// whichever database.
func Label(migration, id string) string { return migration + "_" + id[:8] }

// Label is what the names of this migration carry. Those that were begun before
// names carried an id go on under theirs.
func (r *Record) Label() string {
	if r.Ends == nil {
		return r.Name
	}
	return r.Ends.Label
}

// Of is the end on a side.
func (e *Ends) Of(side postgres.Side) Database {
	if side == postgres.Source {
		return e.Source
	}
	return e.Target
}

// Database tells a database from every other one, under whatever address it is
// reached.
type Database struct {
	System  string `json:"system,omitempty"` // of its cluster, which physical copies share; "" where the role may not read it
	OID     uint32 `json:"oid,omitempty"`    // 0: the database is still to be made
	Name    string `json:"name"`
	Address string `json:"address"` // for people: where it was when the migration began
}

// Same says whether both are one database, as far as either is known.
func (d Database) Same(o Database) bool {
	if d.System != "" && o.System != "" && d.System != o.System {
		return false
	}
	if d.OID == 0 || o.OID == 0 {
		return d.Name == o.Name
	}
	return d.OID == o.OID
}

// Is says whether the database that was found is this one, or was made in its
// place: with the old one its subscriptions are gone, so nobody else can be reading
// under the migration's names. The session is of the cluster where it was found.
func (d Database) Is(ctx context.Context, db postgres.DB, found Database) (bool, error) {
	if d.Same(found) {
		return true, nil
	}
	if d.System != found.System || d.Name != found.Name {
		return false, nil
	}
	var there bool
	err := db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE oid = $1)`, d.OID).Scan(&there)
	return !there, err
}

// ReadDatabase identifies the database of a session.
func ReadDatabase(ctx context.Context, db postgres.DB, server *postgres.Server) (Database, error) {
	d := Database{Address: server.Address()}
	var err error
	if d.System, err = ReadSystem(ctx, db); err != nil {
		return d, err
	}
	err = db.QueryRow(ctx, `SELECT oid, datname FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()`).
		Scan(&d.OID, &d.Name)
	return d, err
}

// ReadSystem returns the system identifier of a session's cluster, "" where the
// role may not read it.
func ReadSystem(ctx context.Context, db postgres.DB) (string, error) {
	var may bool
	err := db.QueryRow(ctx, `SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')`).Scan(&may)
	if err != nil || !may {
		return "", err
	}
	var system string
	err = db.QueryRow(ctx, `SELECT system_identifier::text FROM pg_catalog.pg_control_system()`).Scan(&system)
	return system, err
}

// PutEnds writes what a side's record says of the two databases.
func PutEnds(ctx context.Context, db postgres.DB, ends Ends) error {
	body, err := json.Marshal(ends)
	if err != nil {
		return err
	}
	if _, err := db.Exec(ctx, `ALTER TABLE pgbaton.migration ADD COLUMN IF NOT EXISTS ends jsonb`); err != nil { // a record from before they were recorded
		return err
	}
	_, err = db.Exec(ctx, `UPDATE pgbaton.migration SET ends = $1::text::jsonb`, string(body))
	return err
}
