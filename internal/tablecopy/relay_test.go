package tablecopy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
)

// testRelayTwice: after a relay both sessions are good for anything, another
// relay included.
func testRelayTwice(t *testing.T, l lab) {
	m := l.move(t, 13, 17)
	m.both(t, "CREATE TABLE a (id integer, t text)")
	pgtest.Exec(t, m.sourceURI, "INSERT INTO a SELECT i, repeat('x', i % 3000) FROM generate_series(1, 10000) i")
	open := func(s *postgres.Server) *pgconn.PgConn {
		conn, err := s.ConnectRaw(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { end(context.Background(), conn, false) })
		return conn
	}
	source, target := open(m.source), open(m.target)
	buf := make([]byte, bufferSize)
	for i := range 5 {
		var heard int64
		done, err := relay(t.Context(), source, target, "COPY public.a TO STDOUT", "COPY public.a FROM STDIN", buf,
			func(n int) error { heard += int64(n); return nil })
		if err != nil || !slices.Equal(done, []copied{{10000, heard}}) {
			t.Fatalf("relay %d: %+v, heard of %d, %v", i, done, heard, err)
		}
		for _, conn := range []*pgconn.PgConn{source, target} {
			result := conn.ExecParams(t.Context(), "SELECT $1::text", [][]byte{[]byte("works")}, nil, nil, nil).Read()
			if result.Err != nil || string(result.Rows[0][0]) != "works" {
				t.Fatalf("after relay %d: %v", i, result.Err)
			}
		}
	}
	if got := pgtest.QueryValue[int64](t, m.targetConn, "SELECT count(*) FROM a"); got != 50000 {
		t.Errorf("target has %d rows", got)
	}
}

// TestWalk feeds a source's messages in pieces of every size through buffers of
// many: what the target gets must not depend on where the reads end.
func TestWalk(t *testing.T) {
	t.Parallel()
	message := func(kind byte, body string) string {
		return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))) + body
	}
	rows := message('d', "") + message('d', "one") + message('d', strings.Repeat("long", 50))
	stream := message('S', "name\x00value\x00") + message('H', "\x00\x00\x00") + rows +
		message('N', "SNOTICE\x00C00000\x00Mhello\x00\x00") + rows + message('c', "") +
		message('C', "COPY 6\x00") + message('H', "\x00\x00\x00") + rows + message('c', "") + message('C', "COPY 3\x00") + message('Z', "T") + message('S', "a\x00b\x00")
	want := rows + rows + message('c', "") + rows + message('c', "")
	for _, size := range []int{5, 6, 7, 13, 64, 100, len(stream), 4096} {
		for piece := 1; piece <= len(stream); piece++ {
			var got strings.Builder
			heard := 0
			o := &outflow{from: &scripted{text: stream, piece: piece}, to: &scripted{written: &got}, buf: make([]byte, size), onBytes: func(n int) error { heard += n; return nil }}
			if err := o.pass(); err != nil || !slices.Equal(o.done, []copied{{6, 2 * 203}, {3, 203}}) || got.String() != want || heard != 3*203 {
				t.Fatalf("buffer %d, pieces %d: %+v, %v", size, piece, o.done, err)
			}
		}
	}
	for name, bad := range map[string]string{
		"cut":            stream[:len(stream)/2],
		"invalid length": "d\x00\x00\x00\x03",
		"too long":       "N\x7f\xff\xff\xff",
		"unknown":        message('?', "what"),
		"error":          message('E', "SERROR\x00C22000\x00Mno\x00\x00"),
	} {
		o := &outflow{from: &scripted{text: bad, piece: 3}, to: &scripted{written: new(strings.Builder)}, buf: make([]byte, 64), onBytes: func(int) error { return nil }}
		if err := o.pass(); err == nil || isServerError(err) != (name == "error") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// scripted is a connection that says a text in pieces.
type scripted struct {
	net.Conn
	text    string
	piece   int
	written *strings.Builder
}

func (s *scripted) Read(b []byte) (int, error) {
	if s.text == "" {
		return 0, net.ErrClosed
	}
	n := copy(b[:min(len(b), s.piece)], s.text)
	s.text = s.text[n:]
	return n, nil
}

func (s *scripted) Write(b []byte) (int, error) { return s.written.Write(b) }

// TestMemory copies 200 MB in large and small rows. It runs alone: what is
// counted is the whole process's.
func TestMemory(t *testing.T) {
	l := newLab(t, 12, 15)
	m := l.move(t, 12, 15)
	m.both(t, "CREATE UNLOGGED TABLE large (id integer, t text); CREATE UNLOGGED TABLE small (id integer, t text)")
	pgtest.Exec(t, m.sourceURI,
		"INSERT INTO large SELECT i, repeat('x', 1500000) FROM generate_series(1, 100) i",
		"INSERT INTO small SELECT i, repeat('x', 1000) FROM generate_series(1, 50000) i")
	job := m.job(t, 2)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	result, err := Run(t.Context(), job)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if result.Bytes < 200e6 || result.Rows != 50100 {
		t.Errorf("result %+v", result)
	}
	allocated := after.TotalAlloc - before.TotalAlloc
	t.Logf("%d bytes in %v, allocated %d", result.Bytes, result.Elapsed, allocated)
	if allocated > 2<<20 {
		t.Errorf("copying %d bytes allocated %d", result.Bytes, allocated)
	}
}

// TestTLS relays between servers that insist on encryption.
func TestTLS(t *testing.T) {
	t.Parallel()
	l := newLab(t, 13, 17)
	m := l.move(t, 13, 17)
	for _, c := range l {
		enableTLS(t, c)
	}
	m.both(t, "CREATE TABLE a (id integer, t text)")
	pgtest.Exec(t, m.sourceURI, "INSERT INTO a SELECT i, repeat('x', i % 3000) FROM generate_series(1, 20000) i; INSERT INTO a VALUES (0, repeat('y', 2000000))")
	encrypted := func(uri string) string { return strings.Replace(uri, "sslmode=disable", "sslmode=require", 1) }
	m.source = newServer(t, postgres.Source, encrypted(m.sourceURI))
	m.target = newServer(t, postgres.Target, encrypted(m.targetURI))
	job := m.job(t, 1)
	if o := <-start(t.Context(), job); o.err != nil || o.goroutines != 0 {
		t.Fatalf("%v, %d goroutines", o.err, o.goroutines)
	}
	m.compare(t, job.Tables)

	g := m.gated(t)
	job = m.job(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	run := start(ctx, job)
	g.await(t)
	cancel()
	if o := <-run; o.err == nil || o.goroutines != 0 {
		t.Errorf("%v, %d goroutines", o.err, o.goroutines)
	}
	m.awaitNoSessions(t)
}

func enableTLS(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(c.DataDir())
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	for name, block := range map[string]*pem.Block{
		"server.crt": {Type: "CERTIFICATE", Bytes: cert},
		"server.key": {Type: "PRIVATE KEY", Bytes: der},
	} {
		file := filepath.Join(c.DataDir(), name)
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(file, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Reload(t.Context(), map[string]string{"ssl": "on"}); err != nil {
		t.Fatal(err)
	}
}
