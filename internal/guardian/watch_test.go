package guardian

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgbaton/internal/handover"
)

// watched is a guardian in a bubble of time, told through a pipe. Nothing is killed: no
// process stands behind what it is told.
type watched struct {
	in    *io.PipeWriter
	began time.Time
	done  chan struct{} // closed when Watch has returned err
	err   error
	said  []string
	// Of its taking over.
	tries int
	after time.Duration // the first, since began
	ward  handover.Ward
	why   string
}

// watch starts one. take is how each try of taking over ends, by its number from 1.
func watch(ctx context.Context, t *testing.T, take func(try int) error) *watched {
	t.Helper()
	in, pipe := io.Pipe()
	answer, out := io.Pipe()
	w := &watched{in: pipe, done: make(chan struct{})}
	prepare := func(task json.RawMessage) (TakeOver, error) {
		if string(task) != `"a task"` {
			return nil, fmt.Errorf("the task is %s", task)
		}
		return func(_ context.Context, ward *handover.Ward, _ func(), why string) error {
			if w.tries++; w.tries == 1 {
				w.after, w.ward, w.why = time.Since(w.began), *ward, why
			}
			return take(w.tries)
		}, nil
	}
	go func() {
		defer close(w.done)
		w.err = Watch(ctx, in, out, prepare, func(text string) { w.said = append(w.said, text) })
	}()
	w.tell(t, message{PID: 1 << 30, Task: json.RawMessage(`"a task"`)})
	line := make([]byte, len(readyLine))
	if _, err := io.ReadFull(answer, line); err != nil || string(line) != readyLine {
		t.Fatalf("it answers %q, %v", line, err)
	}
	w.began = time.Now()
	return w
}

func (w *watched) tell(t *testing.T, m message) {
	t.Helper()
	line, err := json.Marshal(m)
	if err == nil {
		_, err = w.in.Write(append(line, '\n'))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// alive shows signs of life for a while.
func (w *watched) alive(t *testing.T, for_ time.Duration) {
	t.Helper()
	for began := time.Now(); time.Since(began) < for_; {
		select {
		case <-w.done:
			return
		case <-time.After(heartbeat):
			w.tell(t, message{Alive: true})
		}
	}
}

// succeed is a try that is done.
func succeed(int) error { return nil }

// TestClock: when the guardian takes over from a process that exists, and when it does
// not. It looks at the clock every 50 ms.
func TestClock(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		tell  func(*testing.T, *watched)
		after time.Duration // 0: not at all
		why   string
	}{
		{"nobody waits, and silence", func(t *testing.T, w *watched) { <-time.After(time.Hour) }, 0, ""},
		{"within the budget", func(t *testing.T, w *watched) {
			w.tell(t, message{Pausing: 10_000})
			w.alive(t, 10*time.Second)
		}, 0, ""},
		{"over the budget", func(t *testing.T, w *watched) {
			w.tell(t, message{Pausing: 3000})
			w.alive(t, time.Minute)
		}, 3*time.Second + grace + look, "over its budget"},
		{"silent", func(t *testing.T, w *watched) {
			w.tell(t, message{Pausing: 60_000})
			w.alive(t, 4*time.Second)
		}, 4*time.Second + silence + look, "hung"},
		{"aborting, over the budget", func(t *testing.T, w *watched) {
			w.tell(t, message{Pausing: 1000})
			w.tell(t, message{Aborting: true})
			w.alive(t, time.Minute)
		}, 0, ""},
		{"passed, over the budget", func(t *testing.T, w *watched) {
			w.tell(t, message{Pausing: 1000})
			w.tell(t, message{Passed: true})
			w.alive(t, time.Minute)
		}, 0, ""},
		{"passed, then silent", func(t *testing.T, w *watched) {
			w.tell(t, message{Pausing: 1000})
			w.tell(t, message{Passed: true})
		}, silence + look, "hung"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := watch(t.Context(), t, succeed)
				test.tell(t, w)
				if test.after == 0 {
					w.tell(t, message{Finished: true})
				}
				<-w.done
				w.in.Close()
				if w.err != nil || w.after != test.after || !strings.Contains(w.why, test.why) || (w.tries > 0) != (test.after > 0) {
					t.Errorf("%d tries, the first after %v (want %v): %s; %v", w.tries, w.after, test.after, w.why, w.err)
				}
			})
		})
	}
}

