package catalog_test

import (
	"fmt"
	"slices"
	"testing"

	"pgbaton/internal/catalog"
)

// TestOrderedForeignKeys: only an index that has the same columns first, in the
// same order and sorted alike, can be read beside the one that is referred to.
func TestOrderedForeignKeys(t *testing.T) {
	t.Parallel()
	const sql = `
		CREATE TABLE p (a int, b int, t text UNIQUE, PRIMARY KEY (a, b)); CREATE TABLE one (i bigint PRIMARY KEY);
		CREATE TABLE f (a int, b int, c int, t text, u text, i bigint, small int, partial bigint, hash bigint, descending bigint, covered bigint, self bigint UNIQUE, up bigint,
			CONSTRAINT both_columns FOREIGN KEY (a, b) REFERENCES p,
			CONSTRAINT wrong_order FOREIGN KEY (c, a) REFERENCES p,
			CONSTRAINT by_name FOREIGN KEY (b, a) REFERENCES p (b, a),
			CONSTRAINT same_text FOREIGN KEY (t) REFERENCES p (t),
			CONSTRAINT pattern FOREIGN KEY (u) REFERENCES p (t),
			CONSTRAINT single FOREIGN KEY (i) REFERENCES one,
			CONSTRAINT cross_type FOREIGN KEY (small) REFERENCES one,
			CONSTRAINT partial FOREIGN KEY (partial) REFERENCES one,
			CONSTRAINT hashed FOREIGN KEY (hash) REFERENCES one,
			CONSTRAINT descending FOREIGN KEY (descending) REFERENCES one,
			CONSTRAINT second FOREIGN KEY (covered) REFERENCES one,
			CONSTRAINT upwards FOREIGN KEY (up) REFERENCES f (self),
			CONSTRAINT bare FOREIGN KEY (hash) REFERENCES one);
		CREATE INDEX ON f (a, b, c); CREATE INDEX ON f (a, c); CREATE INDEX ON f (t); CREATE INDEX ON f (u text_pattern_ops);
		CREATE INDEX ON f (i); CREATE INDEX ON f (small); CREATE INDEX ON f (partial) WHERE partial > 0; CREATE INDEX ON f USING hash (hash);
		CREATE INDEX ON f (descending DESC); CREATE INDEX ON f (i, covered); CREATE INDEX ON f (up, (a + 1))`
	for _, major := range []int{10, 12, 19} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			conn, _ := database(t, major, sql)
			keys, err := catalog.ForeignKeys(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			var ordered []string
			for _, k := range keys {
				if k.Ordered {
					ordered = append(ordered, k.Name)
				}
			}
			if want := []string{"both_columns", "cross_type", "same_text", "single", "upwards"}; len(keys) != 13 || !slices.Equal(ordered, want) {
				t.Errorf("of %d keys, ordered are %q", len(keys), ordered)
			}
		})
	}
}

// TestIndexWork: what is known of the work that an index will be.
func TestIndexWork(t *testing.T) {
	t.Parallel()
	const sql = `
		CREATE TABLE w (id int PRIMARY KEY, n int, t text, d point);
		INSERT INTO w SELECT i, i, i, point(i, i) FROM generate_series(1, 1000) i;
		CREATE INDEX plain ON w (n); CREATE INDEX partial ON w (n) WHERE id <= 100; CREATE INDEX collated ON w (n, t);
		CREATE INDEX expression ON w ((n + 1)); CREATE INDEX gist ON w USING gist (d); ANALYZE w`
	for _, major := range []int{10, 19} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			conn, _ := database(t, major, sql)
			indexes, err := catalog.Indexes(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, x := range indexes {
				got = append(got, fmt.Sprint(x.Name, " ", x.Rows, " ", x.Slow))
			}
			if want := []string{"collated 1000 true", "expression 1000 true", "gist 1000 true", "partial 100 false", "plain 1000 false", "w_pkey 1000 false"}; !slices.Equal(got, want) {
				t.Errorf("%q", got)
			}
		})
	}
}
