package catalog

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgbaton/internal/postgres"
)

// FuzzPattern: a name in double quotes matches itself and nothing else, and a pattern
// that Check lets through can be matched.
func FuzzPattern(f *testing.F) {
	for _, s := range [][2]string{
		{"public", "orders"}, {"App", `a"b`}, {"a.b", "*?|+()[]{}^$\\"}, {"s", "ünïcode"}, {"x", "[]"}, {"x", "\n"},
		{`pub*.or?ers`, `"A".b*`}, {`a.b.c`, `(a|b).c\d`}, {`\y`, `a$`}, {"[[:alpha:]]", "a{3}"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, schema, name string) {
		for _, text := range []string{schema, name, schema + "." + name} {
			p, err := parsePattern(text, 2)
			if checked := (Selection{Tables: []string{text}}).Check(); (checked == nil) != (err == nil) {
				t.Errorf("%q: %v, checked: %v", text, err, checked)
			}
			if err == nil {
				p.matches(postgres.Ident{Schema: schema, Name: name})
			}
		}
		for _, n := range []string{schema, name} {
			if n == "" || !utf8.ValidString(n) || strings.ContainsRune(n, 0) {
				return // no name of PostgreSQL
			}
		}
		is := postgres.Ident{Schema: schema, Name: name}
		p, err := parsePattern(is.String(), 2)
		if err != nil {
			t.Fatalf("%s: %v", is, err)
		}
		if !p.matches(is) {
			t.Errorf("%s does not match itself", is)
		}
		for _, other := range []postgres.Ident{
			{Schema: schema, Name: name + "x"}, {Schema: schema, Name: "x" + name}, {Schema: schema + "\n", Name: name}, {Schema: schema, Name: name + "\n"},
			{Schema: schema + "x", Name: name}, {Schema: name, Name: schema},
		} {
			if p.matches(other) != (other == is) {
				t.Errorf("%s matches %s", is, other)
			}
		}
	})
}
