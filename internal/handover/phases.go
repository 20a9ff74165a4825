package handover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/routine"
	"pgbaton/internal/traffic"
)

// The journal of a handover.
var (
	pausedEntry   = journal.One[Held](journal.Paused)
	trafficEntry  = journal.One[Held](journal.Traffic)
	drainedEntry  = journal.One[drained](journal.Drained)
	streamEntry   = journal.One[int64](journal.Stream)
	staleEntry    = journal.One[time.Time](journal.Stale)
	viewsEntry    = journal.One[heldViews](journal.Views)
	arrivalEntry  = journal.One[Arrival](journal.Arrived)
	guardianEntry = journal.One[GuardianNote](journal.Guardian)
	resultEntries = journal.Many[Result](journal.Result)
)

// Held says by what a handover holds traffic back.
type Held struct {
	Attempt int64    `json:"attempt"`
	By      []string `json:"by,omitempty"` // the names of the movers
}

// leakSlot is the temporary slot that shows writes after the fence.
func (r *run) leakSlot() string { return postgres.ClusterName(r.Label, "leak") }

// pause holds traffic back. The intention was noted right before: whoever comes
// after a death in this phase finds nothing else that shows it.
func (r *run) pause(ctx context.Context) error { return r.Traffic.Pause(ctx, r.Route()) }

func (r *run) notePause(ctx context.Context) error {
	return r.Holder.Wrap("writing the journal",
		pausedEntry.Put(ctx, r.holder, Held{r.attempt, r.Traffic.Names()}))
}

// undoPause lets traffic go, but only as long as the handover is ours: whoever
// took it over may have moved traffic meanwhile.
func (r *run) undoPause(ctx context.Context) error {
	if err := r.mine(ctx); err != nil {
		return err
	}
	held, err := ReadPaused(ctx, r.holder)
	if err != nil {
		return r.Holder.Wrap("reading the journal", err)
	}
	if err := r.canLetGo(held); err != nil {
		return err
	}
	if err := r.Traffic.Abort(ctx, r.Route()); err != nil {
		return err
	}
	if !r.paused.IsZero() { // by this very run
		r.result.PauseMS = event.MS(time.Since(r.paused))
	}
	return pausedEntry.Delete(ctx, r.holder)
}

// ReadPaused says by what a handover holds back, or is about to hold back, the
// traffic to this holder; nil when nothing does.
func ReadPaused(ctx context.Context, holder *postgres.Session) (*Held, error) {
	return readHeld(ctx, holder, pausedEntry)
}

func readHeld(ctx context.Context, conn *postgres.Session, entry journal.Entry[Held]) (*Held, error) {
	if conn == nil {
		return nil, nil
	}
	h, ok, err := entry.Get(ctx, conn)
	if err != nil || !ok {
		return nil, err
	}
	return &h, nil
}

// canLetGo refuses when traffic is held back by something that this command was
// not told of, as when it runs on another host.
func (r *run) canLetGo(h *Held) error {
	if h == nil {
		return nil
	}
	have := r.Traffic.Names()
	for _, name := range h.By {
		if !slices.Contains(have, name) {
			return refusal.New(r.Command, "an earlier handover holds traffic back: "+name, traffic.SameRemedy(name))
		}
	}
	return nil
}

// fence leaves the holder without any session that could write, and proves it:
// commit, barrier, evict, proof (rule 2, a to d). It runs on the session that
// holds the lock.
func (r *run) fence(ctx context.Context) error {
	database := r.Holder.Database()
	r.fenced = time.Now()
	saved, err := fence.Raise(ctx, r.holder, database, r.Holder.Keeps, nil)
	if err != nil {
		return r.Holder.Wrap("raising the fence", err)
	}
	r.closed = saved
	deadline, _ := ctx.Deadline()
	if err := fence.Barrier(ctx, r.holder, database, time.Until(deadline)); err != nil {
		return r.Holder.Wrap("waiting at the barrier for sessions that start up", err)
	}
	ours := []int32{int32(r.holder.PgConn().PID()), int32(r.holderSide.watch.PgConn().PID())}
	provider, err := fence.Evict(ctx, r.holder, ours, replication.AllOf(r.Label))
	if err != nil {
		return r.Holder.Wrap("ending the sessions that could still write", err)
	}
	if len(provider) > 0 {
		r.Observe(event.Warning{Side: r.Holder.Side, Text: "sessions of the provider that cannot be ended: " + strings.Join(provider, "; ")})
	}
	return nil
}

// undoFence lets applications in again. The session that raised the fence may be
// gone, with the budget or the network: then another one lifts it.
func (r *run) undoFence(ctx context.Context) error {
	if err := r.mine(ctx); err != nil {
		return err
	}
	if err := fence.CloseLeakCheck(ctx, r.holder, r.leakSlot()); err != nil {
		return err
	}
	return r.letIn(ctx, r.Holder, r.holder, r.taker, r.closed)
}

// serves says whether a side that could not be opened as it was is open to some
// applications all the same: those do not wait for the others.
func serves(p Party, err error) bool {
	var notOpen *fence.NotOpen
	return errors.As(err, &notOpen) && notOpen.Serves(p.Keeps)
}

// drain proves that the taker has applied everything up to the fence: a marker
// written behind it is visible there, for every group (rule 3). Beside it, on
// sessions of their own, the tables are looked at once more: one created since
// ready would be lost. And the sequences are read, and the rows of extensions: nobody
// changes them any more.
func (r *run) drain(ctx context.Context) error {
	drains, ctx := routine.WithContext(ctx)
	drains.Go(func() error { return r.drainStream(ctx) })
	drains.Go(func() error { return r.unchanged(ctx) })
	return drains.Wait()
}

