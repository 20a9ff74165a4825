package schema

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// This file has the CHECK constraints that call the user's functions. Such a
// function may look into tables whose rows are not there yet, or, where changes come
// in several groups, not at the same position: while rows are loaded the receiving
// side does without them.

// HeldCheck is one that the receiving side is still to get, or to validate.
type HeldCheck struct {
	Order    int    `json:"order"` // in which it was dropped; it is added in reverse
	Of       string `json:"of"`    // TABLE or DOMAIN and its name
	Name     string `json:"name"`
	Add      string `json:"add"`                // NOT VALID, in no time
	Validate string `json:"validate,omitempty"` // "" for one that is not valid on the source either
	Comment  string `json:"comment,omitempty"`
}

// String names it for people.
func (h HeldCheck) String() string {
	kind, of, _ := strings.Cut(h.Of, " ")
	return fmt.Sprintf("CHECK constraint %s of %s %s", postgres.QuoteIdent(h.Name), strings.ToLower(kind), of)
}

// checkEntries are those that the receiving side keeps.
var checkEntries = journal.Many[HeldCheck](journal.Check)

func heldCheck(order int, c catalog.Check) HeldCheck {
	h := HeldCheck{Order: order, Of: "TABLE " + c.Of.String(), Name: c.Name}
	if c.Domain {
		h.Of = "DOMAIN " + c.Of.String()
	}
	name := postgres.QuoteIdent(c.Name)
	h.Add = fmt.Sprintf("ALTER %s ADD CONSTRAINT %s %s", h.Of, name, c.Definition)
	if c.Valid {
		h.Add += " NOT VALID"
		h.Validate = fmt.Sprintf("ALTER %s VALIDATE CONSTRAINT %s", h.Of, name)
	}
	if c.Comment != "" {
		of := strings.TrimPrefix(h.Of, "TABLE ")
		h.Comment = fmt.Sprintf("COMMENT ON CONSTRAINT %s ON %s IS %s", name, of, postgres.QuoteLiteral(c.Comment))
	}
	return h
}

func (h HeldCheck) dropSQL() string {
	return fmt.Sprintf("ALTER %s DROP CONSTRAINT %s", h.Of, postgres.QuoteIdent(h.Name))
}

// HoldChecks drops them from tables that have no rows yet, and remembers them, in
// the caller's transaction. What was only inherited goes with where it came from;
// what a child had of its own is a constraint of its own then, and is next.
func HoldChecks(ctx context.Context, tx pgx.Tx) error {
	order := 0
	for {
		checks, err := catalog.UserChecks(ctx, tx)
		if err != nil || len(checks) == 0 {
			return err
		}
		for _, c := range checks {
			order++
			h := heldCheck(order, c)
			if err := checkEntries.Put(ctx, tx, fmt.Sprintf("%s.%s", h.Of, postgres.QuoteIdent(h.Name)), h); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, h.dropSQL()); err != nil {
				return fmt.Errorf("%s: %w", h.dropSQL(), err)
			}
		}
	}
}

// PlanChecks is what HoldChecks, and later AddChecks and ValidateChecks, will do for
// the constraints of a source.
func PlanChecks(ctx context.Context, source catalog.Querier) (hold, add []string, err error) {
	checks, err := catalog.UserChecks(ctx, source)
	for i, c := range checks {
		h := heldCheck(i, c)
		hold, add = append(hold, h.dropSQL()), append(add, h.Add)
		if h.Validate != "" {
			add = append(add, h.Validate)
		}
	}
	return hold, add, err
}

// HeldChecks lists them in the order in which they are added: what a child has of
// its own before what it inherits.
func HeldChecks(ctx context.Context, db postgres.DB) ([]HeldCheck, error) {
	byName, err := checkEntries.List(ctx, db)
	var all []HeldCheck
	for _, h := range byName {
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b HeldCheck) int { return cmp.Compare(b.Order, a.Order) })
	return all, err
}

// AddChecks adds them, not validated. What is there already stays. gone are those of
// which what they belong to, or call, was dropped since.
func AddChecks(ctx context.Context, conn *postgres.Session) (gone []HeldCheck, err error) {
	checks, err := HeldChecks(ctx, conn)
	if err != nil || len(checks) == 0 {
		return nil, err
	}
	return postgres.EachThere(ctx, conn, checks, func(tx pgx.Tx, h HeldCheck) error {
		there, err := h.exists(ctx, tx)
		for _, sql := range []string{h.Add, h.Comment} {
			if err == nil && !there && sql != "" {
				_, err = tx.Exec(ctx, sql)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h, err)
		}
		return nil
	})
}

// ReadChecks reads what is remembered of them.
func ReadChecks(ctx context.Context, conn *postgres.Session) error {
	_, err := HeldChecks(ctx, conn)
	return err
}

// DropChecks takes them back, for rows to come in several groups.
func DropChecks(ctx context.Context, conn *postgres.Session) error {
	checks, err := HeldChecks(ctx, conn)
	if err != nil || len(checks) == 0 {
		return err
	}
	slices.Reverse(checks)
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, h := range checks {
			there, err := h.exists(ctx, tx)
			if err == nil && there {
				_, err = tx.Exec(ctx, h.dropSQL())
			}
			if err != nil {
				return fmt.Errorf("%s: %w", h, err)
			}
		}
		return nil
	})
}

// exists says whether the constraint is there, of the table's or domain's own: one
// that is only inherited is not, nor is one of what was dropped.
func (h HeldCheck) exists(ctx context.Context, db postgres.DB) (there bool, err error) {
	kind, of, _ := strings.Cut(h.Of, " ")
	column, find := "conrelid", "to_regclass"
	if kind == "DOMAIN" {
		column, find = "contypid", "to_regtype"
	}
	err = db.QueryRow(ctx, fmt.Sprintf(`SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint
		WHERE contype = 'c' AND conislocal AND %s = pg_catalog.%s($1) AND conname = $2)`, column, find), of, h.Name).Scan(&there)
	return there, err
}

// Unvalidated is a constraint that is there, and that the rows do not satisfy, or
// whose function fails.
type Unvalidated struct {
	HeldCheck
	Err error
}

// Text says so.
func (u Unvalidated) Text() string {
	return fmt.Sprintf("%s is there, but not validated: %s", u.HeldCheck, postgres.Describe(u.Err))
}

// Remedy says what to do. The rows were right when they were written. Where the side is
// fenced, nobody else can run the statement.
func (u Unvalidated) Remedy() string {
	return "new rows are checked; those that are there may not satisfy it since what its function reads has changed, which the source does not notice. " +
		"Once they do, as the role that pgbaton uses: " + u.Validate
}

// ValidateChecks looks at the rows, and forgets the constraints: they are what they
// can be. It returns those that do not hold.
func ValidateChecks(ctx context.Context, conn *postgres.Session) (not []Unvalidated, err error) {
	checks, err := HeldChecks(ctx, conn)
	if err != nil {
		return nil, err
	}
	for _, h := range checks {
		if h.Validate != "" {
			if _, err := conn.Exec(ctx, h.Validate); err != nil {
				if ctx.Err() != nil || conn.IsClosed() || postgres.Code(err) == postgres.QueryCanceled {
					return not, fmt.Errorf("validating %s: %w", h, err)
				}
				if !postgres.Gone(err) { // or else there is nothing to validate
					not = append(not, Unvalidated{h, err})
				}
			}
		}
	}
	return not, journal.Clear(ctx, conn, journal.Check)
}
