package tablecopy

import (
	"context"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"pgbaton/internal/postgres"
	"pgbaton/internal/routine"
)

const (
	// bufferSize is what a worker reads and writes at once, and all the memory
	// it needs, whatever the size of a row.
	bufferSize = 256 << 10
	// lastWordTimeout bounds the wait for what a server still has to say after
	// a failure. Its sessions are given up in any case.
	lastWordTimeout = 5 * time.Second
)

// aLongTimeAgo as a deadline ends reads and writes in progress.
var aLongTimeAgo = time.Unix(1, 0)

// relay runs a COPY TO STDOUT on the source and a COPY FROM STDIN on the target
// and passes the rows from one to the other. CopyData looks the same in both
// directions, so whole buffers go from socket to socket and only the headers of
// messages are looked at; a frame may be passed on in pieces. The target's
// blocking socket is the back-pressure.
//
// Both strings may hold several statements and several COPYs, as many on either
// side and of the same tables in the same order: one table's rows follow the
// other's without a round trip between them.
//
// buf is the only memory used. onBytes hears of every piece before it is passed
// on, in bytes of the COPY stream (protocol overhead excluded); it may take its
// time, and ends the relay with its error.
//
// After success both sessions are as after any other query. After an error they
// may be in the middle of a message and must be closed. The error names the side
// that failed first, and done has those COPYs that were complete there; when ctx
// ended, the error is ctx's cause.
func relay(ctx context.Context, source, target *pgconn.PgConn, copyOut, copyIn string, buf []byte, onBytes func(int) error) (done []copied, err error) {
	if err := source.SyncConn(ctx); err != nil {
		return nil, postgres.Wrap(postgres.Source, doingSend, err)
	}
	if err := target.SyncConn(ctx); err != nil {
		return nil, postgres.Wrap(postgres.Target, doingReceive, err)
	}
	from, to := source.Conn(), target.Conn()

	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		from.SetDeadline(aLongTimeAgo)
		to.SetDeadline(aLongTimeAgo)
	})
	defer func() {
		if !stop() {
			<-interrupted
			err = context.Cause(ctx) // also after success: the deadlines make the sessions unusable
		}
	}()

	// Both servers plan and open at the same time.
	if err := send(from, &pgproto3.Query{String: copyOut}); err != nil {
		return nil, postgres.Wrap(postgres.Source, doingSend, err)
	}
	if err := send(to, &pgproto3.Query{String: copyIn}); err != nil {
		return nil, postgres.Wrap(postgres.Target, doingReceive, err)
	}

	in := &intake{began: make(chan struct{}), ended: make(chan struct{})}
	watching := routine.Start(func() {
		in.watch(target.Frontend(), func() {
			// The target has refused: nothing more is to be read or sent, but it
			// may say its last word.
			from.SetReadDeadline(aLongTimeAgo)
			to.SetWriteDeadline(aLongTimeAgo)
			lastWord(ctx, to)
		})
	})
	defer func() { <-in.ended }()

	out := &outflow{from: from, to: to, buf: buf, onBytes: onBytes}
	select {
	case <-in.began:
		err = out.pass()
	case <-in.ended:
	}
	targetFirst := in.failed.Load()
	if err != nil && !targetFirst {
		out.giveUp(ctx)
	}
	watching.Wait()

	switch {
	case err != nil && !targetFirst && !out.toBroken:
		return out.done, postgres.Wrap(postgres.Source, doingSend, err)
	case out.toBroken && !targetFirst && !isServerError(in.err):
		return out.done[:min(len(in.rows), len(out.done))], postgres.Wrap(postgres.Target, doingReceive, err)
	case in.err != nil:
		return out.done[:min(len(in.rows), len(out.done))], postgres.Wrap(postgres.Target, doingReceive, in.err)
	}
	for i, c := range out.done {
		if i >= len(in.rows) || in.rows[i] != c.rows {
			stored := int64(0)
			if i < len(in.rows) {
				stored = in.rows[i]
			}
			return out.done[:i], postgres.Wrap(postgres.Target, doingReceive, droppedRows{sent: c.rows, stored: stored})
		}
	}
	return out.done, nil
}

// copied is one COPY that went through.
type copied struct{ rows, bytes int64 }

// What a failed relay was doing, on either side.
const (
	doingSend    = "reading rows"
	doingReceive = "storing rows"
)

// send writes one message.
func send(to net.Conn, msg pgproto3.FrontendMessage) error {
	b, err := msg.Encode(nil)
	if err != nil {
		return err
	}
	_, err = to.Write(b)
	return err
}

// lastWord gives a server a moment to say what it has to say, unless ctx has
// ended already.
func lastWord(ctx context.Context, conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(lastWordTimeout))
	// Whoever ends ctx sets the deadline after that, so it cannot be lost here.
	if ctx.Err() != nil {
		conn.SetReadDeadline(aLongTimeAgo)
	}
}

func isServerError(err error) bool { return postgres.Code(err) != "" }

// serverError reads an ErrorResponse. In the middle of a COPY its text may be in
// the encoding of the rows.
func serverError(msg *pgproto3.ErrorResponse) error {
	e := pgconn.ErrorResponseToPgError(msg)
	for _, text := range []*string{&e.Message, &e.Detail, &e.Hint, &e.Where, &e.TableName, &e.ColumnName, &e.ConstraintName} {
		*text = strings.ToValidUTF8(*text, "?")
	}
	return e
}

// copyRows reads the number of rows from the tag of a COPY; false for other
// commands.
func copyRows(tag []byte) (int64, bool) {
	t := pgconn.NewCommandTag(string(tag))
	return t.RowsAffected(), strings.HasPrefix(t.String(), "COPY ")
}
