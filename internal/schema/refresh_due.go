package schema

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

func sortDue(all []Due) {
	slices.SortFunc(all, func(a, b Due) int { return cmp.Compare(a.View.String(), b.View.String()) })
}

// Failed lists the views of a side that could not be refreshed. One that was not
// populated and is by now was refreshed by somebody else.
func Failed(ctx context.Context, conn *postgres.Session) (failed []Due, err error) {
	due, err := dueEntries.List(ctx, conn)
	if err != nil || len(due) == 0 {
		return nil, err
	}
	views, err := catalog.MatViews(ctx, conn, catalog.Selection{})
	if err != nil {
		return nil, err
	}
	for _, v := range views {
		if d, ok := due[v.Ident.String()]; ok && v.Populated && !d.Stale {
			delete(due, v.Ident.String())
		}
	}
	for _, d := range due {
		if d.Error != "" {
			failed = append(failed, d)
		}
	}
	sortDue(failed)
	return failed, nil
}

// Text says what is wrong with a view that could not be refreshed.
func (d Due) Text() string {
	state := "is not populated"
	switch {
	case d.Missing:
		state = "could not be refreshed"
	case d.Stale:
		state = "holds the rows of an earlier time"
	}
	return fmt.Sprintf("materialized view %s %s: %s", d.View, state, d.Error)
}

// Remedy says what mends it, on a server of a version; again is the command that
// tries it again.
func (d Due) Remedy(v postgres.Version, again string) string {
	mend := "remove the cause there"
	switch {
	case d.Missing:
		mend = "create it there"
	case v.Major() >= 17 && (d.Code == postgres.UndefinedTable || d.Code == undefinedFunction || d.Code == postgres.UndefinedObject):
		mend = "since 17 REFRESH finds what a function calls by a plain name only with ALTER FUNCTION … SET search_path, there"
	}
	return mend + "; " + again + " tries it again"
}

// undefinedFunction is an SQLSTATE.
const undefinedFunction = "42883"
