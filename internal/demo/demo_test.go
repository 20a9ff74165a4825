package demo_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"pgbaton/internal/demo"
	"pgbaton/internal/pgtest"
)

// Generous: other tests keep the machine busy meanwhile.
const maxPauseMS = 5000

// options are those of a small demo, whose files go into a directory that must
// be empty when the test ends.
func options(t *testing.T, out io.Writer) demo.Options {
	t.Helper()
	o := demo.Options{From: 12, To: 15, Orders: 1000, Executable: pgtest.Build(t), Out: out}
	pgtest.BinDir(t, o.From)
	pgtest.BinDir(t, o.To)
	// Not t.TempDir, which the user that runs the servers may not be able to enter.
	dir, err := os.MkdirTemp("", "demo-test-")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		defer os.RemoveAll(dir)
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("files left: %v, %v", left, err)
		}
		if left := processesOf(t, dir); len(left) > 0 {
			t.Errorf("processes left: %q", left)
		}
	})
	return o
}

// processesOf finds processes that were started with TMPDIR set to a directory,
// or name it in their arguments.
func processesOf(t *testing.T, dir string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		// A process may end, or not be ours to look at.
		arguments, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		environment, _ := os.ReadFile(filepath.Join(p, "environ"))
		if bytes.Contains(arguments, []byte(dir)) || bytes.Contains(environment, []byte("TMPDIR="+dir)) {
			found = append(found, p+" "+string(arguments))
		}
	}
	return found
}

func TestDemo(t *testing.T) {
	var out bytes.Buffer
	r, err := demo.Run(t.Context(), options(t, &out))
	t.Logf("%s", out.String())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(r.From, "12.") || !strings.HasPrefix(r.To, "15.") || r.ServedBy != r.To {
		t.Errorf("from %q to %q, served by %q", r.From, r.To, r.ServedBy)
	}
	if r.Products != 116 || r.OrdersBefore != 1000 || r.BytesCopied == 0 || r.TablesCopied == 0 || r.BytesPerSecond <= 0 || r.StartSeconds <= 0 {
		t.Errorf("the copy: %+v", r)
	}
	if r.PauseMS <= 0 || r.PauseMS > maxPauseMS || len(r.Phases) == 0 || r.Phases[0].Name != "ready" || r.SlowestOrderMS <= 0 || r.SlowestRequestMS <= 0 {
		t.Errorf("the switchover: %+v", r)
	}
	if r.FailedRequests != 0 || r.Requests == 0 {
		t.Errorf("%d of %d requests failed", r.FailedRequests, r.Requests)
	}
	if !r.AuditOK || r.OrdersFound != r.OrdersAcknowledged || r.OrdersAcknowledged == 0 {
		t.Errorf("the audit: %+v", r)
	}
	if want := r.OrdersBefore + int64(r.OrdersAcknowledged) + 1; r.OrdersOnTarget != want || r.OrdersOnSource <= r.OrdersBefore {
		t.Errorf("%d orders on the target, %d on the source; want %d on the target", r.OrdersOnTarget, r.OrdersOnSource, want)
	}
	if !strings.Contains(r.SourceRefusal, "42501") {
		t.Errorf("the source says %q to the shop", r.SourceRefusal)
	}
	for _, secret := range regexp.MustCompile(`://\w+:[^@]+@`).FindAllString(out.String(), -1) {
		t.Errorf("the story has a password in it: %s", secret)
	}
}

// What is printed at the end of --keep can be followed to the letter.
func TestKeep(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out := newWatched("finish\n")
	o := options(t, out)
	o.Keep = true
	var (
		running sync.WaitGroup
		report  demo.Report
		runErr  error
	)
	running.Go(func() {
		report, runErr = demo.Run(ctx, o)
		out.end()
	})
	<-out.seen
	t.Cleanup(func() { t.Logf("%s", out.String()) })
	if out.ended() {
		t.Fatal(runErr)
	}

	front := regexp.MustCompile(`http://[\d.:]+/`).FindString(out.String())
	response, err := http.Get(front)
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || !bytes.Contains(page, []byte("served by PostgreSQL 15")) {
		t.Errorf("the shop shows, with error %v:\n%s", err, page)
	}

	exports := regexp.MustCompile(`(?m)^ *export .*$`).FindAllString(out.String(), -1)
	for _, step := range []struct{ command, flags, says string }{
		{"status", "", "target.*has the baton"},
		{"finish", "--yes", "."},
	} {
		line := regexp.MustCompile(`(?m)^ *\S+ ` + step.command + `$`).FindString(out.String())
		if line == "" {
			t.Fatalf("%s: not in the instructions", step.command)
		}
		script := strings.Join(append(exports, line+" "+step.flags), "\n")
		said, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput()
		if err != nil || !regexp.MustCompile(step.says).Match(said) {
			t.Errorf("%s: %v\n%s", line, err, said)
		}
	}

	interrupt()
	running.Wait()
	if runErr != nil || !report.AuditOK || !strings.Contains(out.String(), "each of them there exactly once") {
		t.Errorf("in the end: %+v, %v", report, runErr)
	}
}

// An interrupt, at an unpleasant moment, ends it early and leaves nothing.
func TestInterrupt(t *testing.T) {
	for _, moment := range []string{"$ pgbaton start", "$ pgbaton switchover"} {
		t.Run(moment, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			out := newWatched(moment)
			o := options(t, out)
			var running sync.WaitGroup
			running.Go(func() {
				<-out.seen
				interrupt()
			})
			_, err := demo.Run(ctx, o)
			out.end()
			running.Wait()
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v\n%s", err, out.String())
			}
		})
	}
}

// When nobody listens any more, it ends early too.
func TestClosedPipe(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	var listening sync.WaitGroup
	listening.Go(func() {
		lines := bufio.NewScanner(reader)
		for lines.Scan() && !strings.Contains(lines.Text(), "shoppers") {
		}
		reader.Close()
	})
	_, err = demo.Run(t.Context(), options(t, writer))
	writer.Close()
	listening.Wait()
	if err == nil || !strings.Contains(err.Error(), "broken pipe") {
		t.Errorf("got %v", err)
	}
}

// watched is an output that tells when a text has appeared in it.
type watched struct {
	text string
	seen chan struct{} // closed when it has, or when there will be no more

	mu     sync.Mutex
	buffer bytes.Buffer
	closed bool
	over   bool
}

func newWatched(text string) *watched {
	return &watched{text: text, seen: make(chan struct{})}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.buffer.Write(p)
	if bytes.Contains(w.buffer.Bytes(), []byte(w.text)) {
		w.close()
	}
	return n, err
}

func (w *watched) close() {
	if !w.closed {
		w.closed = true
		close(w.seen)
	}
}

func (w *watched) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.close()
}

func (w *watched) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buffer.String()
}
