package cli_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

// letIn lists whom a side lets in, of the application and the guest, to whom only a role
// of which pgbaton's must be a member can give CONNECT back.
func (m *move) letIn(c *cluster.Cluster) (who []string) {
	m.t.Helper()
	for _, role := range []string{"app", "guest"} {
		conn, err := pgx.Connect(m.t.Context(), c.ConnStringAs(role, role, m.db))
		if err != nil {
			continue
		}
		if _, err := conn.Exec(m.t.Context(), `CREATE TEMPORARY TABLE could_write ()`); err == nil {
			who = append(who, role)
		}
		conn.Close(m.t.Context())
	}
	return who
}

// lets requires whom a side lets in.
func (m *move) lets(c *cluster.Cluster, who ...string) {
	m.t.Helper()
	if got := m.letIn(c); !slices.Equal(got, who) {
		m.t.Fatalf("the server on port %d lets in %q, want %q", c.Port(), got, who)
	}
}

const (
	withoutGuest = `applications cannot all connect: "guest" has no CONNECT by "granter"`
	guardianGoes = "; COMMIT; the guardian, a process of its own, goes on trying; pgbaton status shows where things stand, and the same command, run again, takes over from it"
)

// lastObject reads the last line of a command's output.
func lastObject(t *testing.T, stdout string) (last map[string]any) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	return last
}

// openedInPart is for a migration whose target has the baton. Inside the pause pgbaton's
// role loses what it needs to give one grant back: whoever else may connect does not wait
// for that, and it is said, by whoever meets it, which statements open the rest.
func (m *move) openedInPart() {
	t := m.t
	t.Helper()
	admin := m.target.ConnString("postgres")
	give := func() { pgtest.Exec(t, admin, `GRANT granter TO mover`) }
	// fenced is a rollback that stands in the drain, behind the fence.
	fenced := func(args ...string) (*pgtest.Process, *pgtest.Held) {
		t.Helper()
		gate := pgtest.NewFifo(t)
		p := pgtest.Spawn(t, m.options(append([]string{"rollback", "--yes", "--json", "--on-pause", gate.Command("paused")}, args...)...))
		p.AwaitStderr(t, "paused")
		held := pgtest.Hold(t, m.sourceURI(), `LOCK TABLE pgbaton.marker_reverse_1 IN EXCLUSIVE MODE`)
		pgtest.Exec(t, admin, `REVOKE granter FROM mover`)
		gate.Open(t, 1)
		p.AwaitStdout(t, `"phase_ended","phase":"fence"`)
		return p, held
	}
	byWhom := func(text string) { // runs the statements, as they are printed
		t.Helper()
		pgtest.Exec(t, m.targetURI(), byHand(t, text))
		m.lets(m.target, "app", "guest")
	}

	// The command itself aborts.
	p, held := fenced("--max-pause", "2s")
	p.AwaitStdout(t, `"type":"result"`)
	failed := lastObject(t, p.Stdout())
	hint := failed["hint"].(string)
	if why := failed["error"].(string); failed["exit_code"] != 1.0 || !strings.Contains(why, "handover aborted in phase drain") || !strings.Contains(why, withoutGuest) || !strings.HasSuffix(hint, guardianGoes) {
		t.Errorf("%v", failed)
	}
	m.lets(m.target, "app")
	pgtest.Until(t, time.Minute, "status says that not all are let in", func() bool {
		return strings.Contains(texts(m.result(0, "status")["findings"]), "the target could not be opened to all as before")
	})
	byWhom(hint)
	m.awaitNote(t, "the guardian undid the handover: the target serves")
	held.Release()
	if r := p.Wait(t); r.Code != 1 {
		t.Errorf("%s", r)
	}
	give()

	// It is killed, and its guardian undoes the handover.
	p, held = fenced("--max-pause", "30s")
	p.Signal(t, syscall.SIGKILL)
	p.AwaitStderr(t, "the guardian goes on trying")
	p.AwaitStderr(t, "; COMMIT")
	m.lets(m.target, "app")
	if said := regexp.MustCompile(`(?s)the guardian goes on trying: (.*)`).FindString(p.Stderr()); !strings.Contains(said, withoutGuest) {
		t.Errorf("the guardian says: %s", said)
	} else {
		byWhom(said)
	}
	m.awaitNote(t, "the guardian undid the handover: the target serves")
	held.Release()
	p.Wait(t)
	give()

	// The guardian, too: the next command undoes it.
	p, held = fenced("--max-pause", "30s")
	m.killBoth(p)
	held.Release()
	r := m.run(1, "rollback", "--yes")
	if !strings.Contains(r.Stderr, withoutGuest) {
		t.Errorf("%s", r)
	}
	m.lets(m.target, "app")
	byWhom(r.Stderr)
	give()
	m.run(0, "rehearse")
	m.openedByForce()
}

// openedByForce opens a side in part whose holder is lost.
func (m *move) openedByForce() {
	t := m.t
	t.Helper()
	m.lets(m.source)
	if err := m.target.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, m.source.ConnString("postgres"), `REVOKE granter FROM mover`)
	o := m.options("rollback", "--holder-lost")
	o.Stdin = m.db + "\n"
	r := pgtest.Run(t, o)
	if r.Code != 6 || !strings.Contains(r.Stderr, withoutGuest) {
		t.Errorf("%s", r)
	}
	m.lets(m.source, "app")
	pgtest.Exec(t, m.sourceURI(), byHand(t, r.Stderr))
	m.lets(m.source, "app", "guest")
}
