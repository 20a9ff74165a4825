package schema

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// This file tries the source's definitions on the target, in a database of its own
// that is dropped again.

// trialPrefix begins the names of the throw-away databases.
const trialPrefix = "pgbaton_try_"

// trialLocks is the database in which the locks of throw-away databases are taken:
// one for all, as advisory locks are each database's own. Where it is out of reach
// nothing is tried.
const trialLocks = "postgres"

// Trial is what is tried.
type Trial struct {
	Tools          Tools
	Source, Target *postgres.Server
	SourceConn     *postgres.Session // to read from
	TargetConn     *postgres.Session // on the target database; nil when start will make it
	Exclusion      catalog.Exclusion
	Roles          bool // start will copy roles that are missing now
}

// Run restores the definitions into a throw-away database, as start does into the
// target's, and returns what failed there. The database is dropped, whatever comes:
// one that a killed process left is for RemoveTrials.
func (t Trial) Run(ctx context.Context) (failures []Failure, err error) {
	dir, err := WorkDir()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	archive := filepath.Join(dir, "schema")
	if err := Dump(ctx, t.Tools, DumpSchema(t.Source, "", archive, t.Exclusion)); err != nil {
		return nil, err
	}
	like := t.SourceConn
	if t.TargetConn != nil { // somebody has made it: its locale and settings count
		like = t.TargetConn
	}
	d, err := ReadDatabase(ctx, like)
	if err != nil {
		return nil, like.Wrap("reading the database's properties", err)
	}
	if t.TargetConn != nil {
		d.Owner = "" // ours, as whom else could we drop it
	}
	options, err := t.options(ctx, archive, filepath.Join(dir, "list"))
	if err != nil {
		return nil, err
	}
	conn, err := t.Target.ConnectDatabase(ctx, trialLocks)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	name := trialName()
	d.Comment, d.IsTemplate = "a throw-away database of pgbaton, which its next command removes", false
	// The lock first: it tells others that this database is not one of a dead process.
	if _, err = lockTrial(ctx, conn, name); err == nil {
		_, err = CreateDatabase(ctx, conn, d, name)
	}
	if err != nil {
		return nil, postgres.Wrap(postgres.Target, "creating a throw-away database", err)
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), trialEnd)
		defer cancel()
		if dropErr := dropTrial(end, conn, name); err == nil {
			err = dropErr
		}
	}()
	if _, err := DressDatabase(ctx, t.Target, conn, d, name); err != nil {
		return nil, postgres.Wrap(postgres.Target, "giving the throw-away database its settings", err)
	}
	failures, _, err = restore(ctx, t.Tools, Restore(t.Target.InDatabase(name), archive, Everything, options), nil)
	return failures, err
}

// trialEnd bounds the dropping of a throw-away database.
const trialEnd = 30 * time.Second

// options are those of start.
func (t Trial) options(ctx context.Context, archive, list string) (o RestoreOptions, err error) {
	ownership, err := ReadOwnership(ctx, t.SourceConn)
	if err != nil {
		return o, postgres.Wrap(postgres.Source, "reading owners and grants", err)
	}
	lost, err := catalog.LostForeignKeys(ctx, t.SourceConn, t.Exclusion)
	if err != nil {
		return o, postgres.Wrap(postgres.Source, "listing foreign keys", err)
	}
	conn := t.TargetConn
	if conn == nil {
		if conn, err = ConnectMaintenance(ctx, t.Target); err != nil {
			return o, err
		}
		defer conn.Close(context.WithoutCancel(ctx))
	}
	exists, err := Roles(ctx, conn)
	if err != nil {
		return o, postgres.Wrap(postgres.Target, "listing roles", err)
	}
	entries, err := Entries(ctx, t.Tools, archive, Everything)
	if err != nil {
		return o, err
	}
	var gone []Constraint
	for _, f := range lost {
		gone = append(gone, Constraint{OID: f.OID, Table: f.Table, Name: f.Name})
	}
	o = ownership.OptionsFor(exists, 1)
	if t.Roles && (o.NoOwner || o.NoGrant) { // what names roles can be tried when they are there
		entries = slices.DeleteFunc(entries, func(e Entry) bool { return e.Class == classPolicy || e.Class == classUserMapping })
	}
	o.List = list
	return o, WriteList(list, Without(entries, gone))
}

func trialName() string {
	random := make([]byte, 6)
	_, _ = rand.Read(random) // never fails
	return trialPrefix + hex.EncodeToString(random)
}

// lockTrial takes the lock of a throw-away database, in a session on trialLocks. It
// ends with that session.
func lockTrial(ctx context.Context, conn *postgres.Session, name string) (ok bool, err error) {
	err = conn.QueryRow(ctx, `SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext($1), pg_catalog.hashtext('pgbaton'))`, name).Scan(&ok)
	return ok, err
}

// RemoveTrials drops the throw-away databases of processes that were killed. conn is
// any session on the target.
func RemoveTrials(ctx context.Context, target *postgres.Server, conn *postgres.Session) error {
	rows, err := conn.Query(ctx, `
		SELECT datname FROM pg_catalog.pg_database
		WHERE pg_catalog.strpos(datname, $1) = 1 AND pg_catalog.pg_has_role(datdba, 'USAGE')`, trialPrefix)
	if err != nil {
		return postgres.Wrap(postgres.Target, "looking for throw-away databases", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(names) == 0 {
		return postgres.Wrap(postgres.Target, "looking for throw-away databases", err)
	}
	maintenance, err := target.ConnectDatabase(ctx, trialLocks)
	if err != nil {
		return err
	}
	defer maintenance.Close(context.WithoutCancel(ctx))
	for _, name := range names {
		stale, err := lockTrial(ctx, maintenance, name)
		if err != nil {
			return postgres.Wrap(postgres.Target, "looking for throw-away databases", err)
		}
		if stale {
			if err := dropTrial(ctx, maintenance, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropTrial drops a throw-away database. Our role may not be allowed to end the session
// of a superuser who looks into it.
func dropTrial(ctx context.Context, maintenance *postgres.Session, name string) error {
	quoted := postgres.QuoteIdent(name)
	return postgres.WrapHint(postgres.Target, "dropping the throw-away database "+quoted, DropDatabase(ctx, maintenance, name),
		"end the sessions in it, then DROP DATABASE "+quoted)
}
