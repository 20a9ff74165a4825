package postgres

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/jackc/pgx/v5"
)

// maxIdent is the length in bytes at which PostgreSQL cuts an identifier
// (NAMEDATALEN-1).
const maxIdent = 63

// Ident is a schema-qualified name, as the catalogs hold it (unquoted).
type Ident struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
}

// String returns the name quoted, always qualified, safe to put into SQL.
func (i Ident) String() string { return pgx.Identifier{i.Schema, i.Name}.Sanitize() }

// Compare orders names by schema, then by name, in byte order.
func (i Ident) Compare(o Ident) int {
	return cmp.Or(cmp.Compare(i.Schema, o.Schema), cmp.Compare(i.Name, o.Name))
}

// QuoteIdent quotes one identifier.
func QuoteIdent(name string) string { return pgx.Identifier{name}.Sanitize() }

// QuoteLiteral quotes a string constant. It stays right whatever
// standard_conforming_strings says, by using the E form when there is a
// backslash.
func QuoteLiteral(s string) string {
	s = strings.ReplaceAll(s, "\x00", "")
	q := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		q = " E" + strings.ReplaceAll(q, `\`, `\\`)
	}
	return q
}

// maxSuffix is room for the longest suffix: all names of a migration begin with
// the same prefix, whatever their suffix.
const maxSuffix = len("forward_9999")

// ClusterName builds the name of something the whole cluster sees (a slot, a
// publication, a subscription, a role): pgbaton_<migration>_<suffix>. Slot names
// allow only lower-case letters, digits and underscores, and 63 bytes; a
// migration whose name does not fit is shortened and told apart by a hash.
func ClusterName(migration, suffix string) string {
	slug := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			return r
		}
		return '_'
	}, migration)
	const room = maxIdent - len("pgbaton_") - len("_") - maxSuffix
	if slug != migration || len(slug) > room {
		sum := sha256.Sum256([]byte(migration))
		hash := hex.EncodeToString(sum[:4])
		slug = slug[:min(len(slug), room-len(hash)-1)] + "_" + hash
	}
	return "pgbaton_" + slug + "_" + suffix
}
