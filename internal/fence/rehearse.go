package fence

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// errRehearsed rolls a rehearsal back.
var errRehearsed = errors.New("the rehearsal is over")

// Rehearse raises the fence and lifts it again in a transaction that is rolled
// back: it says whether both could be done, and whether every grant would come back
// as it was. Nobody waits for it, and nobody is kept out.
func Rehearse(ctx context.Context, conn *postgres.Session, database string, keep []string) error {
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

// RehearseLift lifts a raised fence in a transaction that is rolled back. A side that
// is not fenced has nothing to lift.
func RehearseLift(ctx context.Context, conn *postgres.Session, database string) error {
	return rolledBack(ctx, conn, func(tx pgx.Tx) error {
		saved, err := Raised(ctx, tx)
		if err != nil || saved == nil {
			return err
		}
		return liftAndCompare(ctx, tx, database, *saved)
	})
}

func liftAndCompare(ctx context.Context, tx pgx.Tx, database string, saved Saved) error {
	now, err := Read(ctx, tx)
	if err != nil {
		return err
	}
	want, _, err := saved.Effective(ctx, tx, now.Owner)
	if err != nil {
		return err
	}
	if err := execAll(ctx, tx, want.liftSQL(database, now.Grants)); err != nil {
		return err
	}
	after, err := Read(ctx, tx)
	if err != nil {
		return err
	}
	if missing := want.missing(after); len(missing) > 0 {
		return fmt.Errorf("the grants of database %s would not come back as they are: %s", postgres.QuoteIdent(database), strings.Join(missing, "; "))
	}
	return nil
}

func rolledBack(ctx context.Context, conn *postgres.Session, f func(pgx.Tx) error) error {
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