// TestPipeEnds: the end of the pipe is the end of the process. Before anybody waits that
// is no reason to do anything; from then on it is one at once, whatever the clock says.
func TestPipeEnds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		told  []message
		tries int
	}{
		{"nobody waits", []message{{Ward: &handover.Ward{ID: "1"}}}, 0},
		{"it pauses", []message{{Ward: &handover.Ward{ID: "1"}}, {Ward: &handover.Ward{ID: "2"}}, {Pausing: 1000}}, 1},
		{"it aborts", []message{{Ward: &handover.Ward{ID: "2"}}, {Pausing: 1000}, {Aborting: true}}, 1},
		{"it has passed", []message{{Pausing: 1000}, {Ward: &handover.Ward{ID: "2"}}, {Passed: true}}, 1},
		{"it is finished", []message{{Pausing: 1000}, {Passed: true}, {Finished: true}}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := watch(t.Context(), t, succeed)
			for _, m := range test.told {
				w.tell(t, m)
			}
			w.in.Close()
			<-w.done
			if w.err != nil || w.tries != test.tries || w.after != 0 || test.tries == 1 && (w.ward.ID != "2" || !strings.Contains(w.why, "ended in the middle")) {
				t.Errorf("%s: %d tries for %+v after %v: %s; %v", test.name, w.tries, w.ward, w.after, w.why, w.err)
			}
		})
	}
}

// TestTries: a guardian goes on trying, says so now and then, and gives up only where a
// person must look, or after a day.
func TestTries(t *testing.T) {
	t.Parallel()
	failure := errors.New("no route to the holder")
	for _, test := range []struct {
		name    string
		take    func(try int) error
		tries   int // 0: many
		lasting time.Duration
		gaveUp  bool
		last    string // said
	}{
		{"at once", succeed, 1, 0, false, "the guardian is done"},
		{"at last", func(try int) error {
			if try < 4 {
				return failure
			}
			return nil
		}, 4, 700 * time.Millisecond, false, "the guardian is done"}, // 100, 200, 400 ms
		{"a fault of ours", func(try int) error {
			if try == 1 {
				panic("a fault")
			}
			return nil
		}, 2, firstPause, false, "the guardian is done"},
		{"overtaken", func(int) error { return &handover.Superseded{Why: "it was reset"} }, 1, 0, false, "it was reset"},
		{"traffic held", func(int) error { return &handover.TrafficHeld{Err: failure} }, 0, trafficPatience, true, "goes on trying: one side serves"},
		{"never", func(int) error { return failure }, 0, patience, true, "goes on trying: no route"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := watch(t.Context(), t, test.take)
				w.tell(t, message{Pausing: 1000})
				w.in.Close()
				<-w.done
				lasted := time.Since(w.began)
				if (w.err != nil) != test.gaveUp || test.gaveUp && !errors.Is(w.err, failure) || lasted < test.lasting || lasted > test.lasting+2*lastPause {
					t.Errorf("after %v: %v", lasted, w.err)
				}
				if test.tries > 0 && w.tries != test.tries || test.tries == 0 && w.tries < 10 {
					t.Errorf("%d tries", w.tries)
				}
				if last := w.said[len(w.said)-1]; !strings.Contains(last, test.last) {
					t.Errorf("it says last: %s", last)
				}
				if most := 3 + int(lasted/sayEvery); len(w.said) > most {
					t.Errorf("it has said %d things in %v", len(w.said), lasted)
				}
			})
		})
	}
}

// TestNobodyToGuard: a guardian that is not told what to do ends.
func TestNobodyToGuard(t *testing.T) {
	t.Parallel()
	prepare := func(json.RawMessage) (TakeOver, error) { return nil, errors.New("no such task") }
	for in, want := range map[string]string{"": errGone.Error(), "pgbaton guardian\n": errGone.Error(), `{"pid":1,"task":"t"}`: "no such task"} {
		var out strings.Builder
		err := Watch(t.Context(), strings.NewReader(in), &out, prepare, func(text string) { t.Errorf("it says %s", text) })
		if err == nil || err.Error() != want || out.Len() > 0 {
			t.Errorf("%q: %v, %q", in, err, out.String())
		}
	}
}
