package tablecopy

import (
	"testing"

	"github.com/jackc/pgx/v5/pgtype"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

func TestStatements(t *testing.T) {
	t.Parallel()
	name := postgres.Ident{Schema: "s", Name: `ta"ble`}
	for _, test := range []struct {
		columns        []catalog.Column
		source, target string
	}{
		{
			nil,
			`COPY "s"."ta""ble" TO STDOUT WITH (FORMAT binary)`,
			`COPY "s"."ta""ble" FROM STDIN WITH (FORMAT binary, FREEZE)`,
		},
		{
			[]catalog.Column{{Name: "g", TypeOID: pgtype.XMLOID, Category: "b", Generated: true}},
			`COPY "s"."ta""ble" TO STDOUT WITH (FORMAT binary)`,
			`COPY "s"."ta""ble" FROM STDIN WITH (FORMAT binary, FREEZE)`,
		},
		{
			[]catalog.Column{{Name: "a b", TypeOID: pgtype.Int4OID, Category: "b"}, {Name: "g", TypeOID: pgtype.Int4OID, Category: "b", Generated: true}, {Name: "mood", TypeOID: 20000, Category: "e"}},
			`COPY "s"."ta""ble" ("a b", "mood") TO STDOUT WITH (FORMAT binary)`,
			`COPY "s"."ta""ble" ("a b", "mood") FROM STDIN WITH (FORMAT binary, FREEZE)`,
		},
		{
			[]catalog.Column{{Name: "moods", TypeOID: 20001, Category: "b"}},
			`COPY "s"."ta""ble" ("moods") TO STDOUT WITH (FORMAT text)`,
			`COPY "s"."ta""ble" ("moods") FROM STDIN WITH (FORMAT text, FREEZE)`,
		},
	} {
		source, target := Statements(catalog.Table{Ident: name, Columns: test.columns}, true)
		if source != test.source || target != test.target {
			t.Errorf("%+v:\n%s\n%s", test.columns, source, target)
		}
	}
}

func TestInEncoding(t *testing.T) {
	t.Parallel()
	if got := inEncoding("UTF8", "COPY"); got != "COPY" {
		t.Error(got)
	}
	if got := inEncoding("LATIN1", "COPY"); got != "SET client_encoding TO 'LATIN1'; COPY; SET client_encoding TO 'UTF8'" {
		t.Error(got)
	}
}
