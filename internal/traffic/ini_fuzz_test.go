package traffic

import (
	"slices"
	"strings"
	"testing"
)

// FuzzIni: each setting stands where it is said to stand, and an entry that is made to
// lead elsewhere leads there, with all else in the file as it was.
func FuzzIni(f *testing.F) {
	for _, text := range []string{
		"[databases]\nshop = host=db1 port=5432 dbname=shop\n* = host=x\n[pgbouncer]\nlisten_port = 6432\n",
		"; c\n# c\n[databases] shop=\n'a b' = dbname='it''s' pool_size=1\r\nshop = host='x' host=y\t\n",
		"[databases]\nshop = host=a  port = 1 connect_query='select 1;'x dbname=d", "%include /x\n", "[", "a=b\x00", "[x]y=z",
	} {
		f.Add(text, "db2", "shop")
	}
	f.Add("[databases]\nshop = host='x'y port=1", "db2", "shop") // found
	f.Add("[databases]\nshop=port=1 host=''a", "/var/run's", "Ünï shop")
	f.Fuzz(func(t *testing.T, text, host, database string) {
		c := &iniConfig{}
		if c.parse("x.ini", text, maxIncludes) != nil { // no file is included
			return
		}
		to := destination{host: host, port: 6543, database: database}
		for i, s := range c.settings {
			if text[s.start:s.end] != s.value {
				t.Fatalf("%q is not at %d to %d, there is %q", s.value, s.start, s.end, text[s.start:s.end])
			}
			value, err := repoint(s.key, s.value, to)
			if err != nil {
				continue
			}
			if got, err := leadsTo(s.key, value); err != nil || got != to {
				t.Errorf("%q became %q and leads to %v, %v; want %v", s.value, value, got, err, to)
			}
			if again, err := repoint(s.key, value, to); err != nil || again != value {
				t.Errorf("%q, once more, is %q, %v", value, again, err)
			}
			if got, want := otherPairs(t, value), otherPairs(t, s.value); got != want {
				t.Errorf("%q became %q", want, got)
			}
			sameElsewhere(t, c, i, text[:s.start]+value+text[s.end:], value)
		}
	})
}

// sameElsewhere reads a configuration of which one value was replaced.
func sameElsewhere(t *testing.T, was *iniConfig, i int, text, value string) {
	t.Helper()
	is := &iniConfig{}
	if err := is.parse("x.ini", text, maxIncludes); err != nil {
		t.Errorf("%q cannot be read any more: %v", text, err)
		return
	}
	what := func(c *iniConfig) (lines []string) {
		for _, s := range c.settings {
			lines = append(lines, strings.Join([]string{s.section, s.key, s.value}, "\x00"))
		}
		return lines
	}
	want := what(was)
	want[i] = strings.Join([]string{was.settings[i].section, was.settings[i].key, value}, "\x00")
	if got := what(is); !slices.Equal(got, want) {
		t.Errorf("%q: %q, want %q", text, got, want)
	}
}
