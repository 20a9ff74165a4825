package demo_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pgbaton/internal/demo"
	"pgbaton/internal/handover"
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
	pgtest.Pooler(t, "")
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

// The whole story, through PgBouncer and without.
func TestDemo(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to int
		direct   bool
	}{
		{"12 to 15 through PgBouncer", 12, 15, false},
		{"13 to 18 without", 13, 18, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			o := options(t, &out)
			o.From, o.To, o.Direct = c.from, c.to, c.direct
			pgtest.BinDir(t, o.From)
			pgtest.BinDir(t, o.To)
			r, err := demo.Run(t.Context(), o)
			t.Logf("%s", out.String())
			if err != nil {
				t.Fatal(err)
			}
			check(t, r, c.from, c.to, c.direct)
			for _, secret := range regexp.MustCompile(`://\w+:[^@]+@`).FindAllString(out.String(), -1) {
				t.Errorf("the story has a password in it: %s", secret)
			}
			if undone := regexp.MustCompile(`undone|attention`).FindString(out.String()); undone != "" {
				t.Errorf("the story says %q", undone)
			}
		})
	}
}

func check(t *testing.T, r demo.Report, from, to int, direct bool) {
	if !strings.HasPrefix(r.From, fmt.Sprintf("%d.", from)) || !strings.HasPrefix(r.To, fmt.Sprintf("%d.", to)) || (r.Pooler == "") != direct {
		t.Errorf("from %q to %q through %q", r.From, r.To, r.Pooler)
	}
	if r.Products != 116 || r.OrdersBefore != 1000 || r.BytesCopied == 0 || r.TablesCopied == 0 || r.BytesPerSecond <= 0 || r.StartSeconds <= 0 {
		t.Errorf("the copy: %+v", r)
	}
	wantHandovers := []demo.Handover{
		{Command: "switchover", To: "target", ServedBy: r.To},
		{Command: "rollback", To: "source", ServedBy: r.From},
		{Command: "switchover", To: "target", ServedBy: r.To},
	}
	if len(r.Handovers) != len(wantHandovers) {
		t.Fatalf("handovers: %+v", r.Handovers)
	}
	for i, h := range r.Handovers {
		if want := wantHandovers[i]; h.Command != want.Command || h.To != want.To || h.ServedBy != want.ServedBy {
			t.Errorf("handover %d: %+v", i, h)
		}
		if h.DatabasePauseMS <= 0 || h.PauseMS < h.DatabasePauseMS || h.PauseMS > maxPauseMS || h.SlowestOrderMS <= 0 ||
			h.SlowestRequestMS < h.SlowestOrderMS || h.SlowestRequestBeforeMS <= 0 || h.FailedRequests != 0 {
			t.Errorf("handover %d, its times: %+v", i, h)
		}
		var names []string
		for _, p := range h.Phases {
			names = append(names, p.Name)
		}
		if !slices.Equal(names, handover.Phases()) {
			t.Errorf("handover %d, its phases: %q", i, names)
		}
		if !strings.Contains(h.Refusal, "42501") {
			t.Errorf("handover %d: the side without the baton says %q to the shop", i, h.Refusal)
		}
	}
	if r.FailedRequests != 0 || r.Requests == 0 {
		t.Errorf("%d of %d requests failed", r.FailedRequests, r.Requests)
	}
	if !r.AuditOK || r.OrdersFound != r.OrdersAcknowledged || r.OrdersAcknowledged == 0 {
		t.Errorf("the audit: %+v", r)
	}
	var taken int64
	for i, s := range r.Stays {
		taken += s.Orders
		if want := []string{"source", "target"}[i%2]; s.Side != want || s.Orders == 0 {
			t.Errorf("stay %d: %+v", i, s)
		}
	}
	if len(r.Stays) != len(wantHandovers)+1 || taken != int64(r.OrdersAcknowledged) {
		t.Errorf("of %d orders, %d were taken by: %+v", r.OrdersAcknowledged, taken, r.Stays)
	}
	// The demo has placed an order itself after each handover; the way back brought
	// every order to the source.
	want := r.OrdersBefore + int64(r.OrdersAcknowledged+len(wantHandovers))
	if r.OrdersOnTarget != want || r.OrdersOnSource != want {
		t.Errorf("%d orders on the target, %d on the source; want %d", r.OrdersOnTarget, r.OrdersOnSource, want)
	}
}

