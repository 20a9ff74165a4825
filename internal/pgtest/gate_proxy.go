package pgtest

import (
	"bytes"
	"net"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy stands between a client and a server on the loopback and breaks the network between them.
type Proxy struct {
	listener net.Listener
	server   atomic.Value // string: where new connections lead

	mu    sync.Mutex
	flows *sync.Cond // with mu: stalled has changed
	stall bool
	cut   bool
	conns map[net.Conn]bool
	rule  func(seen []byte) Verdict
	lie   [2][]byte // what servers say, and what clients hear instead
	wg    sync.WaitGroup
}

// Verdict is what becomes of what a client sends.
type Verdict int

const (
	Forward    Verdict = iota
	DropIt             // the server never gets it, and the connection breaks
	DropAnswer         // the server answers it, and the connection breaks before the client has the answer
)

// NewProxy starts a proxy in front of the server of a connection string, which must be a URI.
func NewProxy(t testing.TB, connString string) *Proxy {
	t.Helper()
	u, err := url.Parse(connString)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{conns: map[net.Conn]bool{}}
	p.server.Store(u.Host)
	p.flows = sync.NewCond(&p.mu)
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = p.listener.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Lead lets new connections lead to another server, given by its port on the loopback. A rule may say so.
func (p *Proxy) Lead(port int) { p.server.Store(net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) }

// Port is where the proxy listens.
func (p *Proxy) Port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// Through returns a connection string that leads through the proxy.
func (p *Proxy) Through(t testing.TB, connString string) string {
	t.Helper()
	u, err := url.Parse(connString)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = p.listener.Addr().String()
	return u.String()
}

// Rule judges all that clients send, piece by piece; seen is all that this connection's client has sent
// so far, the new piece at its end.
func (p *Proxy) Rule(rule func(seen []byte) Verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = rule
}

// Replace lets clients hear something else of the same length than what servers say.
func (p *Proxy) Replace(said, heard []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lie = [2][]byte{said, heard}
}

// Stall forwards nothing any more and leaves every connection open, as a network that drops packets.
func (p *Proxy) Stall() { p.set(true, false) }

// Cut breaks every connection and accepts no other.
func (p *Proxy) Cut() { p.set(false, true) }

// Mend forwards again what was held back, and what comes.
func (p *Proxy) Mend() { p.set(false, false) }

func (p *Proxy) set(stall, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stall, p.cut = stall, cut
	if cut {
		for c := range p.conns {
			_ = c.Close()
		}
	}
	p.flows.Broadcast()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.connection(client) })
	}
}

// keep remembers a connection, to break it; false: none are accepted.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
	return !p.cut
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *Proxy) connection(client net.Conn) {
	defer p.drop(client)
	if !p.keep(client) || !p.may() {
		return
	}
	server, err := net.Dial("tcp", p.server.Load().(string))
	if err != nil {
		return
	}
	defer p.drop(server)
	p.keep(server)
	deaf := make(chan struct{})     // closed: the client hears nothing any more
	answered := make(chan struct{}) // closed: nothing more is heard of the server
	var both sync.WaitGroup
	both.Go(func() {
		defer server.Close()
		p.fromClient(server, client, deaf, answered)
	})
	both.Go(func() {
		defer client.Close()
		defer close(answered)
		p.fromServer(client, server, deaf)
	})
	both.Wait()
}

// may waits while the network is stalled; false: it is cut.
func (p *Proxy) may() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.stall && !p.cut {
		p.flows.Wait()
	}
	return !p.cut
}

func (p *Proxy) judge(seen []byte) Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rule == nil {
		return Forward
	}
	return p.rule(seen)
}

func (p *Proxy) fromClient(server, client net.Conn, deaf, answered chan struct{}) {
	piece := make([]byte, 64<<10)
	var seen []byte
	for {
		n, err := client.Read(piece)
		if err != nil || !p.may() {
			return
		}
		seen = append(seen, piece[:n]...)
		switch p.judge(seen) {
		case DropIt:
			return
		case DropAnswer:
			close(deaf)
			_, _ = server.Write(piece[:n])
			<-answered // else the server might be asked to end the session before it has begun
			return
		}
		if _, err := server.Write(piece[:n]); err != nil {
			return
		}
	}
}

func (p *Proxy) fromServer(client, server net.Conn, deaf chan struct{}) {
	piece := make([]byte, 64<<10)
	for {
		n, err := server.Read(piece)
		if err != nil || !p.may() {
			return
		}
		select {
		case <-deaf:
			return
		default:
		}
		if _, err := client.Write(p.altered(piece[:n])); err != nil {
			return
		}
	}
}

func (p *Proxy) altered(piece []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lie[0]) == 0 {
		return piece
	}
	return bytes.ReplaceAll(piece, p.lie[0], p.lie[1])
}

// LastQuery says whether the last that a client has sent is this simple query.
func LastQuery(seen []byte, sql string) bool {
	return bytes.HasSuffix(seen, append([]byte(sql), 0))
}
