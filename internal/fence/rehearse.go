package fence

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// errRehearsed rolls a rehearsal back.
var errRehearsed = errors.New("the rehearsal is over")

// Rehearse raises the fence and lifts it again in a transaction that is rolled
// back: it says whether both could be done, and whether every grant would come back
// as it was. Nobody waits for it, and nobody is kept out.
func Rehearse(ctx context.Context, conn *pgx.Conn, database string, keep []string) error {
	return rolledBack(ctx, conn, func(tx pgx.Tx) error {
		before, err := Read(ctx, tx)
		if err != nil {
			return err
		}
		granted, err := NeedGrant(ctx, tx, keep)
		if err != nil {
			return err
		}
		if err := execAll(ctx, tx, before.RaiseSQL(database, granted)); err != nil {
			return err
		}
		return liftAndCompare(ctx, tx, database, before)
	})
}

// RehearseLift lifts a raised fence in a transaction that is rolled back.
func RehearseLift(ctx context.Context, conn *pgx.Conn, database string) error {
	return rolledBack(ctx, conn, func(tx pgx.Tx) error {
		saved, err := Raised(ctx, tx)
		if err != nil || saved == nil {
			return err
		}
		return liftAndCompare(ctx, tx, database, *saved)
	})
}

func liftAndCompare(ctx context.Context, tx pgx.Tx, database string, want Saved) error {
	now, err := Read(ctx, tx)
	if err != nil {
		return err
	}
	if err := execAll(ctx, tx, want.LiftSQL(database, now.Grants)); err != nil {
		return err
	}
	after, err := Read(ctx, tx)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(byEntry(want), byEntry(after)) {
		return fmt.Errorf("the grants of database %s would not come back as they are", postgres.QuoteIdent(database))
	}
	return nil
}

// byEntry makes lists of grants comparable: their order has no meaning.
func byEntry(s Saved) map[string]Grant {
	entries := map[string]Grant{}
	for _, g := range s.Grants {
		if len(g.Grantable) == 0 {
			g.Grantable = nil
		}
		entries[g.Grantee+"\x00"+g.Grantor] = g
	}
	return entries
}

func rolledBack(ctx context.Context, conn *pgx.Conn, f func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		return errRehearsed
	})
	if errors.Is(err, errRehearsed) {
		return nil
	}
	return err
}
