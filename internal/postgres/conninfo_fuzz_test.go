package postgres

import (
	"maps"
	"strings"
	"testing"
)

// FuzzParseGiven: what was read says the same when it is printed and read again, as
// pg_dump and the other server will; people never see a password.
func FuzzParseGiven(f *testing.F) {
	for _, s := range []string{
		"postgres://app:s%20ec@db1,db2:5433/shop?sslmode=require&application_name=a%3Db",
		"postgresql://[::1]:5432,[fe80::1]/?host=/tmp", "postgres://", "postgres://u@/db?database=x",
		"host=db port=5432 dbname='it''s' user=app password='a b\\'c\\\\'", "host = a\tdbname=b\n", "password=''",
		"a=b\\", "'", "=", "postgres://a%zz@b", "dbname=x database=y",
		"postgres://u:p?ss=w@h/d", "postgres://h?=v", "a\nb=c", "postgres://h?%68ost=x", // found
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseGiven(s)
		if err != nil {
			return
		}
		again, err := ParseGiven(c.String())
		if err != nil || !maps.Equal(again, c) {
			t.Errorf("%q is %q, printed %q, and that is %q, %v", s, map[string]string(c), c.String(), map[string]string(again), err)
		}
		for k, v := range c.Redacted() {
			if (k == "password" || k == "sslpassword") && v != "********" {
				t.Errorf("%q shows its %s", s, k)
			}
		}
		for k, v := range c {
			if strings.ContainsRune(v, 0) {
				t.Errorf("%q has a zero byte in its %s, which no server could be given", s, k)
			}
		}
	})
}
