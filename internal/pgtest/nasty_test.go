package pgtest

import (
	"fmt"
	"testing"
)

// TestNasty loads the nasty database on every major, writes to it, and finds each equal to itself: the
// comparison can read all of it.
func TestNasty(t *testing.T) {
	for _, major := range []int{12, 13, 15, 17, 18, 19} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := Start(t, major)
			uri := c.ConnString("nasty")
			Exec(t, c.ConnString("postgres"), "CREATE DATABASE nasty", "CREATE DATABASE untouched")
			for _, db := range []string{"nasty", "untouched"} {
				Exec(t, c.ConnString(db), NastySQL(major))
			}
			conn := Connect(t, uri)
			// every statement of NastyWrite has had its turn after 10 rounds of the rarest
			for i := 1; i <= 100; i++ {
				if err := NastyWrite(t.Context(), conn, i); err != nil {
					t.Fatal(err)
				}
			}
			diff, err := Compare(t.Context(), uri, uri, CompareOptions{})
			if err != nil || len(diff) > 0 {
				t.Errorf("compared with itself: %q, %v", diff, err)
			}
			diff, err = Compare(t.Context(), uri, c.ConnString("untouched"), CompareOptions{})
			if err != nil || len(diff) < 30 {
				t.Errorf("100 transactions changed no more than %d tables and sequences (%v)", len(diff), err)
			}
		})
	}
}
