package tablecopy

import (
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// Format is the format of a COPY stream.
type Format string

// The two formats that are used. Binary costs both servers less per row; text
// is what every type can do between any two versions.
const (
	Text   Format = "text"
	Binary Format = "binary"
)

// binarySafe lists the built-in types whose binary form is the same in every
// version from 10 to 19. jsonb belongs here: what travels is a version number
// and the JSON text, not the stored form.
//
// Left out, so copied as text:
//   - interval: from 17 on a value of it can be infinite, and an older server
//     would take that for a finite value without an error;
//   - money: its number of decimals is a matter of locale (see copySettings);
//   - xml: the binary form carries an encoding declaration of its own;
//   - tsvector, tsquery, ranges, txid_snapshot, jsonpath and the like: too rare
//     to deserve an argument;
//   - the reg... types: what travels is an OID, another one on the target;
//   - composites, and arrays of what is not built in: they carry type OIDs.
var binarySafe = []uint32{
	pgtype.BoolOID, pgtype.BoolArrayOID,
	pgtype.Int2OID, pgtype.Int2ArrayOID,
	pgtype.Int4OID, pgtype.Int4ArrayOID,
	pgtype.Int8OID, pgtype.Int8ArrayOID,
	pgtype.Float4OID, pgtype.Float4ArrayOID,
	pgtype.Float8OID, pgtype.Float8ArrayOID,
	pgtype.NumericOID, pgtype.NumericArrayOID,
	pgtype.OIDOID, pgtype.OIDArrayOID,
	pgtype.TextOID, pgtype.TextArrayOID,
	pgtype.VarcharOID, pgtype.VarcharArrayOID,
	pgtype.BPCharOID, pgtype.BPCharArrayOID,
	pgtype.NameOID, pgtype.NameArrayOID,
	pgtype.QCharOID, pgtype.QCharArrayOID,
	pgtype.ByteaOID, pgtype.ByteaArrayOID,
	pgtype.DateOID, pgtype.DateArrayOID,
	pgtype.TimeOID, pgtype.TimeArrayOID,
	pgtype.TimetzOID, pgtype.TimetzArrayOID,
	pgtype.TimestampOID, pgtype.TimestampArrayOID,
	pgtype.TimestamptzOID, pgtype.TimestamptzArrayOID,
	pgtype.UUIDOID, pgtype.UUIDArrayOID,
	pgtype.JSONOID, pgtype.JSONArrayOID,
	pgtype.JSONBOID, pgtype.JSONBArrayOID,
	pgtype.InetOID, pgtype.InetArrayOID,
	pgtype.CIDROID, pgtype.CIDRArrayOID,
	pgtype.MacaddrOID, pgtype.MacaddrArrayOID,
	pgtype.Macaddr8OID, macaddr8ArrayOID,
	pgtype.BitOID, pgtype.BitArrayOID,
	pgtype.VarbitOID, pgtype.VarbitArrayOID,
	pgLSNOID, pgLSNArrayOID,
	pgtype.PointOID, pgtype.PointArrayOID,
	pgtype.LineOID, pgtype.LineArrayOID,
	pgtype.LsegOID, pgtype.LsegArrayOID,
	pgtype.BoxOID, pgtype.BoxArrayOID,
	pgtype.PathOID, pgtype.PathArrayOID,
	pgtype.PolygonOID, pgtype.PolygonArrayOID,
	pgtype.CircleOID, pgtype.CircleArrayOID,
}

// Built-in types for which pgtype has no constant.
const (
	macaddr8ArrayOID = 775
	pgLSNOID         = 3220
	pgLSNArrayOID    = 3221
)

// enumCategory is pg_type.typtype of an enum. The binary form of an enum is its
// label, so that user-defined ones are safe too.
const enumCategory = "e"

// FormatOf decides how a table is copied: in binary when every column's type
// allows it between any two versions.
func FormatOf(t catalog.Table) Format {
	for _, c := range t.CopyColumns() {
		if c.Category != enumCategory && !slices.Contains(binarySafe, c.TypeOID) {
			return Text
		}
	}
	return Binary
}

// Statements are the two COPY statements of a table. Columns are named because
// their order may differ between the sides; when none is left to copy there is
// no list, and the rows still count. FREEZE spares the target a later rewrite
// of every page; it needs the table truncated in the same transaction.
func Statements(t catalog.Table, freeze bool) (source, target string) {
	relation, list := t.Ident.String(), columnList(t)
	options := "FORMAT " + string(FormatOf(t))
	if list != "" {
		relation += " (" + list + ")"
	}
	source = "COPY " + relation + " TO STDOUT WITH (" + options + ")"
	if freeze {
		options += ", FREEZE"
	}
	return source, "COPY " + relation + " FROM STDIN WITH (" + options + ")"
}

// partStatements copy the rows for which a condition holds. Several sessions load
// one table, none of which made it: there is no FREEZE.
func partStatements(t catalog.Table, condition string) (source, target string) {
	_, target = Statements(t, false)
	return "COPY (SELECT " + columnList(t) + " FROM ONLY " + t.Ident.String() + " WHERE " + condition + ") TO STDOUT WITH (FORMAT " + string(FormatOf(t)) + ")", target
}

func columnList(t catalog.Table) string {
	columns := t.CopyColumns()
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = postgres.QuoteIdent(c.Name)
	}
	return strings.Join(names, ", ")
}
