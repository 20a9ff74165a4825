package tablecopy

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// headerSize is that of every message: a type byte, then the length of what
	// follows the type, the length itself included.
	headerSize = 5
	// maxBody bounds messages other than CopyData, which are read as a whole.
	maxBody = 64 << 20
)

// outflow passes the source's rows to the target's socket.
type outflow struct {
	from, to net.Conn
	buf      []byte
	onBytes  func(int) error

	rest     int  // bytes of the current CopyData frame not yet read from the source
	toBroken bool // pass failed because the target's socket did
	ready    bool // the source has ended its query
	halted   bool // pass failed because onBytes did

	bytes int64    // of the current COPY
	done  []copied // those before it
}

// pass relays until the source has nothing more to say. An error is the
// source's unless toBroken is set.
func (o *outflow) pass() error {
	have := 0 // bytes of a header cut off by the end of the last read, kept at the front of buf
	for !o.ready || have > 0 {
		n, err := o.from.Read(o.buf[have:])
		if n == 0 && err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		n += have
		used, err := o.walk(o.buf[:n])
		if err != nil {
			return err
		}
		have = copy(o.buf, o.buf[used:n])
	}
	return nil
}

// walk looks at the headers in b and passes on what is the target's: CopyData and
// CopyDone, moved together where other messages are between them, so that the rows
// of many small tables go out at once. It returns how much of b is dealt with: all
// but a header that is not there in full.
func (o *outflow) walk(b []byte) (used int, err error) {
	begin, end, headers, pos := 0, 0, 0, 0 // b[begin:end] is the target's and not yet passed on
	take := func(n int) {
		if begin == end {
			begin, end = pos, pos
		}
		if end < pos {
			copy(b[end:], b[pos:pos+n])
		}
		end, pos = end+n, pos+n
	}
	// What has been taken goes out before an error does: the target must not be left
	// inside a frame that o knows to be complete.
	for pos < len(b) && err == nil {
		if o.rest > 0 {
			n := min(o.rest, len(b)-pos)
			o.rest -= n
			o.bytes += int64(n)
			take(n)
			continue
		}
		if len(b)-pos < headerSize {
			break
		}
		kind, size := b[pos], int(int32(binary.BigEndian.Uint32(b[pos+1:])))-4
		switch {
		case size < 0:
			err = fmt.Errorf("a message of type %q has the invalid length %d", kind, size+4)
		case kind == 'd': // CopyData
			o.rest = size
			headers++
			take(headerSize)
		case kind == 'c': // CopyDone
			headers++
			take(headerSize)
		default:
			pos += headerSize
			var body []byte
			if body, err = o.body(b[pos:], size); err == nil {
				err = o.control(kind, body)
			}
			pos = min(pos+size, len(b))
		}
	}
	return pos, cmp.Or(o.forward(b[begin:end], headers), err)
}

// forward writes a run of frames, whole or cut, to the target.
func (o *outflow) forward(b []byte, headers int) error {
	if len(b) == 0 {
		return nil
	}
	if err := o.onBytes(len(b) - headers*headerSize); err != nil {
		o.halted = true
		return err
	}
	if _, err := o.to.Write(b); err != nil {
		o.toBroken = true
		return err
	}
	return nil
}

// body returns the body of a message that begins in b; what b lacks, the source
// has yet to send.
func (o *outflow) body(b []byte, size int) ([]byte, error) {
	if size <= len(b) {
		return b[:size], nil
	}
	if size > maxBody {
		return nil, fmt.Errorf("a message of %d bytes is too long", size)
	}
	whole := make([]byte, size)
	_, err := io.ReadFull(o.from, whole[copy(whole, b):])
	return whole, err
}

// control takes in a message that is not for the target.
func (o *outflow) control(kind byte, body []byte) error {
	switch kind {
	case 'C':
		var m pgproto3.CommandComplete
		if err := m.Decode(body); err != nil {
			return err
		}
		if n, ok := copyRows(m.CommandTag); ok {
			o.done = append(o.done, copied{n, o.bytes})
			o.bytes = 0
		}
	case 'E':
		var m pgproto3.ErrorResponse
		if err := m.Decode(body); err != nil {
			return err
		}
		return serverError(&m)
	case 'Z':
		o.ready = true
	case 'H', 'N', 'S', 'A': // CopyOutResponse; notices, changed settings, notifications are nobody's here
	default:
		return fmt.Errorf("unexpected message of type %q during COPY", kind)
	}
	return nil
}

// giveUp makes the target end after pass has failed. At the boundary of a frame
// it can be told in good form, and has rolled back when it answers; inside a
// frame only the end of the connection will tell it.
func (o *outflow) giveUp(ctx context.Context) {
	switch {
	case o.halted: // what was read and not sent may have been the rest of a frame
		o.to.SetReadDeadline(aLongTimeAgo)
	case o.toBroken:
		lastWord(ctx, o.to) // it may have said why it hung up
	case o.rest == 0:
		lastWord(ctx, o.to)
		o.to.SetWriteDeadline(time.Now().Add(lastWordTimeout))
		// When this fails the session is closed all the same.
		_ = send(o.to, &pgproto3.CopyFail{Message: "pgbaton: reading from the source failed"})
	default:
		o.to.SetReadDeadline(aLongTimeAgo)
	}
}