// What is printed at the end of --keep can be followed to the letter.
func TestKeep(t *testing.T) {
	for _, direct := range []bool{false, true} {
		t.Run(fmt.Sprintf("direct %t", direct), func(t *testing.T) { keepAndFollow(t, direct) })
	}
}

func keepAndFollow(t *testing.T, direct bool) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out := newWatched("finish\n")
	o := options(t, out)
	o.Keep, o.Direct = true, direct
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
	_, instructions, _ := strings.Cut(out.String(), "in another terminal")
	exports := regexp.MustCompile(`(?m)^ *export .*$`).FindAllString(out.String(), -1)
	for _, step := range []struct{ command, flags, says, server string }{
		{"status", "", "target.*has the baton", "15"},
		{"rollback --yes", "", "The baton is on the source", "12"},
		{"switchover --yes", "", "The baton is on the target", "15"},
		{"finish", "--yes", ".", "15"},
	} {
		line := regexp.MustCompile(`(?m)^ *\S+ ` + step.command + `\b.*$`).FindString(instructions)
		if line == "" {
			t.Fatalf("%s: not in the instructions", step.command)
		}
		script := strings.Join(append(exports, line+" "+step.flags), "\n")
		said, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput()
		if err != nil || !regexp.MustCompile(step.says).Match(said) {
			t.Errorf("%s: %v\n%s", line, err, said)
		}
		if page := read(t, front+"healthz"); !strings.Contains(page, `"server_version":"`+step.server+".") {
			t.Errorf("after %s: %s", step.command, page)
		}
		if page := read(t, front); !strings.Contains(page, "served by PostgreSQL "+step.server+".") {
			t.Errorf("after %s the shop shows:\n%s", step.command, page)
		}
	}

	interrupt()
	running.Wait()
	if runErr != nil || !report.AuditOK || len(report.Handovers) != 1 ||
		!regexp.MustCompile(`each of them there exactly once; 0 of \S+ requests failed`).MatchString(out.String()) {
		t.Errorf("in the end: %+v, %v", report, runErr)
	}
}

func read(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// An interrupt, at an unpleasant moment, ends it early and leaves nothing.
func TestInterrupt(t *testing.T) {
	for _, moment := range []string{"$ pgbaton start", "$ pgbaton switchover", "    fence ", "    pass "} {
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

// A command that dies in the middle leaves its guardian; that one, even if it hangs,
// goes with everything else.
func TestKilledCommand(t *testing.T) {
	out := newWatched("    prepare ") // the guardian stands by
	o := options(t, out)
	var running sync.WaitGroup
	running.Go(func() {
		<-out.seen
		for _, command := range []struct {
			name   string
			signal syscall.Signal
		}{{"guardian", syscall.SIGSTOP}, {"switchover", syscall.SIGKILL}} {
			for _, found := range processesOf(t, os.Getenv("TMPDIR")) {
				if pid, arguments, _ := strings.Cut(found, " "); strings.Contains(arguments, "\x00"+command.name+"\x00") {
					n, _ := strconv.Atoi(filepath.Base(pid))
					if err := syscall.Kill(n, command.signal); err != nil {
						t.Errorf("%s: %v", found, err)
					}
				}
			}
		}
	})
	_, err := demo.Run(t.Context(), o)
	out.end()
	running.Wait()
	if err == nil || !strings.Contains(err.Error(), "pgbaton switchover ended with exit code -1") {
		t.Errorf("got %v\n%s", err, out.String())
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
