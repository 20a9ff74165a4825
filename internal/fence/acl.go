package fence

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// Grant is one entry of a database's access control list.
type Grant struct {
	Grantee    string   `json:"grantee"` // "" is PUBLIC
	Grantor    string   `json:"grantor"`
	Privileges []string `json:"privileges"`
	Grantable  []string `json:"grantable,omitempty"` // of these privileges, with grant option
}

// Saved is what a fence changes, as it was before: it is kept in the journal of
// the fenced side and restored as a set.
type Saved struct {
	Owner    string  `json:"owner"`
	Grants   []Grant `json:"grants"`              // in the list's own order
	ReadOnly string  `json:"read_only,omitempty"` // the database's own default_transaction_read_only, "" for none
	Sum      string  `json:"sum,omitempty"`       // of all that, in the journal: without it nobody could be let in again
}

// sum is what Sum must be.
func (s Saved) sum() string {
	s.Sum = ""
	return fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%q", s)))
}

// Read reads the database's grants and read-only default as they are now.
func Read(ctx context.Context, db postgres.DB) (s Saved, err error) {
	err = db.QueryRow(ctx, `
		SELECT pg_catalog.pg_get_userbyid(d.datdba), coalesce((
			SELECT pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1)
			FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) AS c
			WHERE s.setdatabase = d.oid AND s.setrole = 0 AND c LIKE 'default\_transaction\_read\_only=%'), '')
		FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`).Scan(&s.Owner, &s.ReadOnly)
	if err != nil {
		return s, err
	}
	rows, err := db.Query(ctx, `
		SELECT CASE WHEN e.grantee = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(e.grantee) END,
			pg_catalog.pg_get_userbyid(e.grantor),
			pg_catalog.array_agg(e.privilege_type ORDER BY e.privilege_type),
			coalesce(pg_catalog.array_agg(e.privilege_type ORDER BY e.privilege_type) FILTER (WHERE e.is_grantable), '{}')
		FROM pg_catalog.pg_database d,
			pg_catalog.unnest(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) WITH ORDINALITY AS i (item, n),
			pg_catalog.aclexplode(ARRAY[i.item]) AS e
		WHERE d.datname = pg_catalog.current_database()
		GROUP BY i.n, e.grantee, e.grantor ORDER BY i.n`)
	if err != nil {
		return s, err
	}
	s.Grants, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (g Grant, err error) {
		err = row.Scan(&g.Grantee, &g.Grantor, &g.Privileges, &g.Grantable)
		return g, err
	})
	return s, err
}

// OnlyRoles drops the grants of roles that do not exist, for a list that came
// from another cluster, and lets the owner be the one given.
func (s Saved) OnlyRoles(exists map[string]bool, owner string) Saved {
	known := Saved{Owner: owner, ReadOnly: s.ReadOnly}
	at := map[[2]string]int{} // of grantee and grantor, who may be one by now
	rename := func(role string) string {
		if role == s.Owner {
			return owner
		}
		return role
	}
	for _, g := range s.Grants {
		g.Grantee, g.Grantor = rename(g.Grantee), rename(g.Grantor)
		if (g.Grantee == "" || exists[g.Grantee]) && exists[g.Grantor] {
			key := [2]string{g.Grantee, g.Grantor}
			i, twice := at[key]
			if !twice {
				at[key] = len(known.Grants)
				known.Grants = append(known.Grants, g)
				continue
			}
			known.Grants[i].Privileges = union(known.Grants[i].Privileges, g.Privileges)
			known.Grants[i].Grantable = union(known.Grants[i].Grantable, g.Grantable)
		}
	}
	return known
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func role(name string) string {
	if name == "" {
		return "PUBLIC"
	}
	return postgres.QuoteIdent(name)
}

// revokeSQL takes a privilege from everybody in the list. Every grant goes back
// to one by the owner, so CASCADE reaches those made by others too.
func revokeSQL(database, privilege string, grants []Grant) []string {
	var grantees []string
	for _, g := range grants {
		if name := role(g.Grantee); !slices.Contains(grantees, name) {
			grantees = append(grantees, name)
		}
	}
	if len(grantees) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("REVOKE %s ON DATABASE %s FROM %s CASCADE",
		privilege, postgres.QuoteIdent(database), strings.Join(grantees, ", "))}
}

// Who grants.
const (
	setRole   = "SET LOCAL ROLE "
	resetRole = "RESET ROLE"
)

