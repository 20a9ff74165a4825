package handover_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgbaton/internal/handover"
)

// defect is a deliberate mistake; several are a set.
type defect uint32

const (
	// Those of the code, now or when the model was made.
	takerUnlocked  defect = 1 << iota // aliveTaker and enableBack did without the lock
	takerUnasked                      // aliveTaker does not ask the holder again when it has the taker's lock
	settleBlind                       // settle asked nobody
	settleGoesOn                      // settle asks before it has both locks, and goes on when it was refused
	holderAlone                       // readBaton and mine asked the holder alone
	givesUp                           // a guardian took any owner of a lock for its successor
	ownerTakesOver                    // a command does
	raiseLost                         // a guardian did not know its own attempt again
	beginBlind                        // begin did not compare the two records
	dismissed                         // the guardian is dismissed although traffic is held back
	pauseLeft                         // nobody looked for a pause that arrives late
	looksOnce                         // letGoLate looks once, and a superseded guardian does not look

	// Mistakes that nobody has made.
	openFirst
	noAttempt
	noLock
	noEvict
	noDrain
	lateSlot
	streamLeft
	undoUnknown
	noDurable
	sequencesAgain
	noQuestion
	onlyBack
)

// searches are the bounds in which nothing may be found.
var searches = map[string]*model{
	"there, two faults":           {maxFaults: 2, writes: 1},
	"there and back, two faults":  {maxFaults: 2, rollback: true},
	"there and back, many writes": {maxFaults: 1, writes: maxWrites, rollback: true},
	"by force, two faults":        {maxFaults: 2, byForce: true},
}

// TestModelKeepsItsWord looks at every state that a handover can get into; with -short
// (make test-unit), which has no minute for it, at those that one fault leads to.
func TestModelKeepsItsWord(t *testing.T) {
	for name, m := range searches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && m.writes > 1 {
				t.Skip("takes long: make test runs it")
			}
			m := *m
			if testing.Short() {
				m.maxFaults = min(m.maxFaults, 1)
			}
			began := time.Now()
			f := m.search(everywhere)
			t.Logf("%d states, %d steps between them, depth %d, %.1f s", f.states, f.steps, f.depth, time.Since(began).Seconds())
			if f.bad != 0 {
				t.Errorf("%s:\n%s", f.bad, strings.Join(f.trace, "\n"))
			}
		})
	}
}

// TestModelFindsDefects makes one mistake at a time: the search must find what it
// breaks. The trace is the shortest there is.
func TestModelFindsDefects(t *testing.T) {
	there := func(faults, writes uint8) model { return model{maxFaults: faults, writes: writes} }
	back := func(faults, writes uint8) model { return model{maxFaults: faults, writes: writes, rollback: true} }
	force := model{maxFaults: 2, byForce: true}
	for name, d := range map[string]struct {
		defect
		breaks invariant
		model
	}{
		"whoever undoes asks the holder alone, which came back":   {holderAlone, twoWritable, force},
		"begin undoes what a stale side has left":                 {beginBlind, twoWritable, force},
		"a new session on the taker does without the lock: slot":  {takerUnlocked, streamBroken, there(1, 0)},
		"a new session on the taker does without the lock: loop":  {takerUnlocked, loops, there(1, 0)},
		"a new session on the taker asks nobody any more":         {takerUnasked, streamBroken, there(2, 0)},
		"settle does not ask: stream":                             {settleBlind, streamBroken, back(1, 0)},
		"settle does not ask: loop":                               {settleBlind, loops, back(1, 0)},
		"a guardian takes any owner of a lock for its successor":  {givesUp, outage, there(1, 0)},
		"a command takes any owner of a lock for its successor":   {ownerTakesOver | looksOnce, outage, back(1, 0)},
		"settle asks too early, and goes on":                      {settleGoesOn, streamBroken, back(1, 0)},
		"a pause that arrives late is looked for once":            {looksOnce, outage, there(1, 0)},
		"the guardian does not know its own attempt again":        {raiseLost, outage, there(2, 0)},
		"the guardian is dismissed with traffic held back":        {dismissed, outage, there(1, 0)},
		"a pause that arrives late is left":                       {pauseLeft, outage, there(1, 0)},
		"the taker is opened before it took":                      {openFirst, withoutBaton, there(0, 0)},
		"nobody compares attempts":                                {noAttempt, streamBroken, there(2, 0)},
		"the guardian acts without the lock":                      {noLock, everywhere, there(1, 0)},
		"no session is evicted":                                   {noEvict, twoWritable, there(0, 1)},
		"the marker is not waited for":                            {noDrain, lostWrite, there(0, 1)},
		"the slot of the way back is made after the taker opened": {lateSlot, streamBroken, there(0, 1)},
		"the stream is left enabled":                              {streamLeft, loops, there(0, 0)},
		"the stream is left enabled, and applications write":      {streamLeft, doubled, there(0, 1)},
		"nobody completes what has passed":                        {onlyBack, noWayOut, there(1, 0)},
		"an unknown pass is undone":                               {undoUnknown, withoutBaton, there(1, 0)},
		"nothing makes durable what was applied":                  {noDurable, lostWrite, there(1, 1)},
		"a re-run sets the sequences again":                       {sequencesAgain, sequenceBack, there(1, 1)},
		"a woken command lets traffic go without asking":          {noQuestion, outdated, there(1, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && d.maxFaults > 1 {
				t.Skip("takes long: make test runs it")
			}
			m := d.model
			m.defects = d.defect
			f := m.search(d.breaks)
			if f.bad == 0 {
				t.Fatalf("nothing found in %d states: %s was expected", f.states, d.breaks)
			}
			t.Logf("%s, after %d states:\n%s", f.bad, f.states, strings.Join(f.trace, "\n"))
		})
	}
}

// TestModelHasThePhases binds the model to the code: its list of phases, and
// those that are taken back.
func TestModelHasThePhases(t *testing.T) {
	var phases, undone []string
	for _, st := range steps {
		if name, undo := strings.CutPrefix(st.phase, "undo "); undo && !slices.Contains(undone, name) {
			undone = append(undone, name)
		} else if !undo && st.phase != "" && !slices.Contains(phases, st.phase) {
			phases = append(phases, st.phase)
		}
	}
	if !slices.Equal(phases, handover.Phases()) {
		t.Errorf("the model has %q, the code %q", phases, handover.Phases())
	}
	slices.Reverse(undone)
	if code := handover.TakenBack(); !slices.Equal(undone, code) {
		t.Errorf("the model takes back %q, the code %q", undone, code)
	}
}

// TestModelPacksStates loses nothing on the way.
func TestModelPacksStates(t *testing.T) {
	m := searches["there and back, two faults"]
	s := initial(m.maxFaults)
	for range 200 { // far enough for every field to have had other values
		n := s
		if p := s.pack(); p.unpack() != n {
			t.Fatalf("%+v became %+v", n, p.unpack())
		}
		seen := 0
		m.next(&n, func(next *state, v event) {
			if seen++; seen == 1 || v.kind == fault && s.faults == m.maxFaults && s.proc[command].at > cEvict {
				s = *next
			}
		})
	}
}