// drainStream makes the slot for the leak check and then the marker: what anybody
// commits before the marker is drained with it, and what comes later is in the
// slot.
func (r *run) drainStream(ctx context.Context) error {
	if err := fence.OpenLeakCheck(ctx, r.holder, r.leakSlot()); err != nil {
		return r.Holder.WrapHint("creating the slot of the leak check", err, replication.SlotHint(err))
	}
	tokens := make([]string, len(r.Groups))
	for i, g := range r.Groups {
		token, err := replication.WriteMarker(ctx, r.holder, g.MarkerTable(), replication.Drain)
		if err != nil {
			return r.Holder.Wrap("writing the drain's marker", err)
		}
		tokens[i] = token
	}
	for i, g := range r.Groups {
		if err := replication.WaitMarker(ctx, r.taker, g.MarkerTable(), tokens[i]); err != nil {
			return r.Taker.Wrap("waiting until everything up to the fence is applied", err)
		}
	}
	return nil
}

// side is a party with a second session, and how its tables looked when they were
// compared.
type side struct {
	Party
	watch       *postgres.Session
	fingerprint string
}

func (r *run) sides() []*side { return []*side{&r.holderSide, &r.takerSide} }

// compareTables compares the tables of both sides, and remembers how they look.
// What changes while it looks is found by unchanged.
func (r *run) compareTables(ctx context.Context) ([]replication.Difference, error) {
	for _, s := range r.sides() {
		sum, err := replication.Fingerprint(ctx, s.watch)
		if err != nil {
			return nil, s.Wrap("looking at the tables", err)
		}
		s.fingerprint = sum
	}
	diff, err := replication.Streams(ctx, r.holderSide.watch, r.takerSide.watch, r.Groups, r.Selection)
	return diff, r.Holder.Wrap("comparing the tables of both sides", err)
}

// unchanged fails when a table or a sequence of either side has changed since the
// sides were compared, and reads the holder's sequences.
func (r *run) unchanged(ctx context.Context) error {
	both, ctx := routine.WithContext(ctx)
	for _, s := range r.sides() {
		both.Go(func() error {
			sum, err := replication.Fingerprint(ctx, s.watch)
			if err == nil && sum != s.fingerprint {
				err = errors.New("a table or sequence was created, changed or dropped since the handover was found ready")
			}
			if err == nil && s == &r.holderSide {
				if err = r.notRewritten(ctx); err == nil {
					r.values, err = replication.ReadSequences(ctx, s.watch, r.sequences)
				}
				if err == nil {
					err = r.readConfigs(ctx)
				}
			}
			return s.WrapHint("looking at the tables once more", err, "run the command again: it says what differs, if anything does")
		})
	}
	return both.Wait()
}

// notRewritten fails when a table was truncated that the stream does not tell of.
func (r *run) notRewritten(ctx context.Context) error {
	for _, g := range r.Groups {
		rewritten, err := replication.Rewritten(ctx, r.holderSide.watch, r.Taker.Version(), g)
		if err != nil {
			return err
		}
		if len(rewritten) > 0 {
			return errors.New(strings.Join(rewritten, "; "))
		}
	}
	return nil
}

// presetSequences brings the taker's sequences to where the holder's are, before
// anyone waits: then those that have moved on since are few. The taker is fenced:
// nobody else moves them. They are listed once more, behind the fingerprint: one
// that comes later is found by unchanged.
func (r *run) presetSequences(ctx context.Context) (err error) {
	if r.sequences, err = catalog.Sequences(ctx, r.holderSide.watch, r.Selection); err != nil {
		return r.Holder.Wrap("listing sequences", err)
	}
	onTaker, err := catalog.Sequences(ctx, r.taker, r.Selection)
	if err != nil {
		return r.Taker.Wrap("listing sequences", err)
	}
	have := map[postgres.Ident]bool{}
	for _, s := range onTaker {
		have[s.Ident] = true
	}
	// An extension of another version may be without one of its own.
	r.sequences = slices.DeleteFunc(r.sequences, func(s catalog.Sequence) bool {
		gone := s.Config && !have[s.Ident]
		if gone {
			r.Observe(event.Warning{Side: r.Taker.Side, Text: fmt.Sprintf("sequence %s of an extension is left as it is: it is not there, or our role may not set it", s.Ident),
				Remedy: "set it by hand with setval"})
		}
		return gone
	})
	for _, s := range r.sequences {
		if !have[s.Ident] {
			return r.Taker.WrapHint("comparing sequences", fmt.Errorf("sequence %s does not exist here", s.Ident),
				"create it as it is on the "+string(r.Holder.Side))
		}
	}
	values, err := replication.ReadSequences(ctx, r.holderSide.watch, r.sequences)
	if err != nil {
		return r.Holder.Wrap("reading the sequences", err)
	}
	r.preset = map[replication.SequenceValue]bool{}
	for _, v := range values {
		r.preset[v] = true
	}
	return r.Taker.Wrap("setting the sequences", replication.SetSequences(ctx, r.taker, values))
}

// setSequences sets every sequence of the taker exactly as on the holder, and the rows
// that extensions keep for the user. Only before the pass: later the taker's own
// writes would be undone.
func (r *run) setSequences(ctx context.Context) error {
	if err := r.setConfigs(ctx); err != nil {
		return err
	}
	moved := slices.DeleteFunc(slices.Clone(r.values), func(v replication.SequenceValue) bool { return r.preset[v] })
	return r.Taker.Wrap("setting the sequences", replication.SetSequences(ctx, r.taker, moved))
}
