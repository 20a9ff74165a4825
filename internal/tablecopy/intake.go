package tablecopy

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgproto3"
)

// intake listens to the target while rows are sent to it, so that an error ends
// the relay at once and not when the last row has been sent.
type intake struct {
	began  chan struct{} // closed when the target waits for rows
	ended  chan struct{} // closed when the target has nothing more to say; then rows and err may be read
	failed atomic.Bool   // set before onFailure is called

	rows []int64 // of each COPY that is complete
	err  error
}

// watch reads the target's answers until its query has ended. onFailure is
// called once, at the first sign of failure; it has to bound the reads after it.
func (in *intake) watch(f *pgproto3.Frontend, onFailure func()) {
	defer close(in.ended)
	fail := func(err error) {
		if in.err == nil {
			in.err = err
			in.failed.Store(true)
			onFailure()
		}
	}
	begun := false
	for {
		msg, err := f.Receive()
		if err != nil {
			fail(err)
			return
		}
		switch m := msg.(type) {
		case *pgproto3.CopyInResponse:
			if !begun {
				begun = true
				close(in.began)
			}
		case *pgproto3.CommandComplete:
			if n, ok := copyRows(m.CommandTag); ok {
				in.rows = append(in.rows, n)
			}
		case *pgproto3.ErrorResponse:
			fail(serverError(m))
			if m.Severity == "FATAL" || m.Severity == "PANIC" || m.SeverityUnlocalized == "FATAL" || m.SeverityUnlocalized == "PANIC" {
				return
			}
		case *pgproto3.ReadyForQuery:
			if len(in.rows) == 0 {
				fail(errors.New("the query ended without a COPY"))
			}
			return
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		default:
			fail(fmt.Errorf("unexpected message %T during COPY", msg))
			return
		}
	}
}