// grantSQL gives the list back, entry by entry, each by its own grantor.
func (s Saved) grantSQL(database string) []string {
	var sql []string
	for _, g := range s.Grants {
		plain := slices.DeleteFunc(slices.Clone(g.Privileges), func(p string) bool { return slices.Contains(g.Grantable, p) })
		var grants []string
		for _, part := range []struct {
			privileges []string
			option     string
		}{{plain, ""}, {g.Grantable, " WITH GRANT OPTION"}} {
			if len(part.privileges) > 0 {
				grants = append(grants, fmt.Sprintf("GRANT %s ON DATABASE %s TO %s%s",
					strings.Join(part.privileges, ", "), postgres.QuoteIdent(database), role(g.Grantee), part.option))
			}
		}
		if g.Grantor != s.Owner {
			grants = append(append([]string{setRole + role(g.Grantor)}, grants...), resetRole)
		}
		sql = append(sql, grants...)
	}
	return sql
}

// liftSQL is the exact set of statements that lifts a fence, to be run in one
// transaction by a superuser or the owner. now are the grants in force.
func (s Saved) liftSQL(database string, now []Grant) []string {
	sql := append(revokeSQL(database, "ALL", now), s.grantSQL(database)...)
	readOnly := fmt.Sprintf("ALTER DATABASE %s RESET default_transaction_read_only", postgres.QuoteIdent(database))
	if s.ReadOnly != "" {
		readOnly = fmt.Sprintf("ALTER DATABASE %s SET default_transaction_read_only = %s", postgres.QuoteIdent(database), postgres.QuoteLiteral(s.ReadOnly))
	}
	return append(sql, readOnly)
}

// RaiseSQL is what the fence commits: CONNECT for nobody but the roles that keep
// it, those of granted by a grant, and read-only for whoever gets in all the same.
func (s Saved) RaiseSQL(database string, granted []string) []string {
	sql := revokeSQL(database, "CONNECT", s.Grants)
	for _, name := range granted {
		sql = append(sql, fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s", postgres.QuoteIdent(database), role(name)))
	}
	return append(sql, fmt.Sprintf("ALTER DATABASE %s SET default_transaction_read_only = on", postgres.QuoteIdent(database)))
}

// NeedGrant picks, of the roles that keep CONNECT, those to which it has to be
// granted: a superuser needs no grant, and one to it would let its members in.
func NeedGrant(ctx context.Context, db postgres.DB, keep []string) ([]string, error) {
	rows, err := db.Query(ctx, `SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY ($1) AND NOT rolsuper ORDER BY 1`, keep)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// savedEntry is what a fenced side keeps of what the fence changed.
var savedEntry = journal.One[Saved](journal.Fence)

// Raised returns what was saved when the side was fenced, nil when it is not. What
// cannot be what was saved is a *journal.Damaged.
func Raised(ctx context.Context, db postgres.DB) (*Saved, error) {
	s, ok, err := savedEntry.Get(ctx, db)
	if err != nil || !ok {
		return nil, err
	}
	if s.Owner == "" || s.Sum != "" && s.Sum != s.sum() {
		return nil, savedEntry.Damaged(errors.New("the grants in it are not those that were saved"))
	}
	return &s, nil
}

// SaveSQL is the statement that puts a damaged or lost entry right.
func (s Saved) SaveSQL() (string, error) {
	s.Sum = s.sum()
	return savedEntry.PutSQL(s)
}

// Raise commits the fence (a of rule 2). It saves what it changes in the same
// transaction, once: raising a raised fence again changes nothing. instead, if
// not nil, is what shall be restored later in place of what is found: the
// grants of a database that was made for the migration. It returns what was saved.
func Raise(ctx context.Context, conn *postgres.Session, database string, keep []string, instead *Saved) (saved *Saved, err error) {
	err = postgres.Durably(ctx, conn, func(tx pgx.Tx) error {
		now, err := Read(ctx, tx)
		if err != nil {
			return err
		}
		if saved, err = Raised(ctx, tx); err != nil || saved != nil {
			return err
		}
		restore := now
		if instead != nil {
			restore = *instead
		}
		restore.Sum = restore.sum()
		saved = &restore
		if err := savedEntry.Put(ctx, tx, restore); err != nil {
			return err
		}
		granted, err := NeedGrant(ctx, tx, keep)
		if err != nil {
			return err
		}
		return execAll(ctx, tx, now.RaiseSQL(database, granted))
	})
	return saved, err
}

// execAll runs statements in one message: applications wait for them.
func execAll(ctx context.Context, tx pgx.Tx, statements []string) error {
	sql := strings.Join(statements, ";\n")
	if _, err := tx.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}
