package fence

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"pgbaton/internal/postgres"
)

// FuzzChanged: a change of a relation that was named is found by its name, whatever
// came in between, and no bytes make the decoder fall over.
func FuzzChanged(f *testing.F) {
	f.Add(uint32(16385), "public", "orders", []byte("I\x00\x00\x40\x01N\x00\x01t\x00\x00\x00\x011"))
	f.Add(uint32(1), "", "pg_class", []byte("T\x00\x00\x00\x02\x00\x00\x00\x00\x01\x00\x00\x00\x02"))
	f.Add(uint32(7), "pgbaton", "marker", []byte("T\xff\xff\xff\xff\x00\x00"))
	f.Add(uint32(7), "a", "b", []byte("R\x00\x00\x00\x07x\x00"))
	f.Add(uint32(7), "a", "b", []byte("B"))
	f.Fuzz(func(t *testing.T, oid uint32, schema, name string, other []byte) {
		if strings.ContainsRune(schema+name, 0) {
			return // no name of PostgreSQL
		}
		relations := map[uint32]postgres.Ident{}
		if named := changed(message('R', oid, schema+"\x00"+name+"\x00d\x00\x00"), relations); len(named) != 0 {
			t.Errorf("a relation's name is a change of %v", named)
		}
		want := postgres.Ident{Schema: schema, Name: name}
		if schema == "" {
			want.Schema = "pg_catalog" // as pgoutput sends it
		}
		if relations[oid] != want {
			t.Errorf("%d is %v, want %v", oid, relations[oid], want)
		}
		if got := changed(other, relations); len(got) > len(other)/4 {
			t.Errorf("%q changes %v", other, got)
		}
		for _, kind := range []byte("IUD") {
			if got := changed(message(kind, oid, string(other)), relations); !slices.Equal(got, []uint32{oid}) {
				t.Errorf("%c of %d changes %v", kind, oid, got)
			}
		}
		all := []uint32{oid, oid + 1, 0}
		truncate := message('T', uint32(len(all)), "\x00")
		for _, o := range all {
			truncate = binary.BigEndian.AppendUint32(truncate, o)
		}
		if got := changed(truncate, relations); !slices.Equal(got, all) {
			t.Errorf("a truncation of %v changes %v", all, got)
		}
	})
}

func message(kind byte, first uint32, rest string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, first), rest...)
}
