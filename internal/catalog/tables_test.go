package catalog_test

import (
	"testing"

	"pgbaton/internal/catalog"
)

// TestSizes: what is stored beside the heap is told apart from it.
func TestSizes(t *testing.T) {
	t.Parallel()
	const sql = `
		CREATE TABLE wide (t text);
		ALTER TABLE wide ALTER t SET STORAGE EXTERNAL;
		INSERT INTO wide SELECT repeat('x', 100000) FROM generate_series(1, 20);
		CREATE TABLE narrow (i int);
		INSERT INTO narrow SELECT generate_series(1, 100000)`
	conn, _ := database(t, 15, sql)
	tables, err := catalog.Tables(t.Context(), conn, catalog.Selection{})
	if err != nil || len(tables) != 2 {
		t.Fatal(tables, err)
	}
	if narrow := tables[0]; narrow.HeapBytes < 3e6 || narrow.Bytes < narrow.HeapBytes || narrow.Bytes > narrow.HeapBytes+100_000 {
		t.Errorf("%d of %d", narrow.HeapBytes, narrow.Bytes)
	}
	if wide := tables[1]; wide.HeapBytes > 20_000 || wide.Bytes < 2e6 {
		t.Errorf("%d of %d", wide.HeapBytes, wide.Bytes)
	}
}
